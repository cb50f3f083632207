"""A served WebSocket endpoint over a truth in memory, and clients that talk to it raw.

The server, the protocol, the feed and the sockets are the real ones; the truth can be stopped,
compacted and renewed at will, which a database can't.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from starlette.applications import Starlette
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from channels.feed import Feed, FeedConfig
from channels.repairs import FollowerConfig
from realtime.connections import Connections
from realtime.limits import Limits
from realtime.metrics import Metrics
from realtime.node import Node
from realtime.presence import Attendance
from realtime.settings import Settings
from realtime.websocket_server import Server, server_config
from tests.channels.world import NullObserver, Truth, WildBus
from tests.realtime.encodings import Encoding, offered, spoken_by
from tests.realtime.open_gate import open_gate

Json = dict[str, Any]


async def until(condition: Callable[[], bool]) -> None:
    """Wait, bounded by the test's own timeout, until something in this process holds."""
    while not condition():  # noqa: ASYNC110 - what is waited for has no event.
        await asyncio.sleep(0.005)


class StopServerError(Exception):
    """Ends the task group of a served world."""


@dataclass
class Talker:
    """A client that sends commands and reads replies, and answers nothing by itself."""

    socket: ClientConnection
    _ids: int = 0
    _waiting: list[Json] = field(default_factory=list)

    async def say(self, *commands: Json) -> None:
        """Send commands as one message."""
        await self.socket.send(self.encoding.write(commands))

    @property
    def encoding(self) -> Encoding:
        """What was agreed upon at the handshake."""
        return spoken_by(self.socket.subprotocol)

    async def message(self) -> list[Json]:
        """Return the replies and pushes of the next message that isn't a ping."""
        while True:
            lines = self.encoding.read(await self.socket.recv())
            if lines != [{}]:
                return lines

    async def line(self) -> Json:
        """Return the next reply or push."""
        if not self._waiting:
            self._waiting = await self.message()
        return self._waiting.pop(0)

    async def ask(self, method: str, /, **params: Any) -> Json:
        """Send one command and return the next line, which is its reply."""
        self._ids += 1
        await self.say({"id": self._ids, method: params})
        reply = await self.line()
        assert reply["id"] == self._ids
        return reply

    async def subscribe(self, channel: str, **params: Any) -> Json:
        """Subscribe and return the result, which isn't an error."""
        reply = await self.ask("subscribe", channel=channel, **params)
        result: Json = reply["subscribe"]
        return result

    async def closing(self) -> tuple[int, str]:
        """Read until the server closes, and return its code and reason."""
        try:
            while True:
                await self.socket.recv()
        except ConnectionClosed as closed:
            if closed.rcvd is None:
                return 1006, ""
            return closed.rcvd.code, closed.rcvd.reason


@dataclass
class WireWorld:
    """A running server with its truth."""

    truth: Truth
    bus: WildBus
    node: Node
    server: Server
    port: int
    protocols: set[Any]

    @property
    def url(self) -> str:
        """Where the endpoint is."""
        return f"ws://127.0.0.1:{self.port}/connection/websocket"

    def commit(self, *moves: tuple[int, str | None]) -> str:
        """Commit moves elsewhere and let the bus bring them; return the transaction's id."""
        transaction = self.truth.commit(moves)
        for change in transaction.changes:
            self.bus.bring(change)
        return transaction.tx

    @contextlib.asynccontextmanager
    async def dial(self, path: str = "", **options: Any) -> AsyncIterator[Talker]:
        """Open a connection and say nothing."""
        options.setdefault("ping_interval", None)
        options.setdefault("max_size", None)
        options.setdefault("subprotocols", offered())
        url = self.url if not path else f"ws://127.0.0.1:{self.port}{path}"
        async with connect(url, **options) as client:
            yield Talker(client)

    @contextlib.asynccontextmanager
    async def talker(self, *channels: str, **options: Any) -> AsyncIterator[Talker]:
        """Open a connection that is connected and subscribed."""
        async with self.dial(**options) as talker:
            assert "connect" in await talker.ask("connect")
            for channel in channels:
                await talker.subscribe(channel)
            yield talker

    async def until_alone(self) -> None:
        """Wait until the node has no connections."""
        await until(lambda: len(self.node.connections) == 0)


@contextlib.asynccontextmanager
async def served(
    *, zones: Sequence[str] = ("A", "B", "C"), feed: FeedConfig | None = None, **settings: Any
) -> AsyncIterator[WireWorld]:
    """Serve a fresh world; `settings` differ from the defaults where given."""
    truth, bus = Truth(zones), WildBus()
    config = feed or FeedConfig(
        following=FollowerConfig(gap_wait_s=0.01, linger_s=0.01), head_check_interval_s=0.1
    )
    chosen = Settings(**{"shutdown_timeout_s": 2, **settings})
    app = Starlette()
    app.state.node = None
    listener = socket.create_server(("127.0.0.1", 0))
    try:
        async with asyncio.TaskGroup() as tasks:
            live = Feed(truth, bus, NullObserver(), config, tasks)
            app.state.node = _node(live, bus, chosen, tasks)
            server = Server(server_config(app, chosen), app, chosen)
            for work in (bus.run(live.follower), live.run(), app.state.node.attendance.run()):
                tasks.create_task(work)
            serving = tasks.create_task(server._serve([listener]))
            await until(lambda: server.started)
            port = listener.getsockname()[1]
            try:
                yield WireWorld(
                    truth, bus, app.state.node, server, port, server.server_state.connections
                )
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
