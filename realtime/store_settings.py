"""Settings of the truth and of the fast path: database, Redis, bus and cache."""

from __future__ import annotations

from pathlib import Path
from typing import Final
from urllib.parse import parse_qs

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from cache.client import RedisConfig
from cache.redis_url import SCHEMES
from db.address import TLS_FILES, connecting
from realtime.setting_bounds import Count, Positive

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


class StoreSettings(BaseSettings):
    """The part of the configuration of a node that says where its stores are."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)

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

    @property
    def own_database_url(self) -> str:
        """The database's own address, past any pooler."""
        return (self.database_direct_url or self.database_url).get_secret_value()

    @property
    def embedded(self) -> bool:
        """Whether the database is SQLite, served by this process alone."""
        return self.database_url.get_secret_value().startswith("sqlite")


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
