"""Engines: how SQLAlchemy reaches each of the two databases, with everything that listens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import URL, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from db import postgres, sqlite
from db.capture import listen_on_engine
from db.dialect import quick_dialect, try_when_idle
from db.journal import OUTLET_OPTION, Outlet
from db.translation import notice_lost, notice_read_only, translate_in_driver

if TYPE_CHECKING:
    from db.engine import DatabaseConfig


def _engine(url: URL, config: DatabaseConfig, outlet: Outlet, **options: Any) -> AsyncEngine:
    engine = create_async_engine(
        url,
        execution_options={OUTLET_OPTION: outlet},
        json_serializer=lambda value: msgspec.json.encode(value).decode(),
        json_deserializer=msgspec.json.decode,
        pool_timeout=config.pool_timeout_s,
        **options,
    )
    event.listen(engine.sync_engine, "handle_error", translate_in_driver)
    listen_on_engine(engine.sync_engine)
    return engine


def postgres_engine(
    url: URL, given: dict[str, Any], config: DatabaseConfig, outlet: Outlet
) -> AsyncEngine:
    """Make the engine of a PostgreSQL server or pooler; `given` goes to the driver."""
    pooled = bool(config.direct_url)
    engine = _engine(
        quick_dialect(postgres.nameless(url) if pooled else url),
        config,
        outlet,
        pool_size=config.pool_size,
        max_overflow=config.max_overflow,
        pool_recycle=config.pool_recycle_s,
        connect_args={
            "timeout": config.connect_timeout_s,
            # For a server that doesn't answer at all; one that does stops earlier.
            "command_timeout": config.statement_timeout_s + 2,
            **given,
        },
        # The server's default is a session's own setting elsewhere.
        **({"isolation_level": "READ COMMITTED"} if pooled else {}),
    )
    set_up = postgres.set_up_transactions if pooled else postgres.set_up_sessions
    set_up(
        engine.sync_engine,
        statement_timeout_s=config.statement_timeout_s,
        lock_timeout_s=config.lock_timeout_s,
    )
    if config.pool_pre_ping:
        try_when_idle(engine)
    event.listen(engine.sync_engine, "handle_error", notice_read_only)
    event.listen(engine.sync_engine, "handle_error", notice_lost)
    return engine


def sqlite_engines(
    url: URL, config: DatabaseConfig, outlet: Outlet
) -> tuple[AsyncEngine, AsyncEngine]:
    """Make the engine of a SQLite file's writer and that of its readers; in memory they are one."""
    busy_timeout_ms = config.busy_timeout_ms
    # One writer: more would only wait for each other in the database.
    writer = _engine(
        url, config, outlet, poolclass=AsyncAdaptedQueuePool, pool_size=1, max_overflow=0
    )
    sqlite.set_up(writer.sync_engine, read_only=False, busy_timeout_ms=busy_timeout_ms)
    if sqlite.is_in_memory(url):
        # The database is its connection, and a connection has one transaction at a time.
        return writer, writer
    reader = _engine(
        url, config, outlet, pool_size=config.pool_size, max_overflow=config.max_overflow
    )
    sqlite.set_up(reader.sync_engine, read_only=True, busy_timeout_ms=busy_timeout_ms)
    return writer, reader
