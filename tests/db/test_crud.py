"""Reading and writing users and zones, and how many statements that takes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession

from channels.events import Changed, Entered
from db import user_crud, zone_crud
from db.engine import Database
from db.errors import (
    DuplicateError,
    InvalidValueError,
    NotFoundError,
    VersionMismatchError,
    ZoneOccupiedError,
)
from db.models import MAX_ID, User, Zone
from tests.db.replay import events_of
from tests.db.statements import counted_statements, make_users, writes

pytestmark = pytest.mark.usefixtures("log_is_whole")


async def test_user_is_made_and_read(database: Database, ada: User) -> None:
    """What was made can be read by its id, in pages, by zone and by global id."""
    made = await database.run_transaction(
        lambda db: user_crud.create_user(
            db, global_id=MAX_ID, name="Bob", zone_id="B", attributes={"a": [1, None]}
        )
    )
    bob = made.value
    assert (bob.version, bob.attributes) == (1, {"a": [1, None]})
    assert bob.created_at.utcoffset() is not None
    async with database.get_db(read_only=True) as db:
        read = await user_crud.get_user_by_id(db, bob.id)
        assert read is not None
        assert (read.global_id, read.name, read.zone_id) == (MAX_ID, "Bob", "B")
        assert read.created_at == bob.created_at
        assert await user_crud.get_user_by_id(db, 99) is None
        assert [u.id for u in await user_crud.get_all_users(db)] == [1, bob.id]
        assert [u.id for u in await user_crud.get_all_users(db, 1, 1)] == [bob.id]
        assert [u.id for u in await user_crud.get_all_users(db, zone_id="A")] == [1]
        assert [u.id for u in await user_crud.get_all_users(db, global_id=1001)] == [1]
        assert await user_crud.count_users(db) == 2
        assert await user_crud.get_users_dict(db) == {
            1001: {"id": 1, "name": "Ada", "zone_id": "A", "version": 1},
            MAX_ID: {"id": bob.id, "name": "Bob", "zone_id": "B", "version": 1},
        }


async def test_ids_are_not_used_again(database: Database, ada: User) -> None:
    """The id of the last user deleted is not given to the next one."""
    await database.run_transaction(lambda db: user_crud.delete_user(db, 1))
    made = await database.run_transaction(
        lambda db: user_crud.create_user(db, global_id=1, name="Bob")
    )
    assert made.value.id > 1


async def test_user_is_updated_at_its_version(database: Database, ada: User) -> None:
    """A version that isn't the present one writes nothing; the present one does."""
    with pytest.raises(VersionMismatchError) as caught:
        await database.run_transaction(
            lambda db: user_crud.update_user(db, 1, {"name": "x"}, expected_version=2)
        )
    assert (caught.value.expected, caught.value.actual) == (2, 1)
    with pytest.raises(VersionMismatchError):
        await database.run_transaction(lambda db: user_crud.delete_user(db, 1, expected_version=2))
    changes = {"name": "x", "attributes": {"a": 1}, "global_id": 7, "zone_id": None}
    updated = await database.run_transaction(
        lambda db: user_crud.update_user(db, 1, changes, expected_version=1)
    )
    assert updated.value.version == 2
    ((entered,),) = await events_of(database, "unassigned")
    assert isinstance(entered, Entered)
    assert (entered.user.name, entered.user.global_id) == ("x", 7)
    same = await database.run_transaction(lambda db: user_crud.update_user(db, 1, changes))
    assert (same.value.version, same.tx) == (2, None)


@pytest.mark.parametrize(
    ("write", "error", "fields"),
    [
        (
            lambda db: user_crud.create_user(db, global_id=1001, name="x"),
            DuplicateError,
            {"kind": "user", "key": 1001},
        ),
        (
            lambda db: user_crud.create_user(db, global_id=2, name="x", zone_id="Z"),
            NotFoundError,
            {"kind": "zone", "key": "Z"},
        ),
        (
            lambda db: user_crud.create_user(db, global_id=2**53, name="x"),
            InvalidValueError,
            {"field": "global_id"},
        ),
        (
            lambda db: user_crud.create_user(db, global_id=2, name="x" * 201),
            InvalidValueError,
            {"field": "name"},
        ),
        (
            lambda db: user_crud.create_user(db, global_id=2, name="a\0b"),
            InvalidValueError,
            {"field": "name"},
        ),
        (
            lambda db: user_crud.update_user(db, 1, {"zone_id": "Z"}),
            NotFoundError,
            {"kind": "zone", "key": "Z"},
        ),
        (
            lambda db: user_crud.update_user(db, 1, {"version": 9}),
            InvalidValueError,
            {"field": "version"},
        ),
        (
            lambda db: user_crud.update_user(db, 9, {}),
            NotFoundError,
            {"kind": "user", "key": 9},
        ),
        (lambda db: user_crud.delete_user(db, 9), NotFoundError, {"kind": "user", "key": 9}),
        (
            lambda db: user_crud.transfer_user_to_zone(db, 1, "Z"),
            NotFoundError,
            {"kind": "zone", "key": "Z"},
        ),
        (
            lambda db: zone_crud.create_zone(db, zone_id="A", name="x"),
            DuplicateError,
            {"kind": "zone", "key": "A"},
        ),
        (
            lambda db: zone_crud.create_zone(db, zone_id="a b", name="x"),
            InvalidValueError,
            {"field": "zone_id"},
        ),
        (
            lambda db: zone_crud.update_zone(db, "Z", {}),
            NotFoundError,
            {"kind": "zone", "key": "Z"},
        ),
        (
            lambda db: zone_crud.update_zone(db, "A", {"zone_id": "C"}),
            InvalidValueError,
            {"field": "zone_id"},
        ),
        (
            lambda db: zone_crud.delete_zone(db, "Z"),
            NotFoundError,
            {"kind": "zone", "key": "Z"},
        ),
        (
            lambda db: zone_crud.delete_zone(db, "A", move_to="Z"),
            NotFoundError,
            {"kind": "zone", "key": "Z"},
        ),
        (
            lambda db: zone_crud.delete_zone(db, "A", move_to="A"),
            InvalidValueError,
            {"field": "move_to"},
        ),
        (
            lambda db: zone_crud.delete_zone(db, "A"),
            ZoneOccupiedError,
            {"zone_id": "A", "users": 1},
        ),
        (
            lambda db: user_crud.get_user_by_id(db, 2**70),
            InvalidValueError,
            {"field": "value"},
        ),
    ],
)
async def test_refused_write_says_what_was_wrong(
    database: Database, ada: User, write: Any, error: type[Exception], fields: dict[str, Any]
) -> None:
    """Each rule has its error, with what it is about as fields, the same on both databases."""
    with pytest.raises(error) as caught:
        await database.run_transaction(write)
    assert {name: getattr(caught.value, name) for name in fields} == fields


async def test_zone_is_made_read_and_changed(database: Database, ada: User) -> None:
    """Zones in pages, one without and one with its users in the order of their ids."""
    await make_users(database, 3)
    await database.run_transaction(
        lambda db: zone_crud.update_zone(db, "A", {"name": "x", "attributes": {"floor": 1}})
    )
    async with database.get_db(read_only=True) as db:
        assert [z.zone_id for z in await zone_crud.get_all_zones(db)] == ["A", "B"]
        assert [z.zone_id for z in await zone_crud.get_all_zones(db, 1, 1)] == ["B"]
        zone = await zone_crud.get_zone_by_id(db, "A")
        assert zone is not None
        assert (zone.name, zone.attributes) == ("x", {"floor": 1})
        with pytest.raises(InvalidRequestError, match="raise_on_sql"):
            _ = zone.users
        with_users = await zone_crud.get_zone_with_users(db, "A")
        assert with_users is not None
        assert [user.global_id for user in with_users.users] == [1001, 2000, 2001, 2002]
        assert await zone_crud.get_zone_by_id(db, "Z") is None
        assert await zone_crud.get_zone_with_users(db, "Z") is None


async def test_reads_take_as_many_statements_for_many_as_for_one(
    database: Database, ada: User
) -> None:
    """No reading function asks again for each row."""
    await make_users(database, 50)
    reads: dict[str, tuple[Callable[[AsyncSession], Awaitable[object]], int]] = {
        "get_all_users": (lambda db: user_crud.get_all_users(db, 0, 1000), 1),
        "get_users_dict": (user_crud.get_users_dict, 1),
        "get_all_zones": (zone_crud.get_all_zones, 1),
        "get_zone_with_users": (lambda db: zone_crud.get_zone_with_users(db, "A"), 2),
    }
    for name, (read, expected) in reads.items():
        with counted_statements(database) as sent:
            async with database.get_db(read_only=True) as db:
                await read(db)
        assert len(writes(sent)) == expected, (name, sent)


async def test_one_user_is_moved_by_few_statements(database: Database, ada: User) -> None:
    """The write that everything else waits for is short."""
    with counted_statements(database) as sent:
        await database.run_transaction(lambda db: user_crud.transfer_user_to_zone(db, 1, "B"))
    assert len(writes(sent)) <= 6
    ((changed_or_left,),) = (await events_of(database, "zone:A"))[1:]
    assert not isinstance(changed_or_left, Changed)


async def test_attributes_hold_whatever_json_can(database: Database, ada: User) -> None:
    """Attributes come back as they were given, and are told so."""
    attributes: dict[str, Any] = {
        "text": "naïve ✓ 🏢",
        "numbers": [0, -1.5, 2**53],
        "nested": {"list": [{}], "none": None, "yes": True},
    }
    await database.run_transaction(
        lambda db: user_crud.update_user(db, 1, {"attributes": attributes})
    )
    ((changed,),) = (await events_of(database, "zone:A"))[1:]
    assert isinstance(changed, Changed)
    assert changed.user.attributes == attributes
    async with database.get_db(read_only=True) as db:
        zone = await zone_crud.get_zone_with_users(db, "A")
        assert isinstance(zone, Zone)
        assert zone.users[0].attributes == attributes
