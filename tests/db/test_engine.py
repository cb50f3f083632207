"""Sessions and transactions: what commits, what is tried again, what a cancellation leaves."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from channels.changes import Transaction
from channels.names import zone_channel
from channels.ports import UnavailableError
from db import user_crud, zone_crud
from db.engine import Database, DatabaseConfig
from db.errors import ConflictError, NotFoundError
from db.models import Base, User, Zone
from db.user_crud import NewUser, Transfer
from tests.db.interruption import run_cancelled_at
from tests.db.replay import assert_handed_is_log, assert_log_makes_tables, events_of


async def test_get_db_commits_at_the_end_of_the_block(database: Database, ada: User) -> None:
    """A block that ends has been committed."""
    async with database.get_db() as db:
        (await db.get_one(User, 1)).name = "x"
    async with database.get_db(read_only=True) as db:
        assert (await db.get_one(User, 1)).name == "x"


async def test_get_db_rolls_back_what_raised(database: Database, ada: User) -> None:
    """A block that raises leaves nothing, and its own error passes as it is."""

    async def fail() -> None:
        async with database.get_db() as db:
            (await db.get_one(User, 1)).name = "x"
            await db.flush()
            raise FileNotFoundError("not the database's")

    with pytest.raises(FileNotFoundError):
        await fail()
    async with database.get_db(read_only=True) as db:
        assert (await db.get_one(User, 1)).name == "Ada"


async def test_objects_can_be_read_after_the_commit(database: Database, ada: User) -> None:
    """Nothing is expired by a commit: an answer is made from the objects after it."""
    async with database.get_db() as db:
        user = await user_crud.update_user(db, 1, {"name": "x"})
    assert (user.name, user.version) == ("x", 2)


async def test_reader_can_not_write(database: Database, ada: User) -> None:
    """A session for reading refuses to write."""

    async def write() -> None:
        async with database.get_db(read_only=True) as db:
            (await db.get_one(User, 1)).name = "x"
            await db.flush()

    with pytest.raises(UnavailableError):
        await write()


async def test_reader_does_not_wait_for_a_writer(database: Database, ada: User) -> None:
    """Who reads sees the committed state while somebody writes."""
    async with database.get_db() as writer:
        (await writer.get_one(User, 1)).name = "x"
        await writer.flush()
        async with asyncio.timeout(5), database.get_db(read_only=True) as reader:
            assert (await reader.get_one(User, 1)).name == "Ada"


async def test_transaction_tells_where_channels_are(
    database: Database, ada: User, handed: list[Transaction]
) -> None:
    """A transaction returns its work's value, the positions that clients see, and its id."""
    committed = await database.run_transaction(
        lambda db: user_crud.transfer_user_to_zone(db, 1, "B")
    )
    assert committed.value.zone_id == "B"
    assert committed.tx == handed[-1].tx
    assert committed.positions == handed[-1].positions
    assert {channel: p.rev for channel, p in committed.positions.items()} == {
        "zone:A": 2,
        "zone:B": 1,
    }


async def test_transaction_without_change_has_no_positions(database: Database, ada: User) -> None:
    """Where nothing changed there is nothing to wait for."""
    committed = await database.run_transaction(user_crud.count_users)
    assert (committed.value, committed.positions, committed.tx) == (1, {}, None)


async def test_lost_race_is_tried_again_in_a_fresh_session(
    postgres_database: Database, postgres_ada: int
) -> None:
    """A version that became stale before the write is read anew and written in the next try."""
    sessions: list[AsyncSession] = []

    async def rename(db: AsyncSession) -> User:
        sessions.append(db)
        user = await db.get_one(User, postgres_ada)
        if len(sessions) == 1:
            async with postgres_database.get_db() as other:
                (await other.get_one(User, postgres_ada)).zone_id = "B"
        user.name = "x"
        return user

    committed = await postgres_database.run_transaction(rename)
    assert (committed.value.version, committed.value.zone_id) == (3, "B")
    assert len(sessions) == 2
    assert sessions[0] is not sessions[1]
    await assert_log_makes_tables(postgres_database)


async def test_tries_are_bounded(database_url: str) -> None:
    """After the tries allowed the caller learns that it lost."""
    database = Database(DatabaseConfig(database_url, max_tries=3, retry_max_s=0.01))
    tries = itertools.count(1)

    async def lose(db: AsyncSession) -> None:
        next(tries)
        raise ConflictError("stale")

    with pytest.raises(ConflictError):
        await database.run_transaction(lose)
    assert next(tries) == 4
    await database.close()


async def test_deadlock_is_tried_again(postgres_database: Database, postgres_ada: int) -> None:
    """Two that lock the same rows in opposite orders both get through."""
    both_hold_one = asyncio.Barrier(2)
    waited: set[str] = set()

    async def write(db: AsyncSession, first: str, second: str) -> None:
        (await db.get_one(Zone, first)).name = first + second
        await db.flush()
        if first not in waited:
            waited.add(first)
            await both_hold_one.wait()
        (await db.get_one(Zone, second)).name = first + second
        await db.flush()

    async with asyncio.TaskGroup() as group:
        for first, second in ("AB", "BA"):
            group.create_task(
                postgres_database.run_transaction(partial(write, first=first, second=second))
            )
    await assert_log_makes_tables(postgres_database)
    assert len(await events_of(postgres_database, "zone:A")) == 3


async def test_other_errors_are_not_tried_again(database: Database) -> None:
    """What would fail again fails once."""
    tries = itertools.count(1)

    async def ask(db: AsyncSession) -> None:
        next(tries)
        await user_crud.update_user(db, 99, {"name": "x"})

    with pytest.raises(NotFoundError):
        await database.run_transaction(ask)
    assert next(tries) == 2


async def test_cancelled_write_is_whole_or_nothing(
    database: Database, ada: User, handed: list[Transaction]
) -> None:
    """Cancelled at any of its awaits, a write is in the tables, the log and the sink, or in none.

    The connection goes back in a state in which the next writer can work.
    """
    outcomes = set()
    for index in itertools.count():
        target = "B" if index % 2 == 0 else "A"
        before = len(handed)
        cancelled = await run_cancelled_at(
            database.run_transaction(
                partial(user_crud.transfer_user_to_zone, user_id=1, zone_id=target)
            ),
            index,
        )
        async with database.get_db(read_only=True) as db:
            moved = (await db.get_one(User, 1)).zone_id == target
        assert moved == (len(handed) > before)
        outcomes.add((cancelled, moved))
        if not cancelled:
            break
        await database.run_transaction(
            partial(user_crud.transfer_user_to_zone, user_id=1, zone_id=target)
        )
    # Cancelled before, and in, the commit, which was carried through; and not at all.
    assert outcomes == {(True, False), (True, True), (False, True)}
    await assert_log_makes_tables(database)
    await assert_handed_is_log(database, handed)


async def test_cancelled_write_lets_the_next_one_work(database: Database, ada: User) -> None:
    """Nobody waits for a lock that a cancelled write still holds, wherever it was cut off."""
    for index in range(15):
        await run_cancelled_at(
            database.run_transaction(
                partial(user_crud.update_user, user_id=1, changes={"name": f"n{index}"})
            ),
            index,
        )
        async with asyncio.timeout(DatabaseConfig("").busy_timeout_ms / 1000 / 2):
            await database.run_transaction(
                partial(user_crud.update_user, user_id=1, changes={"name": f"m{index}"})
            )


async def test_concurrent_writers_lose_nothing(database: Database, ada: User) -> None:
    """Read, change and write by many tasks at once: each one counts."""

    async def count(db: AsyncSession) -> None:
        user = await db.get_one(User, 1)
        await asyncio.sleep(0)
        user.attributes["n"] = user.attributes.get("n", 0) + 1

    async with asyncio.TaskGroup() as group:
        for _ in range(10):
            group.create_task(database.run_transaction(count))
    async with database.get_db(read_only=True) as db:
        assert (await db.get_one(User, 1)).attributes == {"n": 10}
    await assert_log_makes_tables(database)


async def test_database_in_memory_is_one_database() -> None:
    """Readers and writers of an in-memory database see the same, one after the other."""
    handed: list[Transaction] = []
    database = Database(DatabaseConfig("sqlite+aiosqlite:///:memory:"), sink=handed.append)
    async with database.engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with asyncio.TaskGroup() as group:
        for n in range(5):
            group.create_task(
                database.run_transaction(partial(user_crud.create_user, global_id=n, name="u"))
            )
    async with database.get_db(read_only=True) as db:
        assert await user_crud.count_users(db) == 5
    assert len(handed) == 5
    await database.close()


async def test_deletion_of_a_zone_and_a_move_into_it_exclude_each_other(
    postgres_database: Database, postgres_ada: int
) -> None:
    """Who moves into a zone that is being deleted finds it gone, and the other way round."""

    batch = [Transfer(user_id=postgres_ada, zone_id=zone_id) for zone_id in ("A", "B")]
    moves: list[Callable[[AsyncSession], Awaitable[object]]] = [
        lambda db: user_crud.transfer_user_to_zone(db, postgres_ada, "B"),
        lambda db: user_crud.transfer_users(db, batch),
    ]

    async def move(work: Callable[[AsyncSession], Awaitable[object]]) -> tuple[object, ...]:
        try:
            await postgres_database.run_transaction(work)
        except NotFoundError as error:
            return error.kind, error.key, error.index
        return ("moved",)

    async with postgres_database.get_db() as db:
        await zone_crud.delete_zone(db, "B")
        async with asyncio.TaskGroup() as group:
            moving = [group.create_task(move(work)) for work in moves]
            await _wait_for_locks(postgres_database, len(moving))
            await db.commit()
    assert [task.result() for task in moving] == [("zone", "B", None), ("zone", "B", 1)]
    await assert_log_makes_tables(postgres_database)


async def test_batches_over_the_same_users_wait_for_each_other(postgres_url: str) -> None:
    """In whatever order they name them: nobody deadlocks, nobody is stale, one try is enough."""
    database = Database(DatabaseConfig(postgres_url, max_tries=1))
    zone_ids = [f"Z{n}" for n in range(4)]
    async with database.get_db() as db:
        db.add_all([Zone(zone_id=zone_id, name="z") for zone_id in zone_ids])
        await db.flush()
        users = await user_crud.bulk_create_users(db, [NewUser(n, "u") for n in range(40)])
    chance = random.Random(7)  # noqa: S311 - to be repeated, not kept secret
    async with asyncio.TaskGroup() as group:
        for _ in range(20):
            chosen = chance.sample(users, 30)
            batch = [Transfer(user_id=u.id, zone_id=chance.choice(zone_ids)) for u in chosen]
            group.create_task(
                database.run_transaction(partial(user_crud.transfer_users, transfers=batch))
            )
    await assert_log_makes_tables(database)
    await database.close()


async def _wait_for_locks(database: Database, count: int) -> None:
    query = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    async with asyncio.timeout(10), database.reader.connect() as connection:
        while await connection.scalar(query) < count:
            await connection.rollback()
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "url",
    ["postgresql+asyncpg://user:secret@127.0.0.1:1/nowhere", "sqlite+aiosqlite:////proc/no/db"],
)
async def test_unreachable_database_is_unavailable(url: str) -> None:
    """Whatever the driver says, it means that the database can't be asked; no secrets in it."""
    database = Database(DatabaseConfig(url))
    with pytest.raises(UnavailableError) as caught:
        await database.run_transaction(user_crud.count_users)
    assert "secret" not in f"{caught.value} {database.config}"
    await database.close()


async def test_other_drivers_are_refused() -> None:
    """A URL of a driver that would block, or isn't known, is refused at once, unquoted."""
    with pytest.raises(ValueError, match=r"postgresql\+asyncpg") as caught:
        Database(DatabaseConfig("postgresql://user:secret@host/db"))
    assert "secret" not in str(caught.value)


async def test_missing_tables_are_named(empty_postgres_url: str) -> None:
    """A database that was never migrated says so."""
    database = Database(DatabaseConfig(empty_postgres_url))
    with pytest.raises(UnavailableError, match="migrate"):
        await database.run_transaction(user_crud.count_users)
    await database.close()


async def test_position_names_the_channel(database: Database, ada: User) -> None:
    """Positions are by channel name, as subscribers know it."""
    committed = await database.run_transaction(
        lambda db: user_crud.update_user(db, 1, {"name": "x"})
    )
    assert list(committed.positions) == [zone_channel("A")]
