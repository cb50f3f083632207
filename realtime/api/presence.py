"""Presence over HTTP: who watches a zone, over all nodes."""

from __future__ import annotations

from fastapi import Request, Response
from pydantic import BaseModel, Field

from channels.names import zone_channel
from db import zone_crud
from realtime.api.answers import json_response, require
from realtime.api.documents import ZoneIdInPath
from realtime.api.problems import Kind, ProblemError
from realtime.api.routes import new_router
from realtime.node import node_of
from realtime.presence import TooManyWaitingError

router = new_router("channels")


class PresentClient(BaseModel):
    """A connection that watches a zone."""

    client: str
    user: str = Field(description="the `sub` of its token; empty where no tokens are asked for")


class PresenceDocument(BaseModel):
    """Who watches a zone, by WebSocket or event stream."""

    channel: str
    num_clients: int
    num_users: int = Field(
        description="different users; each client that nobody knows counts for itself"
    )
    clients: list[PresentClient] | None = Field(
        description="`null` when they are more than the node names (`presence_max_clients`)"
    )


@router.get("/zones/{zone_id}/presence", response_model=PresenceDocument)
async def read_presence(request: Request, zone_id: ZoneIdInPath) -> Response:
    """Who watches the zone now, asked of all nodes.

    503 when one of them doesn't answer in time: what the others know would pass for the whole.
    """
    node = node_of(request)
    channel = zone_channel(zone_id)
    try:
        found = await node.attendance.look(channel)
    except TooManyWaitingError:
        raise ProblemError(Kind.OVERLOADED, "too many ask for presence at once") from None
    if not found.num_clients:
        async with node.database.get_db(read_only=True) as session:
            require(await zone_crud.get_zone_by_id(session, zone_id), "zone", zone_id)
    clients = found.clients
    return json_response(
        {
            "channel": channel,
            "num_clients": found.num_clients,
            "num_users": found.num_users,
            "clients": None
            if clients is None
            else [{"client": client, "user": user} for client, user in clients.items()],
        }
    )
