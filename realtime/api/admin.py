"""Administration over HTTP: who is connected to this node, what it follows, and sending away.

All of it is about the one node that answers. Each route is tagged
`admin`, which is what a policy asks for.
"""

from __future__ import annotations

import time
from typing import Annotated, Any, cast

from fastapi import Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from channels.names import DIRECTORY
from channels.subscribers import Subscriber
from realtime.api.answers import json_response
from realtime.api.problems import Kind, ProblemError
from realtime.api.routes import new_router
from realtime.connections import Card, Connection
from realtime.node import Node, node_of

MAX_ROWS = 1_000

router = new_router("admin")

Limit = Annotated[int, Query(ge=1, le=MAX_ROWS)]


class ConnectionDocument(BaseModel):
    """A live connection."""

    id: str
    transport: str
    peer: str
    opened_ms: int
    channels: int
    queued_bytes: int
    slow: bool


class ConnectionsDocument(BaseModel):
    """The connections of one node; those with the most queued bytes come first."""

    node: str
    total: int
    limit: int
    slow: int
    stopping: bool
    connections: list[ConnectionDocument]


class ChannelDocument(BaseModel):
    """A channel that the node follows."""

    channel: str
    watchers: int
    epoch: str
    rev: int
    users: int | None


class ChannelsDocument(BaseModel):
    """The channels that one node follows; the most watched come first."""

    node: str
    total: int
    unverified_ms: int
    stale_since_ms: int | None
    bus: str
    channels: list[ChannelDocument]


class DisconnectBody(BaseModel):
    """Whom to send away."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(min_length=1, max_length=64, description="as `/admin/connections` has it")
    reconnect: bool = Field(default=False, description="whether the client is to come back")


class DisconnectedDocument(BaseModel):
    """Who was sent away."""

    node: str
    id: str


@router.get("/admin/connections", response_model=ConnectionsDocument)
async def read_connections(request: Request, limit: Limit = 100) -> Response:
    """The live connections of this node: those that wait for their client most come first."""
    node = node_of(request)
    found = [_document_of(node, *pair) for pair in node.connections.listed()]
    found.sort(key=lambda document: (-document["queued_bytes"], document["opened_ms"]))
    return json_response(
        {
            "node": node.node_id,
            "total": len(found),
            "limit": node.connections.maximum,
            "slow": node.feed.slow_count,
            "stopping": node.connections.stopping,
            "connections": found[:limit],
        }
    )


def _document_of(node: Node, connection: Connection, card: Card) -> dict[str, Any]:
    # Whoever is connected is the hub's subscriber, too.
    subscriber = cast("Subscriber[Any]", connection)
    return {
        "id": card.connection_id,
        "transport": card.transport,
        "peer": card.peer,
        "opened_ms": card.opened_ms,
        "channels": len(node.feed.channels_of(subscriber)),
        "queued_bytes": connection.queued_bytes,
        "slow": connection.congested,
    }


@router.get("/admin/channels", response_model=ChannelsDocument)
async def read_channels(request: Request, limit: Limit = 100) -> Response:
    """The channels that this node follows, those with most watchers first."""
    node = node_of(request)
    watchers = node.feed.watcher_counts()
    replicas = node.feed.follower.replicas
    names = sorted(replicas, key=lambda channel: (-watchers.get(channel, 0), channel))
    found = [
        {
            "channel": channel,
            "watchers": watchers.get(channel, 0),
            "epoch": replicas[channel].epoch,
            "rev": replicas[channel].rev,
            "users": None if channel == DIRECTORY else len(replicas[channel].users),
        }
        for channel in names[:limit]
    ]
    return json_response(
        {
            "node": node.node_id,
            "total": len(names),
            "unverified_ms": max(0, time.time_ns() // 1_000_000 - node.feed.verified_ms),
            "stale_since_ms": node.feed.stale_since_ms,
            "bus": node.bus.state.value,
            "channels": found,
        }
    )


@router.post("/admin/disconnect", response_model=DisconnectedDocument)
async def disconnect(request: Request, body: DisconnectBody) -> Response:
    """End a connection of this node; 404 when it has none with this id.

    A WebSocket client is told 3503 and stays away, or 3011 and comes back. An event stream
    ends; a browser's `EventSource` comes back by itself either way.
    """
    node = node_of(request)
    for connection, card in node.connections.listed():
        if card.connection_id == body.id:
            connection.dismiss(reconnect=body.reconnect)
            return json_response({"node": node.node_id, "id": body.id})
    raise ProblemError(Kind.NOT_FOUND, "no connection of this node has this id")
