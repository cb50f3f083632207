"""Zones over HTTP."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Query, Request, Response
from sqlalchemy.ext.asyncio import AsyncSession

from db import zone_crud
from db.models import Zone
from realtime.api.answers import (
    bounded,
    document_of_user,
    document_of_zone,
    encode,
    json_response,
    raw_response,
    require,
    write_response,
)
from realtime.api.documents import (
    Limit,
    NewZone,
    Skip,
    ZoneDocument,
    ZoneIdInPath,
    ZoneIdInQuery,
    ZoneList,
    ZonePatch,
)
from realtime.api.guard import grant_of
from realtime.api.problems import Kind, ProblemError
from realtime.api.routes import new_router
from realtime.api.writes import refuse_if_match, write
from realtime.node import node_of

router = new_router("zones")


@router.post("/zones", status_code=201, response_model=ZoneDocument)
async def create_zone(request: Request, zone: NewZone) -> Response:
    """Make a zone."""

    async def work(session: AsyncSession) -> Zone:
        return await zone_crud.create_zone(
            session, zone_id=zone.zone_id, name=zone.name, attributes=zone.attributes
        )

    made = await write(request, "create_zone", work)
    location = f"/zones/{zone.zone_id}"
    return write_response(
        made.positions, document_of_zone(made.value), status=201, location=location
    )


@router.get("/zones", response_model=ZoneList)
async def list_zones(request: Request, skip: Skip = 0, limit: Limit = 100) -> Response:
    """Granted zones in the order of their ids."""
    async with node_of(request).database.get_db(read_only=True) as session:
        zones = await zone_crud.get_all_zones(session, skip, limit, grant_of(request))
    return json_response({"zones": [document_of_zone(zone) for zone in zones]})


@router.get("/zones/{zone_id}", response_model=ZoneDocument, response_model_exclude_unset=True)
async def read_zone(
    request: Request,
    zone_id: ZoneIdInPath,
    include: Annotated[Literal["users"] | None, Query()] = None,
) -> Response:
    """One zone, with its users when `include=users`."""
    node = node_of(request)
    async with node.database.get_db(read_only=True) as session:
        read = zone_crud.get_zone_by_id if include is None else zone_crud.get_zone_with_users
        zone = require(await read(session, zone_id), "zone", zone_id)
    if include is None:
        return json_response(document_of_zone(zone))
    users = [document_of_user(user) for user in zone.users]
    body = encode(
        {
            "zone_id": zone.zone_id,
            "name": zone.name,
            "attributes": zone.attributes,
            "users": users,
        }
    )
    pages = f"/users?zone_id={zone_id}"
    return raw_response(bounded(body, node.settings.snapshot_max_bytes, pages))


@router.patch("/zones/{zone_id}", response_model=ZoneDocument)
async def update_zone(request: Request, zone_id: ZoneIdInPath, patch: ZonePatch) -> Response:
    """Change a zone's name or attributes."""
    refuse_if_match(request)

    async def work(session: AsyncSession) -> Zone:
        return await zone_crud.update_zone(session, zone_id, patch.given())

    changed = await write(request, "update_zone", work)
    return write_response(changed.positions, document_of_zone(changed.value))


@router.delete("/zones/{zone_id}", status_code=204)
async def delete_zone(
    request: Request,
    zone_id: ZoneIdInPath,
    move_to: ZoneIdInQuery = None,
    unassign: bool = False,  # noqa: FBT001, FBT002 -- a query parameter.
) -> Response:
    """Delete a zone; its users, if any, go to `move_to` or, with `unassign`, to no zone."""
    refuse_if_match(request)
    if move_to is not None and unassign:
        raise ProblemError(Kind.INVALID, "give either move_to or unassign")
    if move_to == zone_id:
        raise ProblemError(Kind.INVALID, "move_to must be another zone")

    async def work(session: AsyncSession) -> None:
        await zone_crud.delete_zone(session, zone_id, move_to=move_to, unassign=unassign)

    gone = await write(request, "delete_zone", work)
    return write_response(gone.positions)
