"""Settings: every bound and address of the service, read from `ZONECAST_*` variables."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

PREFIX = "ZONECAST_"

Positive = Annotated[float, Field(gt=0, le=86_400)]
Count = Annotated[int, Field(ge=1, le=10_000_000)]


class SettingsError(Exception):
    """A setting that can't be used; the message names it and is one line."""


class Settings(BaseSettings):
    """The configuration of a node. Names carry their unit; each is a bound that is tested."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    # Where to listen.
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65_535)
    workers: int = Field(default=1, ge=1, le=64)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "console"] = "auto"
    node_name: str = Field(default="", max_length=64)
    listen_backlog: Count = 4_096

    # The truth.
    database_url: SecretStr = SecretStr("sqlite+aiosqlite:///zonecast.db")
    pool_size: Count = 20
    max_overflow: int = Field(default=10, ge=0, le=10_000)
    pool_recycle_s: Positive = 3_600
    pool_timeout_s: Positive = 5
    pool_pre_ping: bool = True
    statement_timeout_s: Positive = 10
    transaction_max_tries: int = Field(default=8, ge=1, le=100)

    # The fast path and the cache.
    redis_url: SecretStr | None = None
    redis_prefix: str = Field(default="zonecast", pattern=r"^[A-Za-z0-9._-]{1,64}$")
    redis_timeout_s: Positive = 1
    bus_confirm_s: Positive = 0.25
    bus_heartbeat_interval_s: Positive = 1
    bus_deaf_after_s: Positive = 3
    bus_message_max_bytes: Count = 65_536
    outbox_max_transactions: Count = 10_000
    users_dict_ttl_s: Positive = 300

    # Synchronisation.
    resume_max_changes: Count = 300
    gap_wait_s: Positive = 0.05
    head_check_interval_s: Annotated[float, Field(gt=0, le=1)] = 0.5
    stale_after_s: Positive = 2
    follow_linger_s: float = Field(default=5, ge=0, le=3_600)
    atomic_wait_s: Positive = 2
    min_position_wait_s: Positive = 2
    snapshot_max_bytes: Count = 16_777_216

    # Connections.
    max_connections: Count = 20_000
    max_subscriptions_per_connection: Count = 1_024
    max_message_bytes: Count = 65_536
    max_commands_per_message: Count = 1_024
    connect_timeout_s: Positive = 10
    ping_interval_s: Positive = 25
    pong_timeout_s: Positive = 8
    slow_buffer_max_bytes: Count = 1_048_576
    slow_drain_timeout_s: Positive = 30
    history_max_changes: Count = 300

    # Server-sent events.
    sse_max_zones: int = Field(default=64, ge=1, le=64)
    sse_keepalive_interval_s: Positive = 15
    sse_retry_ms: Count = 2_000

    # HTTP.
    max_body_bytes: Count = 1_048_576
    request_timeout_s: Positive = 30
    long_poll_max_s: Positive = 30
    keep_alive_timeout_s: Positive = 75
    shutdown_timeout_s: Positive = 10

    @field_validator("database_url")
    @classmethod
    def _database_is_served(cls, value: SecretStr) -> SecretStr:
        try:
            driver = make_url(value.get_secret_value()).drivername
        except ArgumentError:
            driver = ""
        if driver not in {"sqlite+aiosqlite", "postgresql+asyncpg"}:
            msg = "must begin with sqlite+aiosqlite:// or postgresql+asyncpg://"
            raise ValueError(msg)
        return value

    @field_validator("redis_url")
    @classmethod
    def _redis_is_served(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None or not value.get_secret_value():
            return None
        if not value.get_secret_value().startswith(("redis://", "rediss://", "unix://")):
            msg = "must begin with redis://, rediss:// or unix://"
            raise ValueError(msg)
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
        if self.redis_url is not None and self.embedded:
            msg = (
                "ZONECAST_REDIS_URL needs PostgreSQL in ZONECAST_DATABASE_URL: "
                "several nodes cannot share one SQLite file"
            )
            raise ValueError(msg)
        return self

    @property
    def embedded(self) -> bool:
        """Whether the database is SQLite, served by this process alone."""
        return self.database_url.get_secret_value().startswith("sqlite")

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def load_settings(**given: object) -> Settings:
    """Read the environment; `given` values go before it, `None` ones are left out.

    Raises:
        SettingsError: a value can't be used. The message names it, without the value.
    """
    try:
        return Settings(**{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        name = PREFIX + str(first["loc"][0]).upper() + ": " if first["loc"] else ""
        raise SettingsError(name + str(first["msg"]).removeprefix("Value error, ")) from None
