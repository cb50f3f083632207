"""Many writers at once on PostgreSQL: the log is whole, and makes exactly the tables."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from channels.changes import Transaction
from db import user_crud, zone_crud
from db.changelog import DatabaseChangeLog
from db.engine import Database, DatabaseConfig
from db.errors import DuplicateError, NotFoundError, ZoneOccupiedError
from db.models import User, Zone
from db.user_crud import NewUser, Transfer
from tests.db.interruption import run_cancelled_at
from tests.db.replay import assert_handed_is_log, assert_log_makes_tables, read_log

WRITERS = 20
WRITES = 30
ZONES = ("A", "B", "C", "D")
USERS = 30

Work = Callable[[AsyncSession], Awaitable[object]]
REFUSALS = (NotFoundError, DuplicateError, ZoneOccupiedError)
"""What may rightly become of a write when others were first. A lost race is not among them."""


class Writer:
    """Writes at random, the same for the same seed, and counts what became of it."""

    def __init__(self, database: Database, seed: int, outcomes: Counter[str]) -> None:
        self._database = database
        self._random = random.Random(seed)  # noqa: S311 - to be repeated, not kept secret
        self._outcomes = outcomes
        self._kinds: dict[str, tuple[int, Callable[[], Work]]] = {
            "transfer": (8, self._transfer),
            "batch": (5, self._batch),
            "update": (5, self._update),
            "objects": (4, self._objects),
            "savepoints": (4, self._savepoints),
            "create": (3, self._create),
            "bulk": (1, self._bulk),
            "delete": (2, self._delete),
            "zone": (2, self._zone),
            "delete zone": (1, self._delete_zone),
        }

    async def run(self) -> None:
        """Write `WRITES` times, some of them cancelled underway."""
        weights = [weight for weight, _ in self._kinds.values()]
        for _ in range(WRITES):
            (kind,) = self._random.choices(list(self._kinds), weights)
            work = self._kinds[kind][1]()
            try:
                if self._random.random() < 0.2:
                    at = self._random.randrange(40)
                    cancelled = await run_cancelled_at(self._database.run_transaction(work), at)
                    self._outcomes["cancelled" if cancelled else kind] += 1
                else:
                    await self._database.run_transaction(work)
                    self._outcomes[kind] += 1
            except REFUSALS as refusal:
                self._outcomes[type(refusal).__name__] += 1

    def _user_id(self) -> int:
        return self._random.randint(1, USERS + 10)

    def _zone_id(self) -> str | None:
        return self._random.choice((*ZONES, *ZONES, None))

    def _transfer(self) -> Work:
        user_id, zone_id = self._user_id(), self._zone_id()
        return lambda db: user_crud.transfer_user_to_zone(db, user_id, zone_id)

    def _batch(self) -> Work:
        rows = [
            Transfer(user_id=self._random.randint(1, USERS // 2), zone_id=self._zone_id())
            for _ in range(self._random.randint(2, 12))
        ]
        return lambda db: user_crud.transfer_users(db, rows)

    def _update(self) -> Work:
        user_id, value = self._user_id(), self._random.randrange(1000)
        return lambda db: user_crud.update_user(
            db, user_id, {"name": f"n{value}", "attributes": {"v": value}}
        )

    def _objects(self) -> Work:
        """Change objects as anybody's code would, in whatever order."""
        plan = [(self._user_id(), self._zone_id()) for _ in range(4)]

        async def work(db: AsyncSession) -> None:
            for user_id, zone_id in plan:
                user = await db.get(User, user_id)
                if user is not None:
                    user.zone_id = zone_id
                    await db.flush()

        return work

    def _savepoints(self) -> Work:
        plan = [(self._user_id(), self._zone_id(), self._random.random() < 0.5) for _ in range(4)]

        async def work(db: AsyncSession) -> None:
            for user_id, zone_id, keeps in plan:
                savepoint = await db.begin_nested()
                user = await db.get(User, user_id)
                if user is not None:
                    user.zone_id = zone_id
                    user.attributes["kept"] = keeps
                    await db.flush()
                await (savepoint.commit() if keeps else savepoint.rollback())

        return work

    def _create(self) -> Work:
        global_id, zone_id = self._random.randrange(10_000), self._zone_id()
        return lambda db: user_crud.create_user(
            db, global_id=global_id, name="new", zone_id=zone_id
        )

    def _bulk(self) -> Work:
        rows = [
            NewUser(self._random.randrange(10_000, 1_000_000), "bulk", self._zone_id())
            for _ in range(5)
        ]
        return lambda db: user_crud.bulk_create_users(db, rows)

    def _delete(self) -> Work:
        """Delete several objects in one flush."""
        wanted = [self._random.randint(USERS // 2, USERS + 40) for _ in range(3)]

        async def work(db: AsyncSession) -> None:
            for user in await db.scalars(select(User).where(User.id.in_(wanted))):
                await db.delete(user)

        return work

    def _zone(self) -> Work:
        zone_id, value = self._random.choice(ZONES), self._random.randrange(1000)

        async def work(db: AsyncSession) -> None:
            if await zone_crud.get_zone_by_id(db, zone_id) is None:
                await zone_crud.create_zone(db, zone_id=zone_id, name=f"n{value}")
            else:
                await zone_crud.update_zone(db, zone_id, {"attributes": {"v": value}})

        return work

    def _delete_zone(self) -> Work:
        zone_id, target = self._random.sample(ZONES, 2)
        unassigns = self._random.random() < 0.5
        return lambda db: zone_crud.delete_zone(
            db, zone_id, move_to=None if unassigns else target, unassign=unassigns
        )


@pytest.fixture
async def contended(postgres_url: str, handed: list[Transaction]) -> AsyncIterator[Database]:
    """A database with as many tries as it takes where half of all writes are to the same rows."""
    # Patient: who waits for rows on a busy machine is not what is looked at.
    config = DatabaseConfig(
        postgres_url, max_tries=40, lock_timeout_s=60, statement_timeout_s=90, pool_timeout_s=60
    )
    database = Database(config, sink=handed.append)
    yield database
    await database.close()


async def seed(database: Database) -> None:
    """Make the zones and users 1 to `USERS`."""
    async with database.get_db() as db:
        db.add_all([Zone(zone_id=zone_id, name="z") for zone_id in ZONES])
        await db.flush()
        rows = [NewUser(20_000_000 + n, "u", ZONES[n % len(ZONES)]) for n in range(USERS)]
        await user_crud.bulk_create_users(db, rows)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("number", [1, 2])
async def test_log_of_many_writers_makes_the_tables(
    contended: Database, handed: list[Transaction], number: int
) -> None:
    """Revisions are contiguous, no lost race reaches a caller, and replaying gives the tables.

    What the sink got is the log, and pages of it read by followers are, too.
    """
    database = contended
    await seed(database)
    outcomes: Counter[str] = Counter()
    async with asyncio.TaskGroup() as group:
        for writer in range(WRITERS):
            group.create_task(Writer(database, 1000 * number + writer, outcomes).run())
    await assert_log_makes_tables(database)
    await assert_handed_is_log(database, handed)
    await assert_pages_make_the_log(database)
    # Each kind of write has come through, and the others have been met, too.
    assert outcomes.total() == WRITERS * WRITES
    kinds = {"transfer", "batch", "update", "objects", "savepoints", "create", "bulk", "delete"}
    assert kinds | {"zone", "delete zone", "cancelled", "NotFoundError"} <= outcomes.keys()
    assert outcomes["cancelled"] > WRITERS


async def assert_pages_make_the_log(database: Database) -> None:
    """Read each channel's changes since its floor, as a follower does."""
    rows = await read_log(database)
    revs_of_tx: dict[str, list[tuple[str, int]]] = {}
    for row in rows:
        revs_of_tx.setdefault(row.tx, []).append((row.channel, row.rev))
    log = DatabaseChangeLog(database)
    for channel in {row.channel for row in rows}:
        page = await log.read_changes(channel, 0, 10_000)
        assert page is not None
        of_channel = [row for row in rows if row.channel == channel and row.rev > page.floor]
        assert [(c.rev, c.events) for c in page.changes] == [(r.rev, r.events) for r in of_channel]
        for change in page.changes:
            places = tuple(sorted(revs_of_tx[change.tx]))
            assert change.parts == (places if len(places) > 1 else ())
        state = await log.read_state(channel)
        assert state is None or state.position == page.head
    await log.close()
