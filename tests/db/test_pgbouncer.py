"""The database through PgBouncer in transaction mode, where no session is anybody's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import text

from channels.ports import UnavailableError
from db import migrate
from db.advisory_lock import advisory_lock
from db.changelog import DatabaseChangeLog
from db.engine import Database, DatabaseConfig
from db.errors import PooledError
from db.head_reader import HeadReader
from db.occupancy import occupy
from db.user_crud import create_user
from db.zone_crud import create_zone
from tests.poolers import SESSIONS, PgBouncer, find_pgbouncer, running_pgbouncer
from tests.processes import Scratch
from tests.servers import PostgresServer

WRITERS = 24


@pytest.fixture
async def pooler(own_postgres: PostgresServer, scratch: Scratch) -> AsyncIterator[PgBouncer]:
    """A PgBouncer in front of a PostgreSQL of the test's own."""
    program = find_pgbouncer()
    if program is None:
        pytest.skip("requires PgBouncer: install pgbouncer")
    async with running_pgbouncer(program, scratch, own_postgres) as pooler:
        yield pooler


@asynccontextmanager
async def pooled(pooler: PgBouncer, server: PostgresServer) -> AsyncIterator[Database]:
    """Open the database through the pooler."""
    config = DatabaseConfig(
        pooler.url_of(), direct_url=server.url, pool_size=WRITERS, connect_timeout_s=2
    )
    database = Database(config)
    try:
        yield database
    finally:
        await database.close()


async def test_many_writers_share_few_sessions(
    pooler: PgBouncer, own_postgres: PostgresServer
) -> None:
    """Every write is logged once, and no statement of one meets another's session."""
    async with pooled(pooler, own_postgres) as database:
        await database.run_transaction(lambda db: create_zone(db, zone_id="A", name="A"))

        async def write(writer: int) -> None:
            for number in range(10):
                user = 1 + writer * 100 + number
                await database.run_transaction(
                    lambda db, user=user: create_user(  # type: ignore[misc] # A default is bound.
                        db, global_id=user, name=f"u{user}", zone_id="A"
                    )
                )

        async with asyncio.TaskGroup() as group:
            for writer in range(WRITERS):
                group.create_task(write(writer))
        log = DatabaseChangeLog(database, timeout_s=5)
        state = await log.read_state("zone:A")
        await log.close()
        assert state is not None
        assert len(state.users) == WRITERS * 10
        sessions = await own_postgres.value(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = 'zonecast'"
            " AND application_name = 'zonecast'"
        )
        assert 1 <= sessions <= SESSIONS


async def test_bounds_hold_in_each_transaction_and_stay_in_none(
    pooler: PgBouncer, own_postgres: PostgresServer
) -> None:
    """The settings of one client are not left behind in a session for the next."""
    config = DatabaseConfig(
        pooler.url_of(), direct_url=own_postgres.url, statement_timeout_s=0.2, lock_timeout_s=0.1
    )
    database = Database(config)
    try:
        with pytest.raises(UnavailableError):
            async with database.get_db() as session:
                await session.execute(text("SELECT pg_sleep(5)"))
        async with database.get_db() as session:
            shown = await session.scalar(text("SELECT current_setting('lock_timeout')"))
            assert shown == "100ms"
            prepared = await session.scalar(text("SELECT count(*) FROM pg_prepared_statements"))
            assert prepared == 0
        async with pooled(pooler, own_postgres) as other, other.get_db() as session:
            shown = await session.scalar(text("SELECT current_setting('statement_timeout')"))
            assert shown == "30s"
        async with database.snapshot() as connection:
            level = await connection.scalar(text("SHOW transaction_isolation"))
            assert level == "repeatable read"
    finally:
        await database.close()


async def test_identity_and_heads_are_those_of_the_server(
    pooler: PgBouncer, own_postgres: PostgresServer
) -> None:
    """Positions of writes, which go through the pooler, are those of head checks, which don't."""
    direct = Database(DatabaseConfig(own_postgres.url))
    async with pooled(pooler, own_postgres) as database:
        assert await database.identity() == await direct.identity()
        written = await database.run_transaction(lambda db: create_zone(db, zone_id="A", name="A"))
        reader = HeadReader(database, timeout_s=2)
        heads = await reader.read_heads(["zone:A", "zones"])
        await reader.close()
        assert heads["zones"] == written.positions["zones"]
    await direct.close()


async def test_a_restart_of_the_pooler_is_survived(
    pooler: PgBouncer, own_postgres: PostgresServer
) -> None:
    """Who writes meanwhile is told that it can't be asked; head checks don't notice at all."""
    async with pooled(pooler, own_postgres) as database:
        await database.run_transaction(lambda db: create_zone(db, zone_id="A", name="A"))
        reader = HeadReader(database, timeout_s=2)
        await pooler.kill()
        assert await reader.read_heads(["zone:A"])
        with pytest.raises(UnavailableError):
            await database.run_transaction(lambda db: create_zone(db, zone_id="B", name="B"))
        await pooler.start()
        await database.run_transaction(lambda db: create_zone(db, zone_id="C", name="C"))
        assert "zone:C" in await reader.read_heads(["zone:B", "zone:C"])
        await reader.close()


async def test_what_needs_a_session_refuses_a_pooler_in_words(pooler: PgBouncer) -> None:
    """A lock taken through it would be whoever's comes next, and guard nothing."""
    for attempt in (
        advisory_lock(pooler.url_of(), 1),
        occupy(pooler.url_of(), shares_bus=True),
    ):
        with pytest.raises(PooledError, match="ZONECAST_DATABASE_DIRECT_URL"):
            async with attempt:
                pass
    with pytest.raises(PooledError, match="ZONECAST_DATABASE_DIRECT_URL"):
        await migrate.upgrade(pooler.url_of())


async def test_the_server_itself_is_no_pooler(own_postgres: PostgresServer) -> None:
    """It tells its session's true number."""
    async with advisory_lock(own_postgres.url, 1) as got:
        assert got
