"""What a commit writes to the change log: the net effect of its transaction."""

from __future__ import annotations

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import defer, load_only

from channels import events
from channels.changes import Transaction
from channels.events import Changed, Entered, Left, ZoneChanged, ZoneCreated
from db.engine import Database
from db.models import Base, User, Zone
from tests.db.replay import (
    events_of,
    read_log,
)

pytestmark = pytest.mark.usefixtures("log_is_whole")


def seen(user: User) -> events.User:
    """Return a user as clients see it."""
    return events.User(
        user.id, user.global_id, user.name, user.zone_id, dict(user.attributes), user.version
    )


def zone(zone_id: str, name: str) -> events.Zone:
    """Return a zone as clients see it."""
    return events.Zone(zone_id, name, {})


async def test_new_user_enters_its_zone(database: Database, ada: User) -> None:
    """A user made in a zone is announced there, and the new zones in the directory."""
    assert await events_of(database, "zone:A") == [(Entered(seen(ada)),)]
    assert await events_of(database, "zone:B") == []
    assert await events_of(database, "zones") == [
        (ZoneCreated(zone("A", "Hall")), ZoneCreated(zone("B", "Lab")))
    ]


async def test_new_user_without_zone_is_unassigned(
    database: Database, session: AsyncSession
) -> None:
    """A user in no zone is announced on the channel of the unassigned."""
    user = User(global_id=1, name="Bob")
    session.add(user)
    await session.commit()
    assert await events_of(database, "unassigned") == [(Entered(seen(user)),)]


async def test_moved_user_leaves_and_enters_with_the_new_version(
    database: Database, session: AsyncSession, ada: User, handed: list[Transaction]
) -> None:
    """A move is one transaction on two channels, at the version after it."""
    ada.zone_id = "B"
    await session.commit()
    assert ada.version == 2
    assert (await events_of(database, "zone:A"))[1:] == [(Left(ada.id, 2),)]
    assert await events_of(database, "zone:B") == [(Entered(seen(ada)),)]
    assert [change.parts for change in handed[-1].changes] == [(("zone:A", 2), ("zone:B", 1))] * 2
    rows = [row for row in await read_log(database) if row.tx == handed[-1].tx]
    assert [row.span for row in rows] == [2, 2]


async def test_move_by_relationship_is_a_move(
    database: Database, session: AsyncSession, ada: User
) -> None:
    """Assigning a zone object does what assigning its id does."""
    ada.zone = await session.get_one(Zone, "B")
    await session.commit()
    assert (await events_of(database, "zone:A"))[1:] == [(Left(ada.id, 2),)]
    assert await events_of(database, "zone:B") == [(Entered(seen(ada)),)]


async def test_user_that_stays_is_changed(
    database: Database, session: AsyncSession, ada: User
) -> None:
    """A new name in the same zone is a change there and nowhere else."""
    ada.name = "Ada L."
    await session.commit()
    assert (await events_of(database, "zone:A"))[1:] == [(Changed(seen(ada)),)]
    assert await events_of(database, "zone:B") == []


async def test_there_and_back_is_a_change(
    database: Database, session: AsyncSession, ada: User
) -> None:
    """A -> B -> A in one transaction only raised the version; B never hears of it."""
    ada.zone_id = "B"
    await session.flush()
    ada.zone_id = "A"
    await session.commit()
    assert ada.version == 3
    assert (await events_of(database, "zone:A"))[1:] == [(Changed(seen(ada)),)]
    assert await events_of(database, "zone:B") == []


async def test_several_flushes_are_one_effect(
    database: Database, session: AsyncSession, ada: User, handed: list[Transaction]
) -> None:
    """Only the state before the first flush and after the last one counts."""
    for name in ("x", "y", "z"):
        ada.name = name
        await session.flush()
    ada.zone_id = "B"
    await session.commit()
    assert (await events_of(database, "zone:A"))[1:] == [(Left(ada.id, 5),)]
    assert await events_of(database, "zone:B") == [(Entered(seen(ada)),)]
    assert len(handed) == 2


async def test_nothing_written_is_nothing_told(
    database: Database, session: AsyncSession, ada: User, handed: list[Transaction]
) -> None:
    """Reading, and assigning what was there already, makes no revision."""
    ada.zone_id = "A"
    ada.name = "Ada"
    await session.commit()
    await session.get(User, ada.id, populate_existing=True)
    await session.commit()
    assert len(await events_of(database, "zone:A")) == 1
    assert len(handed) == 1


async def test_rolled_back_is_nothing_told(
    session: AsyncSession, ada: User, handed: list[Transaction]
) -> None:
    """What was flushed and rolled back is told nobody, not by the next commit either."""
    ada.name = "x"
    await session.flush()
    await session.rollback()
    await session.execute(text("SELECT 1"))
    await session.commit()
    assert len(handed) == 1


async def test_deleted_user_leaves_with_the_version_after_its_last(
    database: Database, session: AsyncSession, ada: User
) -> None:
    """A deletion counts as one more version, so that an older event can't bring it back."""
    ada.name = "x"
    await session.flush()
    await session.delete(ada)
    await session.commit()
    assert (await events_of(database, "zone:A"))[1:] == [(Left(ada.id, 3),)]


async def test_moved_and_deleted_user_leaves_where_it_was_seen(
    database: Database, session: AsyncSession, ada: User
) -> None:
    """Who moved and was deleted in one transaction leaves only the zone where it was before."""
    ada.zone_id = "B"
    await session.flush()
    await session.delete(ada)
    await session.commit()
    assert (await events_of(database, "zone:A"))[1:] == [(Left(ada.id, 3),)]
    assert await events_of(database, "zone:B") == []


async def test_made_and_deleted_at_once_is_nothing(
    database: Database, session: AsyncSession, ada: User
) -> None:
    """Who was made and deleted in one transaction was never there."""
    bob = User(global_id=2, name="Bob", zone_id="A")
    session.add_all([bob, Zone(zone_id="C", name="c")])
    await session.flush()
    await session.delete(bob)
    await session.delete(await session.get_one(Zone, "C"))
    await session.commit()
    assert await events_of(database, "zone:A") == [(Entered(seen(ada)),)]
    assert len(await events_of(database, "zones")) == 1


async def test_replaced_user_is_changed(
    database: Database, session: AsyncSession, ada: User
) -> None:
    """Deleted and made anew under the same id in one flush, a user has only moved."""
    await session.delete(ada)
    new = User(id=ada.id, global_id=1001, name="Ada", zone_id="B", attributes={})
    session.add(new)
    await session.commit()
    assert (await events_of(database, "zone:A"))[1:] == [(Left(new.id, 2),)]
    assert await events_of(database, "zone:B") == [(Entered(seen(new)),)]


@pytest.mark.parametrize("how", ["expired", "deferred", "only zone loaded", "not loaded"])
async def test_old_zone_is_known_although_the_object_does_not_know_it(
    database: Database, session: AsyncSession, ada: User, how: str
) -> None:
    """Setting the zone of an object that never loaded the old one leaves the old one all the same.

    Without loading it first there is no history, and nobody would leave.
    """
    options = {
        "deferred": [defer(User.zone_id)],
        "only zone loaded": [load_only(User.id, User.zone_id)],
        "not loaded": [load_only(User.id)],
    }.get(how, [])
    if how == "expired":
        session.expire(ada)
    else:
        session.expunge(ada)
    user = ada if how == "expired" else await session.get_one(User, 1, options=options)
    user.zone_id = "B"
    await session.commit()
    assert (await events_of(database, "zone:A"))[1:] == [(Left(1, 2),)]
    assert [type(told[0]) for told in await events_of(database, "zone:B")] == [Entered]


async def test_old_zone_is_known_of_objects_that_other_listeners_change(
    database: Database, session: AsyncSession, ada: User
) -> None:
    """Somebody else's listener may change more objects, after ours has looked at them."""
    session.expire(ada)
    bob = User(global_id=2, name="Bob")

    def move_ada(*_args: object) -> None:
        ada.zone_id = "B"

    event.listen(session.sync_session, "before_flush", move_ada)
    session.add(bob)
    await session.commit()
    assert (await events_of(database, "zone:A"))[1:] == [(Left(1, 2),)]


async def test_subclass_of_a_model_is_captured(
    database: Database, session: AsyncSession, ada: User
) -> None:
    """A model of one's own that extends ours is still a user."""

    class Visitor(User):
        __mapper_args__ = {"polymorphic_on": None}  # noqa: RUF012 - as SQLAlchemy reads it

    try:
        visitor = await session.get_one(Visitor, 1)
        visitor.zone_id = "B"
        await session.commit()
        assert (await events_of(database, "zone:A"))[1:] == [(Left(1, 2),)]
    finally:
        session.expunge_all()
        Base.registry._dispose_cls(Visitor)


async def test_zone_older_than_the_version_is_not_trusted(
    database: Database, session: AsyncSession, ada: User
) -> None:
    """After a refresh of the version alone the zone that the object has may be an old one."""
    async with AsyncSession(database.engine) as other:
        (await other.get_one(User, 1)).zone_id = "B"
        await other.commit()
    await session.refresh(ada, ["version"])
    assert ada.zone_id == "A"
    ada.name = "x"
    await session.commit()
    assert (await events_of(database, "zone:A"))[1:] == [(Left(1, 2),)]
    entered, changed = await events_of(database, "zone:B")
    assert isinstance(entered[0], Entered)
    assert isinstance(changed[0], Changed)


async def test_attributes_are_told_as_they_are_stored(
    database: Database, session: AsyncSession, ada: User
) -> None:
    """A change inside attributes is seen; one inside a list of theirs, unseen, isn't told."""
    ada.attributes["tags"] = ["a"]
    await session.flush()
    ada.attributes["tags"].append("b")
    await session.commit()
    ((changed,),) = (await events_of(database, "zone:A"))[1:]
    assert isinstance(changed, Changed)
    assert changed.user.attributes == {"tags": ["a"]}


async def test_events_of_a_change_are_in_the_order_in_which_they_apply(
    database: Database, session: AsyncSession
) -> None:
    """The zone first, then who left, changed and entered, each by id."""
    session.add_all([Zone(zone_id="A", name="a"), Zone(zone_id="B", name="b")])
    users = [User(global_id=n, name="u", zone_id="AABB"[n % 4]) for n in range(8)]
    session.add_all(users)
    await session.commit()
    by_zone = {
        zone_id: sorted(user.id for user in users if user.zone_id == zone_id) for zone_id in "AB"
    }
    for user in users:
        if user.id in (by_zone["A"][0], by_zone["A"][3], *by_zone["B"][1:3]):
            user.zone_id = "B" if user.zone_id == "A" else "A"
        else:
            user.name = "v"
    (await session.get_one(Zone, "A")).name = "x"
    await session.commit()
    (told,) = (await events_of(database, "zone:A"))[1:]
    kinds = [type(event) for event in told]
    assert kinds == [ZoneChanged, Left, Left, Changed, Changed, Entered, Entered]
    ids = [
        e.user_id if isinstance(e, Left) else e.user.id
        for e in told
        if isinstance(e, Left | Changed | Entered)
    ]
    assert ids == [
        *(by_zone["A"][0], by_zone["A"][3]),
        *by_zone["A"][1:3],
        *by_zone["B"][1:3],
    ]
