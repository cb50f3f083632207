"""Settings: every bound and address of the service, read from `ZONECAST_*` variables."""

from __future__ import annotations

from ipaddress import ip_network
from itertools import chain
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from realtime.auth_settings import AuthSettings
from realtime.limit_settings import LimitSettings
from realtime.loopback import is_loopback
from realtime.otel_settings import OtelSettings
from realtime.presence_settings import PresenceSettings
from realtime.secret_files import SecretFileError, SecretFiles
from realtime.setting_bounds import Count, Positive
from realtime.store_settings import StoreSettings

PREFIX = "ZONECAST_"


class SettingsError(Exception):
    """A setting that can't be used; the message names it and is one line."""


class Settings(AuthSettings, StoreSettings, LimitSettings, PresenceSettings, OtelSettings):
    """The configuration of a node. Names carry their unit; each is a bound that is tested."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="ignore", frozen=True, use_attribute_docstrings=True
    )

    # Where to listen.
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=8000, ge=0, le=65_535)
    """Port to listen on; 0 picks a free one."""
    workers: int = Field(default=1, ge=1, le=64)
    """Serving processes; more than one needs PostgreSQL and Redis."""
    worker_silence_max_s: Positive = 30
    """A worker process silent for so long is replaced; new ones have four times as long."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level that is logged."""
    log_format: Literal["auto", "json", "console"] = "auto"
    """`auto` is `console` on a terminal, else `json`."""
    node_name: str = Field(default="", max_length=64)
    """Begins the node's id, which clients and logs show."""
    listen_backlog: Count = 4_096
    """Connections that may wait to be accepted."""

    trusted_proxies: str = ""
    """Addresses and networks, with commas, whose X-Forwarded-For and X-Forwarded-Proto count."""

    # Synchronisation.
    resume_max_changes: Count = 300
    """Changes remembered per channel; who is farther behind gets the state anew."""
    gap_wait_s: Positive = 0.05
    """How long a change waits for its elder before the log is read."""
    head_check_interval_s: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Pause between comparisons of all followed channels with the database."""
    stale_after_s: Positive = 2
    """Heads unverified for this long make the picture `stale`."""
    follow_linger_s: float = Field(default=5, ge=0, le=3_600)
    """How long a channel is followed after its last watcher left."""
    atomic_wait_s: Positive = 2
    """How long a connection waits for the rest of a transaction before it resumes by channel."""
    min_position_wait_s: Positive = 2
    """Longest wait for `min=` before the database itself is asked."""
    snapshot_max_bytes: int = Field(default=16_777_216, ge=1, le=1_073_741_824)
    """Larger snapshots are refused (error 106, HTTP 413); larger resumes become snapshots."""

    # Retention of the change log.
    retention_max_changes: Count = 10_000
    """Changes kept of each channel, or a tenth more; at least `ZONECAST_RESUME_MAX_CHANGES`."""
    retention_max_age_s: Annotated[float, Field(gt=0, le=315_360_000)] = 604_800
    """Age beyond which no change is kept, or a tenth more, however few there are."""
    retention_interval_s: float = Field(default=60, ge=0, le=86_400)
    """Pause between passes that delete what is kept no longer; 0: this node never does."""
    retention_batch_changes: Count = 500
    """Changes deleted in one transaction, which holds up the channel's writers meanwhile."""

    # Connections.
    max_connections: Count = 20_000
    """WebSocket and SSE connections of a node; fewer where file descriptors don't suffice."""
    max_subscriptions_per_connection: Count = 1_024
    """Channels on one connection."""
    max_message_bytes: Count = 262_144
    """Largest WebSocket message of a client."""
    max_commands_per_message: Count = 2_048
    """Commands in one message."""
    waiting_max_concurrent: Count = 16
    """Subscribes with `min` that wait at once on one connection; the others queue up."""
    connect_timeout_s: Positive = 10
    """A connection that has not sent a request, or over WebSocket `connect`, by then is cut."""
    ping_interval_s: Positive = 25
    """Pause between pings."""
    pong_timeout_s: Positive = 8
    """A ping unanswered for this long ends the connection."""
    fan_out_window_s: float = Field(default=0.025, ge=0, le=1)
    """Time in which changes for a large crowd are joined; more above 2,000 watchers; 0: off."""
    fan_out_storm_window_s: float = Field(default=0.5, ge=0, le=1)
    """The longest such time while many clients come at once, who have the core first."""
    fan_out_piece_max_writes: Count = 1_000
    """Writes of one pass over a crowd after which others have the loop, or 5 ms if that is less."""
    slow_buffer_max_bytes: Count = 1_048_576
    """Unsent bytes of a connection beyond which nothing more is queued for it."""
    slow_drain_timeout_s: Positive = 30
    """A connection that has not drained by then is cut."""
    history_max_changes: Count = 300
    """Changes in one page of changes or `history` reply; of those, what fits the slow buffer."""

    # Server-sent events.
    sse_max_zones: int = Field(default=64, ge=1, le=64)
    """Zones on one event stream."""
    sse_keepalive_interval_s: Positive = 15
    """Pause between keep-alive comments."""
    sse_retry_ms: Count = 2_000
    """Reconnection pause told to `EventSource`."""

    # HTTP.
    max_body_bytes: Count = 1_048_576
    """Largest request body; then 413."""
    request_timeout_s: Positive = 30
    """Longest work on a request; then 503."""
    long_poll_max_s: Positive = 30
    """Longest `wait_s` of a page of changes."""
    keep_alive_timeout_s: Positive = 75
    """Idle HTTP connections are closed after this."""
    drain_delay_s: float = Field(default=0, ge=0, le=3_600)
    """How long a node that stops is not ready yet serves on, for load balancers to notice."""
    drain_connections_per_s: Count = 500
    """Clients a stopping node sends away in a second; more, to be done at half of its timeout."""
    shutdown_timeout_s: Positive = 10
    """Longest wait for clients to leave when the node stops."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read what is given, then the environment, then the files that it names."""
        given = set(init_settings())
        return init_settings, env_settings, SecretFiles(settings_cls, given)

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies_are_addresses(cls, value: str) -> str:
        for item in filter(None, (part.strip() for part in value.split(","))):
            try:
                ip_network(item)
            except ValueError:
                msg = "must be addresses or networks like 10.0.0.1 or 10.0.0.0/24, with commas"
                raise ValueError(msg) from None
        return value

    @model_validator(mode="after")
    def _several_need_a_bus(self) -> Settings:
        if self.workers > 1 and self.redis_url is None:
            msg = (
                "ZONECAST_WORKERS above 1 needs ZONECAST_REDIS_URL: "
                "without a bus the workers would not hear of each other's changes"
            )
            raise ValueError(msg)
        if self.workers > 1 and self.embedded:
            msg = "ZONECAST_WORKERS above 1 needs PostgreSQL in ZONECAST_DATABASE_URL"
            raise ValueError(msg)
        if self.database_direct_url is not None and self.embedded:
            msg = "ZONECAST_DATABASE_DIRECT_URL needs PostgreSQL in ZONECAST_DATABASE_URL"
            raise ValueError(msg)
        if self.redis_url is not None and self.embedded:
            msg = (
                "ZONECAST_REDIS_URL needs PostgreSQL in ZONECAST_DATABASE_URL: "
                "several nodes cannot share one SQLite file"
            )
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _retention_lets_resume(self) -> Settings:
        if self.retention_max_changes < self.resume_max_changes:
            msg = (
                "ZONECAST_RETENTION_MAX_CHANGES must not be below ZONECAST_RESUME_MAX_CHANGES: "
                "who may resume needs the changes"
            )
            raise ValueError(msg)
        return self

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        return is_loopback(self.host)


def load_settings(**given: object) -> Settings:
    """Read the environment; `given` values go before it, `None` ones are left out.

    Raises:
        SettingsError: a value can't be used. The message names it, without the value.
    """
    try:
        return Settings(**{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]
    except SecretFileError as error:
        raise SettingsError(str(error)) from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        name = PREFIX + str(first["loc"][0]).upper() + ": " if first["loc"] else ""
        raise SettingsError(name + str(first["msg"]).removeprefix("Value error, ")) from None


def settings_table() -> str:
    """Write all settings with their defaults and meanings as a Markdown table."""
    rows = ["| variable | default | meaning |", "| --- | --- | --- |"]
    # What stands here first, then the parts.
    parts = (Settings, AuthSettings, StoreSettings, LimitSettings, PresenceSettings, OtelSettings)
    names = chain.from_iterable(part.__annotations__ for part in parts)
    for name in (name for name in names if name in Settings.model_fields):
        field = Settings.model_fields[name]
        default = field.default
        if isinstance(default, SecretStr):
            default = default.get_secret_value()
        shown = "none" if default is None else "empty" if default == "" else f"`{default}`"
        rows.append(f"| `{PREFIX}{name.upper()}` | {shown} | {field.description} |")
    return "\n".join(rows) + "\n"
