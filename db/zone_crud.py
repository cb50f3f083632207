"""Zones: reading and writing them. Functions flush and never commit: their caller does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import selectinload

from channels.zone_grants import ALL_ZONES, ZoneGrant
from db.errors import DuplicateError, InvalidValueError, NotFoundError, ZoneOccupiedError
from db.models import Zone
from db.moves import hold_zones, lock_users, move_users
from db.rows import USERS, ZONES
from db.translation import driver_errors
from db.zone_filter import within

CHANGEABLE: Final = frozenset({"name", "attributes"})


async def get_all_zones(
    db: AsyncSession, skip: int = 0, limit: int = 100, grant: ZoneGrant = ALL_ZONES
) -> list[Zone]:
    """Return a page of the granted zones in the order of their ids, without their users."""
    query = select(Zone).order_by(Zone.zone_id).offset(skip).limit(limit)
    if not grant.has_all:
        query = query.where(within(ZONES.c.zone_id, grant, db.get_bind().dialect.name))
    with driver_errors():
        return list(await db.scalars(query))


async def get_zone_by_id(db: AsyncSession, zone_id: str) -> Zone | None:
    """Return a zone without its users, `None` when there is none with this id."""
    with driver_errors():
        return await db.get(Zone, zone_id)


async def get_zone_with_users(db: AsyncSession, zone_id: str) -> Zone | None:
    """Return a zone with its `users` loaded, by id, `None` when there is no such zone."""
    query = (
        select(Zone)
        .where(Zone.zone_id == zone_id)
        .options(selectinload(Zone.users))
        .execution_options(populate_existing=True)
    )
    with driver_errors():
        return await db.scalar(query)


async def create_zone(
    db: AsyncSession, *, zone_id: str, name: str, attributes: Mapping[str, Any] | None = None
) -> Zone:
    """Make a zone.

    Raises:
        DuplicateError: the id is taken.
        InvalidValueError: a value that the table can't hold.
    """
    zone = Zone(zone_id=zone_id, name=name, attributes=dict(attributes or {}))
    db.add(zone)
    try:
        with driver_errors():
            await db.flush()
    except DuplicateError as error:
        raise DuplicateError("zone", zone_id) from error
    return zone


async def update_zone(db: AsyncSession, zone_id: str, changes: Mapping[str, Any]) -> Zone:
    """Set a zone's `name` or `attributes` or both.

    Raises:
        NotFoundError: there is no such zone.
        InvalidValueError: a value that the table can't hold, or a field that can't be set.
    """
    for unknown in sorted(changes.keys() - CHANGEABLE):
        raise InvalidValueError(unknown, "can't be set")
    with driver_errors():
        zone = await _lock_zone(db, zone_id, shared_key=True)
        for key, value in changes.items():
            setattr(zone, key, value)
        await db.flush()
    return zone


async def delete_zone(
    db: AsyncSession, zone_id: str, *, move_to: str | None = None, unassign: bool = False
) -> None:
    """Delete a zone; who is in it goes to `move_to` or, with `unassign`, into no zone.

    Nobody can come in meanwhile: a move into the zone waits, and then finds it gone.

    Raises:
        NotFoundError: there is no such zone, or no zone `move_to`.
        ZoneOccupiedError: users are in it, and it wasn't said where they go.
        InvalidValueError: `move_to` is the zone itself.
    """
    if move_to == zone_id:
        raise InvalidValueError("move_to", "is the zone to be deleted")
    with driver_errors():
        await db.flush()
        # In the order of their ids: two that delete each other's target don't wait in a circle.
        if move_to is not None and move_to < zone_id:
            await _hold_target(db, move_to)
        zone = await _lock_zone(db, zone_id, shared_key=False)
        if move_to is not None and move_to > zone_id:
            await _hold_target(db, move_to)
        users = await lock_users(db, USERS.c.zone_id == zone_id)
        if users and move_to is None and not unassign:
            raise ZoneOccupiedError(zone_id, len(users))
        await move_users(db, [(user, move_to) for user in users])
        await db.delete(zone)
        await db.flush()


async def _hold_target(db: AsyncSession, zone_id: str) -> None:
    if not await hold_zones(db, [zone_id]):
        raise NotFoundError("zone", zone_id)


async def _lock_zone(db: AsyncSession, zone_id: str, *, shared_key: bool) -> Zone:
    query = (
        select(Zone)
        .where(Zone.zone_id == zone_id)
        .with_for_update(key_share=shared_key)
        .execution_options(populate_existing=True)
    )
    zone = await db.scalar(query)
    if zone is None:
        raise NotFoundError("zone", zone_id)
    return zone
