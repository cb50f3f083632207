"""Retention: what is pruned and what is kept, floors and pages, and writers who don't wait."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from channels.changes import ChangePage
from db import user_crud, zone_crud
from db.changelog import DatabaseChangeLog
from db.engine import Database
from db.models import User
from db.retention import Retention, RetentionConfig
from db.types import utc_now
from tests.db.interruption import run_cancelled_at
from tests.db.pruning import CHANGES, floors_of, prune, pruner, rename, revs_of
from tests.db.statements import counted_statements


@pytest.fixture
async def log(database: Database) -> AsyncIterator[DatabaseChangeLog]:
    """The change log of `database`."""
    log = DatabaseChangeLog(database)
    yield log
    await log.close()


@pytest.fixture
async def renamed(database: Database, ada: User) -> None:
    """Zone A is at revision `CHANGES`; zone B is there and was never changed."""
    await rename(database, CHANGES - (await revs_of(database))["zone:A"][-1])


# --- What goes, and what stays ---------------------------------------------------------------


@pytest.mark.usefixtures("renamed")
async def test_the_newest_changes_of_each_channel_are_kept(
    database: Database, log: DatabaseChangeLog
) -> None:
    """The floor tells what is gone, and pages begin after it."""
    report = await prune(database, 4)
    assert (await revs_of(database))["zone:A"] == [9, 10, 11, 12]
    assert (await floors_of(database))["zone:A"] == 8
    assert (report.changes, report.channels, report.busy) == (8, 1, 0)
    assert report.seen == report.heads == 5
    page = await log.read_changes("zone:A", 0, 100)
    assert page is not None
    assert page.floor == 8
    assert [change.rev for change in page.changes] == [9, 10, 11, 12]
    assert (await prune(database, 4)).changes == 0


@pytest.mark.usefixtures("renamed")
async def test_old_changes_go_however_few_there_are(
    database: Database, log: DatabaseChangeLog
) -> None:
    """Also all of a channel: who is at its head has missed nothing, who isn't gets the state."""
    report = await pruner(database, age_s=3_600).prune()
    assert report is not None
    assert report.changes == 0
    hours_later = utc_now() + timedelta(hours=2)
    await Retention(database, RetentionConfig(1_000, 3_600), lambda: hours_later).prune()
    assert await revs_of(database) == {}
    page = await log.read_changes("zone:A", CHANGES, 100)
    assert page is not None
    assert (page.floor, page.head.rev, page.changes) == (CHANGES, CHANGES, ())


async def test_changes_of_an_older_epoch_and_of_deleted_zones_are_pruned(
    database: Database, ada: User
) -> None:
    """A zone made anew keeps nothing of its first life, though nobody watches it."""
    await rename(database, 5)
    await database.run_transaction(lambda db: zone_crud.delete_zone(db, "A", unassign=True))
    before = (await revs_of(database))["zone:A"]
    await prune(database, 2)
    assert (await revs_of(database))["zone:A"] == before[-2:]
    await database.run_transaction(lambda db: zone_crud.create_zone(db, zone_id="A", name="n"))
    await database.run_transaction(lambda db: user_crud.transfer_user_to_zone(db, 1, "A"))
    await prune(database, 1_000)
    assert (await revs_of(database))["zone:A"] == [before[-1] + 1]
    assert (await floors_of(database))["zone:A"] == before[-1]


@pytest.mark.usefixtures("renamed")
@pytest.mark.parametrize(("kept", "left"), [(8, 12), (7, 7)], ids=["within", "beyond"])
async def test_with_slack_a_channel_is_pruned_when_it_is_well_over(
    database: Database, kept: int, left: int
) -> None:
    """Then down to the bound itself: not one change in each of many transactions."""
    await prune(database, kept, slack=0.6)
    assert len((await revs_of(database))["zone:A"]) == left


@pytest.mark.usefixtures("renamed")
@pytest.mark.parametrize(("minutes", "left"), [(65, 12), (70, 0)], ids=["within", "beyond"])
async def test_with_slack_changes_may_grow_a_little_older(
    database: Database, minutes: int, left: int
) -> None:
    """By the same part of their greatest age."""
    later = utc_now() + timedelta(minutes=minutes)
    config = RetentionConfig(1_000, 3_600, slack=0.1)
    await Retention(database, config, lambda: later).prune()
    assert len((await revs_of(database)).get("zone:A", [])) == left


@pytest.mark.usefixtures("renamed")
async def test_a_pass_looks_like_no_change(database: Database, log: DatabaseChangeLog) -> None:
    """Heads, the stamp of the users dict and the state are what they were."""
    heads, stamp = await log.read_heads(["zone:A", "zones"]), await log.read_stamp()
    state = await log.read_state("zone:A")
    await prune(database, 0)
    assert await log.read_heads(["zone:A", "zones"]) == heads
    assert await log.read_stamp() == stamp
    assert await log.read_state("zone:A") == state


# --- How ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("renamed")
async def test_batches_are_bounded_and_tell_the_floor(database: Database) -> None:
    """After each the floor is that of the rows left, so a pass may end anywhere."""
    told: list[int] = []
    with counted_statements(database) as sent:
        report = await prune(
            database, 1, lambda so_far: told.append(so_far.changes), batch_changes=3
        )
    assert report.changes == CHANGES - 1
    assert (await floors_of(database))["zone:A"] == CHANGES - 1
    assert max(later - earlier for earlier, later in itertools.pairwise(told)) <= 3
    deletes = [statement for statement in sent if statement.startswith("DELETE")]
    assert len(deletes) == 4
    if database.dialect == "postgresql":
        locks = [statement for statement in sent if "FOR UPDATE" in statement]
        assert len(locks) == len(deletes)
        assert all('ORDER BY channel COLLATE "C" FOR UPDATE' in lock for lock in locks)


@pytest.mark.usefixtures("renamed")
async def test_a_pass_that_is_cancelled_leaves_floor_and_rows_agreed(database: Database) -> None:
    """At any of its awaits, and the next pass finds nobody in its way."""
    cancelled_at = 0
    while await run_cancelled_at(pruner(database, 1, batch_changes=1).prune(), cancelled_at):
        revs, floors = await revs_of(database), await floors_of(database)
        assert revs["zone:A"] == [*range(floors["zone:A"] + 1, CHANGES + 1)]
        # One further each time, until it gets through: each pass finds less to do.
        cancelled_at += 1
    assert cancelled_at > 10
    assert (await revs_of(database))["zone:A"] == [CHANGES]
    assert (await prune(database, 0)).changes > 0


@pytest.mark.usefixtures("renamed")
async def test_a_page_read_while_the_log_is_pruned_is_of_one_moment(
    database: Database, log: DatabaseChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pruned between the floor and the changes: the reader still sees both as they were."""
    read_head = log._read_head

    async def read_then_prune(connection: AsyncConnection, channel: str) -> object:
        head = await read_head(connection, channel)
        await prune(database, 2)
        return head

    monkeypatch.setattr(log, "_read_head", read_then_prune)
    page = await log.read_changes("zone:A", 0, 100)
    assert page is not None
    assert (page.floor, [change.rev for change in page.changes]) == (0, [*range(1, 13)])
    monkeypatch.undo()
    page = await log.read_changes("zone:A", 0, 100)
    assert page is not None
    assert (page.floor, [change.rev for change in page.changes]) == (10, [11, 12])


@pytest.mark.usefixtures("renamed")
@pytest.mark.parametrize(
    ("deleted", "floor", "revs"),
    [
        ("rev <= 4", 4, [5, 6, 7, 8, 9, 10, 11, 12]),
        ("rev BETWEEN 3 AND 5", 0, [1, 2]),
        ("rev <= 12", 12, []),
    ],
    ids=["first", "middle", "all"],
)
async def test_rows_deleted_by_hand_count_as_compacted(
    database: Database, log: DatabaseChangeLog, deleted: str, floor: int, revs: list[int]
) -> None:
    """A page never leads over a hole, whoever made it."""
    async with database.engine.begin() as connection:
        await connection.execute(
            text(f"DELETE FROM changes WHERE channel = 'zone:A' AND {deleted}")  # noqa: S608 - above
        )
    page = await log.read_changes("zone:A", 0, 100)
    assert page is not None
    assert (page.floor, [change.rev for change in page.changes]) == (floor, revs)
    if revs == [1, 2]:
        page = await log.read_changes("zone:A", 2, 100)
        assert page is not None
        assert (page.floor, page.changes[0].rev) == (5, 6)
    assert await at_the_head(log) == ()


async def at_the_head(log: DatabaseChangeLog) -> object:
    """Read what follows the head, and make sure that it counts as retained."""
    page: ChangePage | None = await log.read_changes("zone:A", CHANGES, 100)
    assert page is not None
    assert page.floor <= CHANGES
    return page.changes
