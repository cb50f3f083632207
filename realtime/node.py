"""The node: everything that one process runs, built once and handed to whoever needs it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from cache.redis_cache import RedisCache
from channels.feed import Feed
from channels.ports import Bus
from db.changelog import DatabaseChangeLog
from db.engine import Database
from realtime.auth.gate import Gate
from realtime.auth.tickets import DatabaseTickets
from realtime.connections import Connections
from realtime.limits import Limits
from realtime.metrics import Metrics
from realtime.presence import Attendance
from realtime.request_quota import RequestQuota
from realtime.settings import Settings

if TYPE_CHECKING:
    from realtime.otel.spans import Spans  # Imported only where there is a collector.


@dataclass(frozen=True, slots=True)
class Node:
    """What handlers may use. Found by `node_of` while the application's lifespan lasts.

    Attributes:
        node_id: Unique for this start of this process, shown to clients.
        tasks: Owns what outlasts no connection but runs beside its handler; whoever starts
            something there also ends it, and nothing that it raises may leave it.
        gate: Who is let in, and the policy that every path asks.
        tickets: Issues tickets.
        quota: Of HTTP requests; `None`: there is none.
        spans: Told what is done; `None`: nothing is traced.
        connections: Live WebSocket and SSE connections, for limits and the farewell.
        limits: What those are held to.
        attendance: Who watches what, over all nodes.
        tasks: For what has to be awaited and belongs to no request. A task that fails ends the
            node, so each handles its own errors.
    """

    node_id: str
    settings: Settings
    database: Database
    change_log: DatabaseChangeLog
    bus: Bus
    feed: Feed
    cache: RedisCache
    metrics: Metrics
    connections: Connections
    limits: Limits
    tasks: asyncio.TaskGroup
    gate: Gate
    attendance: Attendance
    tickets: DatabaseTickets
    quota: RequestQuota | None = None
    spans: Spans | None = None


class HasApp(Protocol):
    """A request or a WebSocket: whatever knows its application."""

    @property
    def app(self) -> object:
        """The Starlette application."""


def node_of(connection: HasApp) -> Node:
    """Return the node that serves a request or WebSocket."""
    return cast("Node", connection.app.state.node)  # type: ignore[attr-defined]
