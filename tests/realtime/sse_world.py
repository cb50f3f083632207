"""A served SSE endpoint over a truth in memory, which can be stopped, compacted and renewed."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from fastapi import FastAPI

from channels.changes import Transaction
from channels.feed import Feed, FeedConfig
from channels.repairs import FollowerConfig
from realtime.api.problems import add_problem_handlers
from realtime.connections import Connections
from realtime.limits import Limits
from realtime.metrics import Metrics
from realtime.node import Node
from realtime.presence import Attendance
from realtime.settings import Settings
from realtime.sse.endpoint import routes
from realtime.websocket_server import Server, server_config
from tests.channels.world import NullObserver, Truth, WildBus
from tests.realtime.event_source import EventSource, event_source
from tests.realtime.open_gate import open_gate
from tests.realtime.wire_world import StopServerError, until


@dataclass
class SseWorld:
    """A running server with its truth."""

    truth: Truth
    bus: WildBus
    node: Node
    server: Server
    port: int

    @property
    def url(self) -> str:
        """The node's address."""
        return f"http://127.0.0.1:{self.port}"

    def bring(self, transaction: Transaction) -> Transaction:
        """Let the bus bring what was committed elsewhere."""
        for change in transaction.changes:
            self.bus.bring(change)
        return transaction

    def commit(self, *moves: tuple[int, str | None]) -> Transaction:
        """Commit moves elsewhere and let the bus bring them."""
        return self.bring(self.truth.commit(moves))

    @contextlib.asynccontextmanager
    async def source(self, *zones: str, **options: Any) -> AsyncIterator[EventSource]:
        """Open a stream."""
        async with event_source(self.url, *zones, **options) as source:
            yield source

    async def until_alone(self) -> None:
        """Wait until the node has no connections."""
        await until(lambda: len(self.node.connections) == 0)

    async def metric(self, name: str, **labels: str) -> float:
        """Return a figure of the node; collecting them reads files."""
        read = self.node.metrics.registry.get_sample_value
        return await asyncio.to_thread(read, f"zonecast_{name}", labels) or 0.0


@contextlib.asynccontextmanager
async def served_sse(
    *,
    zones: Sequence[str] = ("A", "B", "C"),
    feed: FeedConfig | None = None,
    http: Literal["h11", "httptools"] | None = None,
    **settings: Any,
) -> AsyncIterator[SseWorld]:
    """Serve a fresh world; `settings` differ from the defaults where given.

    `http` names a protocol of uvicorn's own, which can't hand a connection over.
    """
    truth, bus = Truth(zones), WildBus()
    chosen = Settings(**{"shutdown_timeout_s": 2, **settings})
    config = feed or FeedConfig(
        following=FollowerConfig(gap_wait_s=0.01, linger_s=0.01),
        head_check_interval_s=0.1,
        slow_drain_timeout_s=chosen.slow_drain_timeout_s,
    )
    app = FastAPI(openapi_url=None)
    add_problem_handlers(app, {})
    app.router.routes.extend(routes)
    listener = socket.create_server(("127.0.0.1", 0))
    try:
        async with asyncio.TaskGroup() as tasks:
            live = Feed(truth, bus, NullObserver(), config, tasks)
            app.state.node = _node(live, bus, chosen, tasks)
            server_settings = server_config(app, chosen)
            if http is not None:
                server_settings.http = http
            server = Server(server_settings, app, chosen)
            for work in (bus.run(live.follower), live.run(), app.state.node.attendance.run()):
                tasks.create_task(work)
            serving = tasks.create_task(server._serve([listener]))
            await until(lambda: server.started)
            try:
                yield SseWorld(truth, bus, app.state.node, server, listener.getsockname()[1])
            finally:
                server.should_exit = True
                await serving
            raise StopServerError  # noqa: TRY301 - how a task group is ended from within.
    except* StopServerError:
        pass


def _node(feed: Feed, bus: WildBus, settings: Settings, tasks: asyncio.TaskGroup) -> Node:
    unused = cast("Any", None)
    metrics = Metrics()
    connections = Connections(
        settings.max_connections, max_per_address=settings.max_connections_per_address
    )
    return Node(
        node_id="node-1",
        settings=settings,
        database=unused,
        change_log=unused,
        bus=bus,
        feed=feed,
        cache=unused,
        metrics=metrics,
        connections=connections,
        attendance=Attendance(feed, connections, settings),
        limits=Limits(settings, metrics.refused),
        gate=open_gate(feed),
        tickets=unused,
        tasks=tasks,
    )
