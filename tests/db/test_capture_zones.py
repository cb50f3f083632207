"""What a commit writes to the change log of zones, and how their histories begin and end."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from channels import events
from channels.events import Left, ZoneChanged, ZoneDeleted
from db.engine import Database
from db.models import User, Zone
from tests.db.replay import (
    events_of,
)

pytestmark = pytest.mark.usefixtures("log_is_whole")


def zone(zone_id: str, name: str) -> events.Zone:
    """Return a zone as clients see it."""
    return events.Zone(zone_id, name, {})


async def test_changed_zone_is_told_in_the_directory_and_to_its_watchers(
    database: Database, session: AsyncSession, ada: User
) -> None:
    """A zone's new name is told on both channels, as the row has it."""
    (await session.get_one(Zone, "A")).name = "Great Hall"
    await session.commit()
    changed = ZoneChanged(zone("A", "Great Hall"))
    assert (await events_of(database, "zones"))[1:] == [(changed,)]
    assert (await events_of(database, "zone:A"))[1:] == [(changed,)]


async def test_zone_is_told_as_the_row_has_it(
    database: Database, session: AsyncSession, ada: User
) -> None:
    """Two that change different columns of a zone don't undo each other in the events."""
    hall = await session.get_one(Zone, "A")
    await session.commit()
    async with AsyncSession(database.engine) as other:
        (await other.get_one(Zone, "A")).name = "Great Hall"
        await other.commit()
    assert hall.name == "Hall"
    hall.attributes = {"floor": 1}
    await session.commit()
    assert (await events_of(database, "zones"))[2:] == [
        (ZoneChanged(events.Zone("A", "Great Hall", {"floor": 1})),)
    ]


async def test_deleted_zone_is_told_last_on_its_own_channel(
    database: Database, session: AsyncSession, ada: User
) -> None:
    """Who leaves a zone leaves before it is gone; nothing follows."""
    ada.zone_id = "B"
    await session.flush()
    await session.delete(await session.get_one(Zone, "A"))
    await session.commit()
    assert (await events_of(database, "zone:A"))[1:] == [(Left(1, 2), ZoneDeleted("A"))]
    assert (await events_of(database, "zones"))[1:] == [(ZoneDeleted("A"),)]


async def _head(database: Database, channel: str) -> tuple[str, int, int]:
    query = text("SELECT epoch, rev, floor FROM channel_heads WHERE channel = :channel")
    async with database.snapshot() as connection:
        row = (await connection.execute(query, {"channel": channel})).one()
    return row.epoch, row.rev, row.floor


async def test_zone_made_anew_begins_a_new_history(
    database: Database, session: AsyncSession, ada: User
) -> None:
    """A zone made again after its deletion has a new epoch; its revisions go on counting."""
    epoch_before, _, _ = await _head(database, "zone:B")
    await session.delete(await session.get_one(Zone, "B"))
    await session.commit()
    assert await _head(database, "zone:B") == (epoch_before, 1, 0)
    session.add(Zone(zone_id="B", name="New Lab"))
    await session.commit()
    epoch, rev, floor = await _head(database, "zone:B")
    assert (rev, floor) == (1, 1)
    assert epoch != epoch_before
    ada.zone_id = "B"
    await session.commit()
    assert await _head(database, "zone:B") == (epoch, 2, 1)


async def test_zone_replaced_at_once_keeps_its_history(
    database: Database, session: AsyncSession, ada: User
) -> None:
    """A zone deleted and made anew in one transaction was changed, for who watches it."""
    epoch_before, _, _ = await _head(database, "zone:B")
    await session.delete(await session.get_one(Zone, "B"))
    session.add(Zone(zone_id="B", name="New Lab"))
    await session.commit()
    assert await events_of(database, "zone:B") == [(ZoneChanged(zone("B", "New Lab")),)]
    assert await _head(database, "zone:B") == (epoch_before, 1, 0)


async def test_missing_heads_are_made(database: Database, session: AsyncSession) -> None:
    """Tables without heads, made by hand, get them with the first change."""
    await session.execute(text("DELETE FROM channel_heads"))
    await session.commit()
    session.add_all([Zone(zone_id="A", name="a"), User(global_id=1, name="u")])
    await session.commit()
    assert (await _head(database, "unassigned"))[1:] == (1, 0)
    assert (await _head(database, "zone:A"))[1:] == (0, 0)
