"""Transactions without a session: whole or nothing like those with one, and nothing is leaked."""

from __future__ import annotations

import itertools
from functools import partial

import pytest
from sqlalchemy import Connection

from channels.changes import Transaction
from channels.ports import UnavailableError
from db import user_crud
from db.engine import Database, DatabaseConfig
from db.errors import ConflictError, NotFoundError
from db.models import User
from tests.db.interruption import run_cancelled_at
from tests.db.replay import assert_handed_is_log, assert_log_makes_tables


async def test_what_it_changed_is_told_as_by_a_session(
    database: Database, ada: User, handed: list[Transaction]
) -> None:
    """The user as it is, the positions that clients see, and the log's entry in the sink."""
    committed = await database.run_statements(partial(user_crud.move_user, user_id=1, zone_id="B"))
    assert (committed.value.zone_id, committed.value.version) == ("B", 2)
    assert committed.tx == handed[-1].tx
    assert committed.positions == handed[-1].positions
    assert {channel: p.rev for channel, p in committed.positions.items()} == {
        "zone:A": 2,
        "zone:B": 1,
    }
    await assert_log_makes_tables(database)
    await assert_handed_is_log(database, handed)


async def test_cancelled_anywhere_it_is_whole_or_nothing(
    database: Database, ada: User, handed: list[Transaction]
) -> None:
    """In the tables, the log and the sink, or in none; and its connection can be used again."""
    outcomes = set()
    for index in itertools.count():
        target = "B" if index % 2 == 0 else "A"
        before = len(handed)
        moving = partial(user_crud.move_user, user_id=1, zone_id=target)
        cancelled = await run_cancelled_at(database.run_statements(moving), index)
        async with database.get_db(read_only=True) as db:
            moved = (await db.get_one(User, 1)).zone_id == target
        assert moved == (len(handed) > before)
        assert {use.in_use for use in database.pools().values()} == {0}
        outcomes.add((cancelled, moved))
        if not cancelled:
            break
        await database.run_statements(moving)
    # Cancelled before, and in, the commit, which was carried through; and not at all.
    assert outcomes == {(True, False), (True, True), (False, True)}
    await assert_log_makes_tables(database)
    await assert_handed_is_log(database, handed)


async def test_an_error_leaves_nothing_and_passes_as_it_is(
    database: Database, ada: User, handed: list[Transaction]
) -> None:
    """Also one that comes after a write."""

    def move_and_fail(connection: Connection) -> None:
        user_crud.move_user(connection, 1, "B")
        raise LookupError("not the database's")

    with pytest.raises(LookupError):
        await database.run_statements(move_and_fail)
    async with database.get_db(read_only=True) as db:
        assert (await db.get_one(User, 1)).zone_id == "A"
    assert {use.in_use for use in database.pools().values()} == {0}
    assert len(handed) == 1


@pytest.mark.parametrize(("user_id", "zone_id"), [(99, "B"), (1, "nowhere")])
async def test_what_is_not_there_is_named(
    database: Database, ada: User, user_id: int, zone_id: str
) -> None:
    """The user, or the zone that it was to go to."""
    with pytest.raises(NotFoundError) as caught:
        await database.run_statements(
            partial(user_crud.move_user, user_id=user_id, zone_id=zone_id)
        )
    expected = ("user", 99) if user_id == 99 else ("zone", "nowhere")
    assert (caught.value.kind, caught.value.key) == expected
    await assert_log_makes_tables(database)


async def test_a_lost_race_is_tried_again_in_a_fresh_transaction(
    database: Database, ada: User, handed: list[Transaction]
) -> None:
    """What the try before wrote is gone."""
    tries = itertools.count(1)

    def lose_twice(connection: Connection) -> int:
        moved = user_crud.move_user(connection, 1, "B")
        if next(tries) < 3:
            raise ConflictError("stale")
        return moved.version

    assert (await database.run_statements(lose_twice)).value == 2
    assert next(tries) == 4
    assert len(handed) == 2
    await assert_log_makes_tables(database)


@pytest.mark.parametrize(
    "url",
    ["postgresql+asyncpg://user:secret@127.0.0.1:1/nowhere", "sqlite+aiosqlite:////proc/no/db"],
)
async def test_an_unreachable_database_is_unavailable(url: str) -> None:
    """As it is with a session."""
    database = Database(DatabaseConfig(url))
    with pytest.raises(UnavailableError):
        await database.run_statements(partial(user_crud.move_user, user_id=1, zone_id="B"))
    await database.close()


async def test_without_a_free_connection_it_is_unavailable(postgres_url: str) -> None:
    """And what held the last one gives it to the next."""
    database = Database(
        DatabaseConfig(postgres_url, pool_size=1, max_overflow=0, pool_timeout_s=0.05)
    )
    async with database.get_db() as db:
        _ = await db.connection()
        with pytest.raises(UnavailableError, match="no connection is free"):
            await database.run_statements(partial(user_crud.move_user, user_id=1, zone_id="B"))
    with pytest.raises(NotFoundError):
        await database.run_statements(partial(user_crud.move_user, user_id=1, zone_id="B"))
    await database.close()
