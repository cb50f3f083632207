"""Settings: every bound and address of the service, read from `ZONECAST_*` variables."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import parse_qs, urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from cache.client import RedisConfig
from cache.redis_url import SCHEMES
from db.address import TLS_FILES, connecting
from realtime.auth.keys import UnusableKeyError, secret_key
from realtime.auth.origins import InvalidOriginError, Origins
from realtime.limit_settings import LimitSettings
from realtime.secret_files import SecretFileError, SecretFiles

PREFIX = "ZONECAST_"

DATABASE_OPTIONS: Final = frozenset(
    {
        "gsslib",
        "host",
        "krbsrvname",
        "passfile",
        "port",
        "prepared_statement_cache_size",
        "ssl",
        *TLS_FILES,
        "target_session_attrs",
    }
)
"""What may stand behind the `?` of a PostgreSQL URL: asyncpg's that take text, and TLS files."""

Positive = Annotated[float, Field(gt=0, le=86_400)]
Count = Annotated[int, Field(ge=1, le=10_000_000)]


class SettingsError(Exception):
    """A setting that can't be used; the message names it and is one line."""


class Settings(LimitSettings):
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
    # Who may do what.
    jwt_secret: SecretStr | None = None
    """Secret of HS256 tokens, 32 bytes or more. Any key set means: no entry without a token."""
    jwt_public_key_file: str = ""
    """PEM file of public keys or certificates for RS256, ES256 (P-256) or EdDSA (Ed25519)."""
    jwks_url: str = ""
    """Where public keys are published as a JWK set; `https://`, or `http://` on loopback."""
    jwt_audience: str = Field(default="", max_length=255)
    """The `aud` that tokens must have; empty: they must have none."""
    jwt_issuer: str = Field(default="", max_length=255)
    """The `iss` that tokens must have; empty: any."""
    jwt_leeway_s: float = Field(default=5, ge=0, le=300)
    """How far the clocks of issuers and nodes may be apart."""
    token_max_bytes: int = Field(default=8_192, ge=256, le=65_536)
    """Largest token."""
    token_max_life_s: Annotated[float, Field(gt=0, le=315_360_000)] = 2_592_000
    """Longest life of a token, `iat` to `exp`; revocations are kept for so long."""
    token_grace_s: float = Field(default=25, ge=0, le=3_600)
    """How long a WebSocket connection, or a subscription, outlives its token, to be refreshed."""
    token_in_query: bool = False
    """Accept a token in the URL, as `access_token`: URLs end up in logs of proxies."""
    jwks_refresh_s: Positive = 300
    """Pause between fetches of the JWK set."""
    jwks_refetch_min_s: Positive = 10
    """Least time between fetches because of a token with an unknown key."""
    jwks_max_age_s: Annotated[float, Field(gt=0, le=2_592_000)] = 86_400
    """How long keys are good after the last successful fetch, while the URL is down."""
    jwks_timeout_s: Positive = 5
    """Longest wait for the JWK set."""
    jwks_max_bytes: Count = 262_144
    """Largest JWK set."""
    allowed_origins: str = ""
    """Origins whose pages may use the service, parted by commas; `*`: all, without cookies; \
empty: only its own."""
    session_cookie_secure: bool = True
    """Whether the session's cookie is for HTTPS only; browsers also take it on localhost."""
    ticket_life_s: Annotated[float, Field(gt=0, le=600)] = 30
    """How long a ticket of `POST /tickets` is good."""
    tickets_max: Count = 10_000
    """Tickets that may be unused at a time, over all nodes; then 503."""
    revocations_max: Count = 100_000
    """Revocations that may be in force, over all nodes; then 503."""
    revocations_unverified_max_s: Annotated[float, Field(gt=0, le=2_592_000)] = 60
    """How long a node that can't ask the database lets in by the revocations that it knows."""
    metrics_public: bool = False
    """Whether `/metrics` needs no token where other paths do; else scope `admin`."""
    insecure: bool = False
    """Start on an address that others can reach although no key is set."""

    # The truth.
    database_url: SecretStr = SecretStr("sqlite+aiosqlite:///zonecast.db")
    """SQLAlchemy async URL of the truth: `sqlite+aiosqlite://` or `postgresql+asyncpg://`."""
    database_direct_url: SecretStr | None = None
    """The same database's own address where `ZONECAST_DATABASE_URL` is a pooler's (PgBouncer, in \
transaction mode): for locks, migrations and head checks."""
    pool_size: Count = 20
    """Database connections kept open."""
    max_overflow: int = Field(default=10, ge=0, le=10_000)
    """Database connections opened beyond the pool under load."""
    pool_recycle_s: Positive = 3_600
    """Age at which a pooled connection is replaced."""
    pool_timeout_s: Positive = 5
    """Longest wait for a free connection; then 503."""
    pool_pre_ping: bool = True
    """Try a pooled connection that was idle for a second before it is used; BEGIN tries others."""
    statement_timeout_s: Positive = 10
    """Longest run of one statement."""
    lock_timeout_s: Positive = 5
    """Longest wait for rows that another transaction holds; then 503."""
    transaction_max_tries: int = Field(default=8, ge=1, le=100)
    """Tries of a write that loses a race, a deadlock included; then 409."""

    # The fast path and the cache.
    redis_url: SecretStr | None = None
    """Bus and cache between nodes: `redis://host:6379/0`, `rediss://`, `unix://`, by Sentinel \
`redis+sentinel://host:26379,host2:26379/master_name/0`, a cluster \
`redis+cluster://host:6379,host2:6379`; none: one process alone."""
    redis_prefix: str = Field(default="zonecast", pattern=r"^[A-Za-z0-9._-]{1,64}$")
    """Begins every Redis key and channel; nodes of one service share it."""
    redis_timeout_s: Positive = 1
    """Longest wait for Redis."""
    bus_confirm_s: Positive = 0.25
    """Longest wait of a first watcher for the bus to confirm."""
    bus_heartbeat_interval_s: Positive = 1
    """How often a node publishes to itself."""
    bus_deaf_after_s: Positive = 3
    """Silence of the own heartbeat after which the bus counts as deaf."""
    bus_message_max_bytes: Count = 65_536
    """Larger changes travel as a position and are read from the log."""
    outbox_max_transactions: Count = 10_000
    """Committed transactions that may wait for the bus; beyond, head checks bring them."""
    users_dict_ttl_s: Positive = 300
    """Life of the cached users dict."""

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

    @field_validator("jwt_secret")
    @classmethod
    def _empty_is_none(cls, value: SecretStr | None) -> SecretStr | None:
        return value if value is not None and value.get_secret_value() else None

    @field_validator("allowed_origins")
    @classmethod
    def _origins_are_origins(cls, value: str) -> str:
        try:
            Origins(_words(value))
        except InvalidOriginError as error:
            raise ValueError(str(error)) from None
        return value

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

    @field_validator("database_url")
    @classmethod
    def _database_is_served(cls, value: SecretStr) -> SecretStr:
        try:
            url = make_url(value.get_secret_value())
        except ArgumentError:
            url = URL.create("none")
        except ValueError:
            # Its words quote a part of the URL.
            msg = "cannot be read: its port is no number"
            raise ValueError(msg) from None
        if url.drivername not in {"sqlite+aiosqlite", "postgresql+asyncpg"}:
            msg = "must begin with sqlite+aiosqlite:// or postgresql+asyncpg://"
            raise ValueError(msg)
        if url.drivername == "postgresql+asyncpg":
            _check_options(url)
        return value

    @field_validator("database_direct_url")
    @classmethod
    def _direct_is_postgres(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None or not value.get_secret_value():
            return None
        value = cls._database_is_served(value)
        if value.get_secret_value().startswith("sqlite"):
            msg = "must begin with postgresql+asyncpg://"
            raise ValueError(msg)
        return value

    @field_validator("redis_url")
    @classmethod
    def _redis_is_served(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None or not value.get_secret_value():
            return None
        if value.get_secret_value().partition("://")[0] not in SCHEMES:
            msg = "must begin with redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://"
            raise ValueError(msg)
        RedisConfig(value.get_secret_value())
        query = parse_qs(value.get_secret_value().partition("?")[2])
        for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
            if name in query and not Path(query[name][0]).is_file():
                msg = f"has an option {name} that names no file"
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

    @model_validator(mode="after")
    def _secret_is_long(self) -> Settings:
        if self.jwt_secret is not None:
            try:
                secret_key(self.jwt_secret.get_secret_value().encode())
            except UnusableKeyError as error:
                # Not `NAME: reason`, of which the mask of secrets would take the reason.
                msg = f"ZONECAST_JWT_SECRET {error}"
                raise ValueError(msg) from None
        return self

    @model_validator(mode="after")
    def _keys_come_safely(self) -> Settings:
        if not self.jwks_url:
            return self
        url = urlsplit(self.jwks_url)
        if url.scheme not in {"http", "https"} or not url.hostname or url.username:
            msg = "ZONECAST_JWKS_URL must be an https:// URL without a user"
            raise ValueError(msg)
        if url.scheme == "http" and not (_is_loopback(url.hostname) or self.insecure):
            msg = (
                "ZONECAST_JWKS_URL must begin with https://: on the way, others could put "
                "their keys in the place of yours"
            )
            raise ValueError(msg)
        return self

    @property
    def auth_on(self) -> bool:
        """Whether a key is set, so that nobody gets in without a token."""
        return bool(self.jwt_secret or self.jwt_public_key_file or self.jwks_url)

    @property
    def session_cookie(self) -> str:
        """The name of the session's cookie; with the prefix, no other host can set it."""
        return "__Host-zonecast" if self.session_cookie_secure else "zonecast"

    @property
    def origins(self) -> Origins:
        """Which pages may talk to the service."""
        return Origins(_words(self.allowed_origins))

    @property
    def own_database_url(self) -> str:
        """The database's own address, past any pooler."""
        return (self.database_direct_url or self.database_url).get_secret_value()

    @property
    def embedded(self) -> bool:
        """Whether the database is SQLite, served by this process alone."""
        return self.database_url.get_secret_value().startswith("sqlite")

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        return _is_loopback(self.host)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _words(text: str) -> list[str]:
    return [word for word in (part.strip() for part in text.split(",")) if word]


def _check_options(url: URL) -> None:
    """Refuse what stands behind the `?` of a URL and would fail at the first connection."""
    if url.query.keys() - DATABASE_OPTIONS:
        msg = f"may have only these options: {', '.join(sorted(DATABASE_OPTIONS))}"
        raise ValueError(msg)
    try:
        url.get_dialect()().create_connect_args(url)
    except (ArgumentError, ValueError):
        msg = "has an option whose value cannot be read"
        raise ValueError(msg) from None
    # Its words quote nothing of the URL.
    connecting(url)


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
    inherited = LimitSettings.model_fields
    fields = sorted(Settings.model_fields.items(), key=lambda item: item[0] in inherited)
    for name, field in fields:
        default = field.default
        if isinstance(default, SecretStr):
            default = default.get_secret_value()
        shown = "none" if default is None else "empty" if default == "" else f"`{default}`"
        rows.append(f"| `{PREFIX}{name.upper()}` | {shown} | {field.description} |")
    return "\n".join(rows) + "\n"
