"""Heads under contention: locked in one order, whichever way users go."""

from __future__ import annotations

import asyncio
import random
from functools import partial

from sqlalchemy import text

from db import user_crud
from db.engine import Database, DatabaseConfig
from db.models import Zone
from db.user_crud import NewUser, Transfer
from tests.db.replay import assert_log_makes_tables

WRITERS = 8
WRITES = 12
ZONES = tuple("ABCDEF")
USERS_PER_WRITER = 6

NOTICE_DEADLOCKS_SOON = text(
    """DO $$ BEGIN
        EXECUTE format('ALTER DATABASE %I SET deadlock_timeout = 50', current_database());
    END $$"""
)


async def test_writers_of_the_same_channels_never_deadlock(postgres_url: str) -> None:
    """With users of their own, writers meet at the heads only: each comes through in one try."""
    database = Database(DatabaseConfig(postgres_url, max_tries=1))
    async with database.engine.begin() as connection:
        await connection.execute(NOTICE_DEADLOCKS_SOON)
    await database.engine.dispose()  # It holds for new connections.
    async with database.get_db() as db:
        db.add_all([Zone(zone_id=zone_id, name="z") for zone_id in ZONES])
        await db.flush()
        rows = [NewUser(n, "u", ZONES[n % len(ZONES)]) for n in range(WRITERS * USERS_PER_WRITER)]
        await user_crud.bulk_create_users(db, rows)

    async def write(writer: int) -> None:
        chance = random.Random(writer)  # noqa: S311 - to be repeated, not kept secret
        first = writer * USERS_PER_WRITER
        for _ in range(WRITES):
            moves = [
                Transfer(global_id=global_id, zone_id=chance.choice(ZONES))
                for global_id in range(first, first + USERS_PER_WRITER)
            ]
            await database.run_transaction(partial(user_crud.transfer_users, transfers=moves))

    async with asyncio.TaskGroup() as group:
        for writer in range(WRITERS):
            group.create_task(write(writer))
    await assert_log_makes_tables(database)
    await database.close()
