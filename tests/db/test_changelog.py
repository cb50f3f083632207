"""The change log as followers read it: states, changes and heads, each from one snapshot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncSession

from channels import events
from channels.changes import Transaction
from channels.events import Changed
from channels.ports import ChangeLog
from channels.positions import Position
from db import changelog as changelog_module
from db import user_crud, zone_crud
from db.changelog import DatabaseChangeLog
from db.engine import Database
from db.epochs import renew_epochs
from db.head_reader import UsersStamp
from db.models import User, Zone
from db.user_crud import NewUser, Transfer


@pytest.fixture
async def log(database: Database) -> AsyncIterator[DatabaseChangeLog]:
    """The change log of `database`."""
    log = DatabaseChangeLog(database)
    yield log
    await log.close()


async def rename(database: Database, name: str) -> Position:
    """Change Ada's name; return where zone A is then."""
    committed = await database.run_transaction(
        lambda db: user_crud.update_user(db, 1, {"name": name})
    )
    return committed.positions["zone:A"]


async def test_log_is_the_port(log: DatabaseChangeLog) -> None:
    """The rules of synchronisation take it as their `ChangeLog`."""
    port: ChangeLog = log
    assert await port.read_heads([]) == {}


async def test_state_of_a_zone(database: Database, log: DatabaseChangeLog, ada: User) -> None:
    """A zone's state is the zone, its users by id, and where its channel is."""
    position = await rename(database, "x")
    state = await log.read_state("zone:A")
    assert state is not None
    assert state.position == position
    assert state.zone == events.Zone("A", "Hall", {})
    assert state.users == {1: events.User(1, 1001, "x", "A", {}, 2)}
    assert state.zones == {}


async def test_state_of_directory_and_unassigned(
    database: Database, log: DatabaseChangeLog, ada: User
) -> None:
    """The directory has the zones, the unassigned their users."""
    await database.run_transaction(lambda db: user_crud.transfer_user_to_zone(db, 1, None))
    directory = await log.read_state("zones")
    assert directory is not None
    assert list(directory.zones) == ["A", "B"]
    assert (directory.zone, directory.users, directory.position.rev) == (None, {}, 1)
    unassigned = await log.read_state("unassigned")
    assert unassigned is not None
    assert list(unassigned.users) == [1]
    assert (unassigned.zone, unassigned.zones, unassigned.position.rev) == (None, {}, 1)


async def test_states_read_together_are_those_read_alone(
    database: Database, log: DatabaseChangeLog, ada: User
) -> None:
    """Zones with users and without, and one that was never made."""
    wanted = ["zone:A", "zone:Z", "zone:B"]
    found = await log.read_states(wanted)
    assert found == {channel: await log.read_state(channel) for channel in wanted}
    assert found["zone:A"] is not None
    assert list(found["zone:A"].users) == [1]


async def test_states_of_many_users_are_left_out_but_the_first(
    database: Database, log: DatabaseChangeLog, ada: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However large it is, whoever asks comes on."""
    monkeypatch.setattr("db.changelog.ANSWER_MAX_USERS", 0)
    assert list(await log.read_states(["zone:B", "zone:A"])) == ["zone:B"]
    found = await log.read_states(["zone:A", "zone:B"])
    assert found == {"zone:A": await log.read_state("zone:A")}


async def test_directory_and_unassigned_are_read_alone(
    database: Database, log: DatabaseChangeLog, ada: User
) -> None:
    """They are of another kind, and left out behind a zone."""
    assert list(await log.read_states(["zones", "zone:A"])) == ["zones"]
    found = await log.read_states(["zone:A", "unassigned", "zone:B", "zones"])
    assert list(found) == ["zone:A", "zone:B"]


async def test_no_state_of_a_zone_that_is_not_there(
    database: Database, log: DatabaseChangeLog, ada: User
) -> None:
    """A zone never made has neither state nor head; one that is gone still has its head."""
    assert await log.read_state("zone:Z") is None
    assert await log.read_changes("zone:Z", 0, 10) is None
    await database.run_transaction(lambda db: zone_crud.delete_zone(db, "B"))
    assert await log.read_state("zone:B") is None
    assert (await log.read_heads(["zone:B", "zone:Z"]))["zone:B"].rev == 1
    page = await log.read_changes("zone:B", 0, 10)
    assert page is not None
    assert page.changes[-1].ends_channel


async def test_changes_since_a_revision(
    database: Database, log: DatabaseChangeLog, ada: User, handed: list[Transaction]
) -> None:
    """Changes are contiguous after the revision asked for, equal to those handed on."""
    for n in range(5):
        await rename(database, f"n{n}")
    page = await log.read_changes("zone:A", 2, 3)
    assert page is not None
    assert [change.rev for change in page.changes] == [3, 4, 5]
    assert (page.head.rev, page.floor) == (6, 0)
    for read, given in zip(page.changes, (t.changes[0] for t in handed[2:]), strict=False):
        assert (read.position, read.tx, read.time_ms) == (given.position, given.tx, given.time_ms)
        assert (read.events, read.events_json) == (given.events, given.events_json)
        assert read.parts == given.parts == ()
    beyond = await log.read_changes("zone:A", 6, 3)
    assert beyond is not None
    assert beyond.changes == ()


async def test_changes_carry_the_other_places_of_their_transaction(
    database: Database, log: DatabaseChangeLog, ada: User, handed: list[Transaction]
) -> None:
    """A transaction over several channels is known as such from the log of each."""
    await database.run_transaction(lambda db: user_crud.transfer_user_to_zone(db, 1, "B"))
    for channel in ("zone:A", "zone:B"):
        page = await log.read_changes(channel, 0, 10)
        assert page is not None
        assert page.changes[-1].parts == (("zone:A", 2), ("zone:B", 1))
        assert page.changes[-1].parts == handed[-1].changes[0].parts


async def test_parts_of_a_wide_transaction_are_read_once(
    database: Database, log: DatabaseChangeLog, session: AsyncSession
) -> None:
    """Followers of all its channels share what was read of it."""
    session.add_all([Zone(zone_id=f"Z{n}", name="z") for n in range(50)])
    session.add_all([User(global_id=n, name="u", zone_id=f"Z{n}") for n in range(50)])
    await session.commit()
    sent: list[str] = []
    event.listen(
        database.reader.sync_engine, "before_cursor_execute", lambda *args: sent.append(args[2])
    )
    for n in range(50):
        page = await log.read_changes(f"zone:Z{n}", 0, 10)
        assert page is not None
        assert len(page.changes[0].parts) == 51
    assert len([statement for statement in sent if "WHERE tx_id" in statement]) == 1


async def test_page_ends_early_at_very_wide_transactions(
    database: Database,
    log: DatabaseChangeLog,
    ada: User,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What one page reads is bounded, and it always goes on."""
    monkeypatch.setattr(changelog_module, "PAGE_MAX_PARTS", 5)
    for n in range(6):
        await database.run_transaction(
            partial(user_crud.transfer_user_to_zone, user_id=1, zone_id="BA"[n % 2])
        )
    revs: list[int] = []
    while True:
        page = await log.read_changes("zone:A", revs[-1] if revs else 0, 10)
        assert page is not None
        if not page.changes:
            break
        assert len(page.changes) <= 2
        revs += [change.rev for change in page.changes]
    assert revs == [1, 2, 3, 4, 5, 6, 7]


async def test_changes_of_an_older_epoch_are_not_read(
    database: Database, log: DatabaseChangeLog, ada: User
) -> None:
    """A zone made anew has only the changes since; what is asked of before begins there."""
    before = (await log.read_heads(["zone:B"]))["zone:B"]
    await database.run_transaction(lambda db: zone_crud.delete_zone(db, "B"))
    await database.run_transaction(lambda db: zone_crud.create_zone(db, zone_id="B", name="n"))
    await database.run_transaction(lambda db: user_crud.transfer_user_to_zone(db, 1, "B"))
    page = await log.read_changes("zone:B", 0, 10)
    assert page is not None
    assert page.floor == 1
    assert [change.rev for change in page.changes] == [2]
    assert page.head.epoch != before.epoch


async def test_positions_of_a_write_are_where_the_heads_are(
    database: Database, log: DatabaseChangeLog, ada: User
) -> None:
    """Also those of a zone that was made, with somebody in it, and of one made anew."""

    async def make(db: AsyncSession) -> None:
        await zone_crud.create_zone(db, zone_id="C", name="c")
        await user_crud.transfer_user_to_zone(db, 1, "C")

    async def remove(db: AsyncSession) -> None:
        await zone_crud.delete_zone(db, "C", unassign=True)

    for work in (make, remove, make):
        committed = await database.run_transaction(work)
        assert "zone:C" in committed.positions
        assert await log.read_heads(list(committed.positions)) == committed.positions


async def test_heads_of_many_channels(
    database: Database, log: DatabaseChangeLog, ada: User
) -> None:
    """More channels than fit one statement are asked for all the same; unknown ones are missing."""
    names = [f"zone:Z{n}" for n in range(2_500)]
    heads = await log.read_heads([*names, "zone:A", "zones", "zone:B"])
    assert {channel: position.rev for channel, position in heads.items()} == {
        "zone:A": 1,
        "zones": 1,
        "zone:B": 0,
    }
    state = await log.read_state("zone:A")
    assert state is not None
    assert heads["zone:A"] == state.position


async def test_users_dict_and_its_stamp(
    database: Database, log: DatabaseChangeLog, ada: User
) -> None:
    """The stamp of a copy is the present one until anything is committed."""
    stamp, users = await log.read_users_dict()
    assert users == {1001: {"id": 1, "name": "Ada", "zone_id": "A", "version": 1}}
    assert stamp == UsersStamp(await database.identity(), 5, 2)
    assert await log.read_stamp() == stamp
    await rename(database, "x")
    assert await log.read_stamp() == UsersStamp(stamp.identity, 5, 3)


async def test_resync_begins_all_histories_anew(
    database: Database, log: DatabaseChangeLog, ada: User
) -> None:
    """After it no position of before is good, no copy of before true, and work goes on."""
    channels = ["zone:A", "zone:B", "zones", "unassigned"]
    before, stamp = await log.read_heads(channels), await log.read_stamp()
    async with database.engine.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO zones (zone_id, name, created_at, updated_at)"
                " SELECT 'H', name, created_at, updated_at FROM zones WHERE zone_id = 'A'"
            )
        )
    assert await renew_epochs(database) == 6
    after = await log.read_heads(channels)
    assert all(after[channel].epoch != before[channel].epoch for channel in channels)
    assert await log.read_stamp() != stamp
    page = await log.read_changes("zone:A", 0, 10)
    assert page is not None
    assert page.changes == ()
    assert page.floor == page.head.rev
    position = await rename(database, "x")
    assert position == Position(after["zone:A"].epoch, after["zone:A"].rev + 1)
    state = await log.read_state("zone:H")
    assert state is not None
    assert state.zone == events.Zone("H", "Hall", {})


async def test_state_and_head_are_of_one_moment(database: Database, ada: User) -> None:
    """While somebody writes all the time, the head read with a state is always its own."""
    done = asyncio.Event()
    log = DatabaseChangeLog(database)

    async def write() -> None:
        for n in range(60):
            await rename(database, f"n{n}")
        done.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(write())
        while not done.is_set():
            state = await log.read_state("zone:A")
            assert state is not None
            assert state.users[1].version == state.position.rev
            page = await log.read_changes("zone:A", 0, 1_000)
            assert page is not None
            assert page.changes[-1].rev == page.head.rev
            stamp, users = await log.read_users_dict()
            assert stamp.revs == users[1001]["version"] + 1
    await log.close()


async def test_batches_are_read_as_they_were_handed_on(
    database: Database, log: DatabaseChangeLog, ada: User, handed: list[Transaction]
) -> None:
    """Set-based writes are in the log byte for byte as the sink got them."""
    rows = [NewUser(n, "ü", "B") for n in range(5)]
    made = await database.run_transaction(lambda db: user_crud.bulk_create_users(db, rows))
    moves = [Transfer(user_id=user.id, zone_id="A") for user in made.value]
    await database.run_transaction(lambda db: user_crud.transfer_users(db, moves))
    await rename(database, "x")
    page = await log.read_changes("zone:A", 1, 10)
    assert page is not None
    given = [c for t in handed[2:] for c in t.changes if c.channel == "zone:A"]
    assert [change.events_json for change in page.changes] == [c.events_json for c in given]
    assert isinstance(page.changes[-1].events[0], Changed)
