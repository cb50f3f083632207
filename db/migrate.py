"""Migrations: bring a database to the tables that this release needs."""

from __future__ import annotations

import asyncio
import logging
from functools import cache
from importlib.resources import files
from typing import Any, Final

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from channels.ports import UnavailableError
from db import sqlite
from db.address import connecting, refuse_pooler
from db.models import Base
from db.translation import driver_errors

_LOCK_KEY: Final = 0x5A6F_6E65_6361_7374
"""The advisory lock that only one migrating node holds: "Zonecast" in ASCII."""

LOCK_TIMEOUT_S: Final = 60
"""How long a node waits while another one migrates."""
CONNECT_TIMEOUT_S: Final = 10
"""How long a server may take to answer at all."""

_log = logging.getLogger(__name__)


@cache
def _scripts() -> ScriptDirectory:
    """Read the installed migrations; they don't change while the process runs."""
    config = Config()
    config.set_main_option("script_location", str(files("migrations")).replace("%", "%%"))
    scripts = ScriptDirectory.from_config(config)
    # Reads and compiles every script now, in the thread that may block.
    scripts.get_current_head()
    return scripts


def _environment(
    connection: Connection, scripts: ScriptDirectory, **options: Any
) -> EnvironmentContext:
    environment = EnvironmentContext(Config(), scripts, **options)
    environment.configure(
        connection=connection, target_metadata=Base.metadata, render_as_batch=True
    )
    return environment


def _migrate(connection: Connection, scripts: ScriptDirectory) -> None:
    def steps(revision: Any, _context: MigrationContext) -> Any:
        return scripts._upgrade_revs("head", revision)  # noqa: SLF001 - as alembic.command does

    with _environment(connection, scripts, fn=steps, destination_rev="head") as environment:
        environment.run_migrations()


def _engine(url: str) -> AsyncEngine:
    # Both drivers know it: of asyncpg it bounds connecting, which a server that hangs would
    # make last for ever, and of SQLite the wait for a lock.
    address, options = connecting(url)
    engine = create_async_engine(
        address, poolclass=NullPool, connect_args={"timeout": CONNECT_TIMEOUT_S, **options}
    )
    if engine.dialect.name == "sqlite":
        sqlite.set_up(
            engine.sync_engine,
            read_only=False,
            busy_timeout_ms=LOCK_TIMEOUT_S * 1000,
            uses_wal=False,
        )
    return engine


async def upgrade(url: str) -> None:
    """Migrate a database to this release, in one transaction.

    Several nodes may do so at once: one migrates, the others wait for it, at most
    `LOCK_TIMEOUT_S`. Cancelled, it leaves the database as it was.

    Args:
        url: A SQLAlchemy async URL.

    Raises:
        PooledError: a pooler answers in the server's place.
        UnavailableError: the database can't be asked, or the wait took too long.
    """
    if sqlite.is_in_memory(make_url(url)):
        raise UnavailableError("database", "an in-memory database can't be migrated by its URL")
    scripts = await asyncio.to_thread(_scripts)
    engine = await asyncio.to_thread(_engine, url)
    try:
        with driver_errors():
            # On SQLite the transaction itself is the lock: it begins IMMEDIATE.
            async with engine.begin() as connection:
                if engine.dialect.name == "postgresql":
                    await refuse_pooler(connection)
                    await connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'"))
                    await connection.execute(
                        text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY}
                    )
                await connection.run_sync(_migrate, scripts)
            if engine.dialect.name == "sqlite":
                await sqlite.switch_to_wal(engine, LOCK_TIMEOUT_S)
    finally:
        await engine.dispose()
    _log.info("database migrated", extra={"revision": scripts.get_current_head()})


async def head_revision() -> str:
    """Return the revision that this release needs."""
    scripts = await asyncio.to_thread(_scripts)
    head = scripts.get_current_head()
    assert head is not None  # noqa: S101 - a release without migrations is not a release
    return head


async def read_revision(engine: AsyncEngine) -> str | None:
    """Return the revision of the tables behind `engine`, `None` when they were never migrated.

    Raises:
        UnavailableError: the database can't be asked.
    """

    def read(connection: Connection) -> str | None:
        return MigrationContext.configure(connection).get_current_revision()

    with driver_errors():
        async with engine.connect() as connection:
            return await connection.run_sync(read)


async def current_revision(url: str) -> str | None:
    """Return the revision of the tables at `url`, `None` when they were never migrated.

    Raises:
        UnavailableError: the database can't be asked.
    """
    engine = await asyncio.to_thread(_engine, url)
    try:
        return await read_revision(engine)
    finally:
        await engine.dispose()
