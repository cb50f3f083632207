"""Many users at once: set-based, all or nothing, captured as one net effect."""

from __future__ import annotations

from functools import partial

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from channels.changes import Transaction
from channels.events import Entered, Left, ZoneDeleted
from db import user_crud, zone_crud
from db.engine import Database
from db.errors import (
    DuplicateError,
    InvalidValueError,
    NotFoundError,
)
from db.models import User
from db.user_crud import NewUser, Transfer
from tests.db.replay import events_of
from tests.db.statements import counted_statements, make_users, writes

pytestmark = pytest.mark.usefixtures("log_is_whole")


async def test_bulk_is_one_insert(database: Database, ada: User, handed: list[Transaction]) -> None:
    """A thousand users are made by a handful of statements, returned as given, told as one."""
    rows = [NewUser(5000 - n, f"u{n}", "AB"[n % 2]) for n in range(1000)]
    with counted_statements(database) as sent:
        made = await database.run_transaction(lambda db: user_crud.bulk_create_users(db, rows))
    assert len([s for s in sent if s.startswith("INSERT INTO users")]) == 1
    assert len(writes(sent)) <= 9
    assert [user.global_id for user in made.value] == [row.global_id for row in rows]
    assert {channel: p.rev for channel, p in made.positions.items()} == {"zone:A": 2, "zone:B": 1}
    assert len(handed) == 2


@pytest.mark.parametrize(
    ("row", "error", "key", "index"),
    [
        (NewUser(1001, "x"), DuplicateError, 1001, 3),
        (NewUser(101, "x"), DuplicateError, 101, 3),
        (NewUser(9, "x", "Z"), NotFoundError, "Z", 3),
    ],
)
async def test_bulk_with_a_bad_row_makes_nobody(
    database: Database, ada: User, row: NewUser, error: type[Exception], key: object, index: int
) -> None:
    """All or none; the error names the row."""
    rows = [*(NewUser(100 + n, "u", "A") for n in range(3)), row, NewUser(200, "u", "Z")]
    with pytest.raises(error) as caught:
        await database.run_transaction(lambda db: user_crud.bulk_create_users(db, rows))
    assert (caught.value.key, caught.value.index) == (key, index)  # type: ignore[attr-defined]
    async with database.get_db(read_only=True) as db:
        assert await user_crud.count_users(db) == 1


async def test_transfers_apply_in_order(database: Database, ada: User) -> None:
    """Users are named by either id and any number of times; only who ends elsewhere moved."""
    users = await make_users(database, 4)
    ids = [user.id for user in users]
    rows = [
        Transfer(user_id=ids[3], zone_id="A"),
        Transfer(global_id=2000, zone_id="B"),
        Transfer(user_id=ids[1], zone_id="B"),
        Transfer(user_id=ids[1], zone_id="A"),
        Transfer(user_id=ids[2], zone_id="B"),
        Transfer(global_id=2002, zone_id=None),
    ]
    moved = await database.run_transaction(lambda db: user_crud.transfer_users(db, rows))
    assert [(u.id, u.zone_id, u.version) for u in moved.value] == [
        (ids[3], "A", 1),
        (ids[0], "B", 2),
        (ids[1], "A", 1),
        (ids[2], None, 2),
    ]
    assert (await events_of(database, "zone:A"))[-1] == (Left(ids[0], 2), Left(ids[2], 2))
    ((entered,),) = await events_of(database, "zone:B")
    assert isinstance(entered, Entered)
    assert (entered.user.attributes, entered.user.version) == ({"n": 0}, 2)
    assert set(moved.positions) == {"zone:A", "zone:B", "unassigned"}


async def test_transfers_take_a_handful_of_statements(database: Database, ada: User) -> None:
    """A thousand moves need no more statements than one."""
    users = await make_users(database, 1000)
    rows = [Transfer(user_id=user.id, zone_id="B") for user in reversed(users)]
    with counted_statements(database) as sent:
        moved = await database.run_transaction(lambda db: user_crud.transfer_users(db, rows))
    assert len(writes(sent)) <= 8
    assert [user.id for user in moved.value] == [user.id for user in reversed(users)]
    assert {user.version for user in moved.value} == {2}


@pytest.mark.parametrize(
    ("row", "kind", "key"),
    [
        (Transfer(user_id=99, zone_id="B"), "user", 99),
        (Transfer(global_id=99, zone_id="B"), "user", 99),
        (Transfer(user_id=1, zone_id="Z"), "zone", "Z"),
    ],
)
async def test_transfers_with_an_unknown_row_move_nobody(
    database: Database, ada: User, row: Transfer, kind: str, key: object
) -> None:
    """One bad row refuses all, and is named by its index."""
    rows = [Transfer(user_id=1, zone_id="B"), row, Transfer(user_id=98, zone_id="Y")]
    with pytest.raises(NotFoundError) as caught:
        await database.run_transaction(lambda db: user_crud.transfer_users(db, rows))
    assert (caught.value.kind, caught.value.key, caught.value.index) == (kind, key, 1)
    assert await events_of(database, "zone:B") == []


async def test_transfer_needs_exactly_one_id(database: Database, ada: User) -> None:
    """A row that names its user twice, or not at all, is invalid."""
    for row in (Transfer(zone_id="B"), Transfer(user_id=1, global_id=1001, zone_id="B")):
        with pytest.raises(InvalidValueError):
            await database.run_transaction(partial(user_crud.transfer_users, transfers=[row]))


async def test_batch_and_objects_mix_in_a_transaction(
    database: Database, session: AsyncSession, ada: User
) -> None:
    """Objects know what a batch did to them, and the net effect is of all writes together."""
    ada.name = "x"
    (moved,) = await user_crud.transfer_users(session, [Transfer(user_id=1, zone_id="B")])
    assert moved is ada
    assert (ada.zone_id, ada.version) == ("B", 3)
    ada.name = "y"
    await session.commit()
    assert (await events_of(database, "zone:A"))[1:] == [(Left(1, 4),)]
    ((entered,),) = await events_of(database, "zone:B")
    assert isinstance(entered, Entered)
    assert (entered.user.name, entered.user.version) == ("y", 4)


async def test_transfer_rolled_back_to_a_savepoint_is_not_told(
    database: Database, session: AsyncSession, ada: User
) -> None:
    """Set-based writes are forgotten with their savepoint like all others."""
    savepoint = await session.begin_nested()
    await user_crud.transfer_users(session, [Transfer(user_id=1, zone_id="B")])
    await savepoint.rollback()
    await session.commit()
    assert await events_of(database, "zone:B") == []


@pytest.mark.parametrize(("how", "channel"), [("move", "zone:B"), ("unassign", "unassigned")])
async def test_occupied_zone_is_emptied_and_deleted(
    database: Database, ada: User, how: str, channel: str
) -> None:
    """Who is in a zone that goes is moved by one statement, and nothing follows on its channel."""
    users = await make_users(database, 20)
    with counted_statements(database) as sent:
        await database.run_transaction(
            lambda db: zone_crud.delete_zone(
                db, "A", move_to="B" if how == "move" else None, unassign=how == "unassign"
            )
        )
    assert len(writes(sent)) <= 10
    *left, gone = (await events_of(database, "zone:A"))[-1]
    assert left == [Left(user_id, 2) for user_id in (1, *(user.id for user in users))]
    assert gone == ZoneDeleted("A")
    (entered,) = await events_of(database, channel)
    assert len(entered) == 21
