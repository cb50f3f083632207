"""Which commit counts: savepoints, transactions of somebody else's, failures, lost races."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm.exc import StaleDataError

from channels.changes import Transaction
from channels.events import Changed, Entered, Left, ZoneDeleted
from db.engine import Database
from db.errors import ConflictError, UncapturedWriteError
from db.models import Base, User, Zone
from db.user_crud import create_user
from db.zone_crud import create_zone
from tests.db.replay import (
    assert_handed_is_log,
    assert_log_makes_tables,
    events_of,
    read_log,
)


async def test_released_savepoint_is_told_with_the_commit_and_once(
    database: Database, session: AsyncSession, ada: User, handed: list[Transaction]
) -> None:
    """The release of a savepoint is no commit, although the session says so to its listeners."""
    async with session.begin_nested():
        ada.name = "x"
    assert len(handed) == 1
    async with session.begin_nested():
        ada.zone_id = "B"
    assert len(await read_log(database)) == 2
    await session.commit()
    assert (await events_of(database, "zone:A"))[1:] == [(Left(1, 3),)]
    assert len(handed) == 2
    await assert_handed_is_log(database, handed)


async def test_savepoint_left_open_is_told_with_the_commit(
    database: Database, session: AsyncSession, ada: User
) -> None:
    """A commit releases savepoints that are still open, and what they hold counts."""
    async with session.begin():
        _ = await session.begin_nested()
        ada.name = "x"
        _ = await session.begin_nested()
        ada.zone_id = "B"
    await assert_log_makes_tables(database)
    assert (await events_of(database, "zone:A"))[1:] == [(Left(1, 3),)]


async def test_rolled_back_savepoint_is_not_told(
    database: Database, session: AsyncSession, ada: User
) -> None:
    """Only what was written before and after a savepoint rolled back is told."""
    ada.name = "x"
    savepoint = await session.begin_nested()
    ada.zone_id = "B"
    session.add(User(global_id=2, name="Bob", zone_id="B"))
    (await session.get_one(Zone, "B")).name = "y"
    await session.flush()
    await savepoint.rollback()
    await session.commit()
    ((changed,),) = (await events_of(database, "zone:A"))[1:]
    assert isinstance(changed, Changed)
    assert (changed.user.name, changed.user.version) == ("x", 2)
    assert await events_of(database, "zone:B") == []
    await assert_log_makes_tables(database)


async def test_row_free_again_after_a_savepoint_is_not_told_for_another(
    postgres_database: Database, postgres_ada: int, handed: list[Transaction]
) -> None:
    """What another transaction did to a row that a rolled back savepoint let go is its own."""
    async with AsyncSession(postgres_database.engine, expire_on_commit=False) as session:
        session.add(User(global_id=2, name="Bob"))
        savepoint = await session.begin_nested()
        (await session.get_one(User, postgres_ada)).name = "x"
        await session.flush()
        await savepoint.rollback()
        async with AsyncSession(postgres_database.engine) as other:
            (await other.get_one(User, postgres_ada)).zone_id = "B"
            await other.commit()
        await session.commit()
    assert [change.channel for change in handed[-1].changes] == ["unassigned"]
    await assert_log_makes_tables(postgres_database)


async def test_failed_flush_in_a_savepoint_is_not_told(
    database: Database, session: AsyncSession, ada: User
) -> None:
    """A flush that broke a rule takes its savepoint with it, and the rest is told."""
    ada.name = "x"
    await session.flush()
    savepoint = await session.begin_nested()
    session.add(User(global_id=2, name="Bob", zone_id="A"))
    await session.flush()
    session.add(User(global_id=ada.global_id, name="Eve", zone_id="A"))
    with pytest.raises(IntegrityError):
        await session.flush()
    await savepoint.rollback()
    await session.commit()
    ((changed,),) = (await events_of(database, "zone:A"))[1:]
    assert isinstance(changed, Changed)
    await assert_log_makes_tables(database)


async def test_joined_session_is_told_when_the_owner_commits(
    database: Database, ada: User, handed: list[Transaction]
) -> None:
    """The commit of a session in somebody else's transaction commits nothing yet.

    The log is written with the owner's commit. Nobody is told: no session knows of it.
    """
    async with database.engine.connect() as connection, connection.begin() as transaction:
        async with AsyncSession(connection) as session:
            (await session.get_one(User, 1)).name = "x"
            await session.commit()
            (await session.get_one(User, 1)).zone_id = "B"
            await session.commit()
        assert len(handed) == 1
        await transaction.commit()
    assert (await events_of(database, "zone:A"))[1:] == [(Left(1, 3),)]
    assert len(handed) == 1
    await assert_log_makes_tables(database)


@pytest.mark.parametrize("mode", ["rollback_only", "create_savepoint"])
async def test_joined_session_is_not_told_when_the_owner_rolls_back(
    database: Database, ada: User, handed: list[Transaction], mode: str
) -> None:
    """Committing sessions inside of one transaction, and rolling that back, leaves no trace."""
    async with database.engine.connect() as connection, connection.begin() as transaction:
        async with AsyncSession(connection, join_transaction_mode=mode) as session:
            (await session.get_one(User, 1)).zone_id = "B"
            await session.commit()
        await transaction.rollback()
    assert await events_of(database, "zone:B") == []
    assert len(handed) == 1
    await assert_log_makes_tables(database)


async def test_joined_session_that_only_flushed_is_told(database: Database, ada: User) -> None:
    """What a session flushed into somebody else's transaction counts, even without a commit."""
    async with database.engine.begin() as connection:
        session = AsyncSession(connection, join_transaction_mode="rollback_only")
        (await session.get_one(User, 1)).zone_id = "B"
        await session.flush()
        await session.close()
    await assert_log_makes_tables(database)
    assert (await events_of(database, "zone:A"))[1:] == [(Left(1, 2),)]


async def test_plain_engine_and_session_are_captured() -> None:
    """Tables made from the models in memory, an engine and a session of one's own are enough."""
    engine = create_async_engine("sqlite+aiosqlite:///:memory:")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with AsyncSession(engine) as session:
        await create_zone(session, zone_id="A", name="a")
        user = await create_user(session, global_id=1, name="Ada", zone_id="A")
        await session.commit()
        await session.refresh(user)
        assert user.version == 1
        log = await session.execute(text("SELECT channel, rev FROM changes ORDER BY channel"))
        assert [tuple(row) for row in log] == [("zone:A", 1), ("zones", 1)]
        heads = await session.execute(text("SELECT channel FROM channel_heads ORDER BY channel"))
        assert list(heads.scalars()) == ["revocations", "unassigned", "zone:A", "zones"]
    await engine.dispose()


async def test_session_of_ones_own_on_the_engine_reaches_the_sink(
    database: Database, ada: User, handed: list[Transaction]
) -> None:
    """The sink belongs to the engine, whatever session commits on it, also with other options."""
    engine = database.engine.execution_options(stream_results=False)
    async with AsyncSession(engine) as session:
        (await session.get_one(User, 1)).name = "x"
        await session.commit()
    assert len(handed) == 2
    await assert_handed_is_log(database, handed)


async def test_raising_sink_harms_nobody(database: Database, session: AsyncSession) -> None:
    """What is committed is committed: a sink that fails is logged and the session goes on."""

    def fail(_transaction: Transaction) -> None:
        raise RuntimeError("full")

    database.attach(fail)
    session.add(User(global_id=1, name="Ada"))
    await session.commit()
    session.add(User(global_id=2, name="Bob"))
    await session.commit()
    assert len(await events_of(database, "unassigned")) == 2


async def test_failure_to_record_rolls_everything_back(
    postgres_database: Database, postgres_ada: int, handed: list[Transaction]
) -> None:
    """When the head can't be locked nothing is committed, and the connection is clean after it."""
    async with postgres_database.engine.connect() as holder:
        await holder.execute(
            text("SELECT * FROM channel_heads WHERE channel = 'zone:A' FOR UPDATE")
        )
        async with AsyncSession(postgres_database.engine) as session:
            await session.execute(text("SET LOCAL lock_timeout = '50ms'"))
            (await session.get_one(User, postgres_ada)).zone_id = "B"
            with pytest.raises(Exception, match="lock timeout"):
                await session.commit()
        query = text("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in %'")
        assert await holder.scalar(query) == 0
    assert len(handed) == 1
    assert await events_of(postgres_database, "zone:B") == []
    await assert_log_makes_tables(postgres_database)


async def test_session_goes_on_after_a_failure_to_record(
    postgres_database: Database, postgres_ada: int
) -> None:
    """After a rollback the session that could not commit can."""
    async with AsyncSession(postgres_database.engine) as session:
        async with postgres_database.engine.connect() as holder:
            await holder.execute(text("SELECT * FROM channel_heads FOR UPDATE"))
            await session.execute(text("SET LOCAL lock_timeout = '50ms'"))
            (await session.get_one(User, postgres_ada)).zone_id = "B"
            with pytest.raises(Exception, match="lock timeout"):
                await session.commit()
            await session.rollback()
        assert (await session.get_one(User, postgres_ada)).zone_id == "A"
        (await session.get_one(User, postgres_ada)).zone_id = "B"
        await session.commit()
    assert (await events_of(postgres_database, "zone:A"))[1:] == [(Left(postgres_ada, 2),)]
    await assert_log_makes_tables(postgres_database)


@pytest.mark.parametrize("users", [1, 3])
async def test_deletion_that_lost_a_race_is_noticed(
    postgres_database: Database, postgres_ada: int, users: int
) -> None:
    """A user that moved since it was loaded isn't deleted from where it was.

    asyncpg doesn't tell how many rows several DELETEs met: without a look at the versions
    first the race would go unnoticed.
    """
    async with AsyncSession(postgres_database.engine, expire_on_commit=False) as session:
        others = [User(global_id=n, name="u", zone_id="A") for n in range(users - 1)]
        session.add_all(others)
        await session.commit()
        ada = await session.get_one(User, postgres_ada)
        await session.commit()
        async with AsyncSession(postgres_database.engine) as other:
            (await other.get_one(User, postgres_ada)).zone_id = "B"
            await other.commit()
        for user in (ada, *others):
            await session.delete(user)
        with pytest.raises(StaleDataError):
            await session.commit()
    await assert_log_makes_tables(postgres_database)
    assert len(await events_of(postgres_database, "zone:B")) == 1


async def test_two_deletions_of_a_zone_are_told_once(
    postgres_database: Database, postgres_ada: int
) -> None:
    """Who deletes a zone that is gone already has lost a race."""
    async with (
        AsyncSession(postgres_database.engine) as first,
        AsyncSession(postgres_database.engine) as second,
    ):
        for session in (first, second):
            await session.delete(await session.get_one(Zone, "B"))
        await first.flush()
        async with asyncio.TaskGroup() as group:
            loser = group.create_task(_flush_failing(second))
            await first.commit()
        assert await loser == "StaleDataError"
    assert await events_of(postgres_database, "zone:B") == [(ZoneDeleted("B"),)]


async def _flush_failing(session: AsyncSession) -> str:
    try:
        await session.flush()
    except StaleDataError as error:
        return type(error).__name__
    return "nothing"


async def test_stale_update_is_a_conflict(database: Database, ada: User) -> None:
    """Who writes on top of a version that is no longer there has lost a race."""
    async with database.get_db(read_only=True) as db:
        stale = await db.get_one(User, 1)
    async with database.get_db() as db:
        (await db.get_one(User, 1)).zone_id = "B"
    stale.name = "x"
    with pytest.raises(ConflictError):
        async with database.get_db() as db:
            db.add(stale)
    ((entered,),) = await events_of(database, "zone:B")
    assert isinstance(entered, Entered)


async def test_write_that_commits_itself_is_refused(
    postgres_database: Database, postgres_ada: int
) -> None:
    """Without a transaction there is no moment at which a change and its row become true."""
    engine = postgres_database.engine.execution_options(isolation_level="AUTOCOMMIT")
    async with AsyncSession(engine) as session:
        session.add(User(global_id=2, name="Bob"))
        with pytest.raises(UncapturedWriteError, match="transaction"):
            await session.commit()
