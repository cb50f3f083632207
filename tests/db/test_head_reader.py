"""Heads are read whatever else happens to the database's connections."""

from __future__ import annotations

import asyncio
import contextlib
import itertools

import pytest
from sqlalchemy import text

from channels.ports import UnavailableError
from db.changelog import DatabaseChangeLog
from db.engine import Database, DatabaseConfig
from db.models import User
from tests.db.interruption import run_cancelled_at


async def test_reserved_connection_is_replaced_when_it_breaks(
    postgres_database: Database, postgres_ada: int
) -> None:
    """Heads are read again after the server has thrown the reader out."""
    log = DatabaseChangeLog(postgres_database)
    before = await log.read_heads(["zone:A"])
    async with postgres_database.engine.begin() as connection:
        killed = await connection.execute(
            text(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE application_name = 'zonecast heads' AND datname = current_database()"
            )
        )
        assert killed.scalars().all() == [True]
    # Whether the loss is known when it is asked, or found out by asking, is not ours to say.
    with contextlib.suppress(UnavailableError):
        await log.read_heads(["zone:A"])
    assert await log.read_heads(["zone:A"]) == before
    await log.close()


async def test_heads_are_read_while_the_pool_is_exhausted(postgres_url: str) -> None:
    """Writers that hold every connection don't delay noticing what they write."""
    database = Database(DatabaseConfig(postgres_url, pool_size=1, max_overflow=0))
    log = DatabaseChangeLog(database, timeout_s=2)
    async with database.get_db():
        assert (await log.read_heads(["zones"]))["zones"].rev == 0
        assert (await log.read_stamp()).heads == 3
        with pytest.raises(UnavailableError):
            await log.read_state("zones")
    await log.close()
    await database.close()


async def test_reading_heads_is_cancel_safe(database: Database, ada: User) -> None:
    """Cancelled at any of its awaits, the next question is answered."""
    log = DatabaseChangeLog(database)
    expected = await log.read_heads(["zone:A"])
    for read in (lambda: log.read_heads(["zone:A"]), lambda: log.read_state("zone:A")):
        for index in itertools.count():
            cancelled = await run_cancelled_at(read(), index)
            assert await log.read_heads(["zone:A"]) == expected
            if not cancelled:
                break
    await log.close()


async def test_silent_database_is_unavailable_in_time(
    postgres_database: Database, postgres_ada: int
) -> None:
    """A question that waits for a lock ends with its bound."""
    log = DatabaseChangeLog(postgres_database, timeout_s=0.2)
    async with postgres_database.engine.begin() as holder:
        await holder.execute(text("LOCK TABLE channel_heads IN ACCESS EXCLUSIVE MODE"))
        for read in (
            log.read_state("zone:A"),
            log.read_changes("zone:A", 0, 1),
            log.read_heads(["zone:A"]),
            log.read_stamp(),
        ):
            async with asyncio.timeout(5):
                with pytest.raises(UnavailableError, match="database"):
                    await read
    assert (await log.read_heads(["zone:A"]))["zone:A"].rev == 1
    await log.close()
