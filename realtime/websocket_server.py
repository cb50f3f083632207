"""The server: uvicorn with bounds, and a shutdown that tells clients before it closes."""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from types import FrameType
from typing import Final, cast

import uvicorn
from starlette.applications import Starlette

from realtime.connections import Connections
from realtime.descriptors import DescriptorWatch
from realtime.garbage import GarbageCollection
from realtime.http_protocol import BoundedHttpProtocol, bound_kernel
from realtime.settings import Settings
from realtime.websocket.endpoint import WebSockets
from realtime.websocket.protocol import SharedFrameProtocol

_POLL_S: Final = 0.02
_TICKS_PER_S: Final = 10
_LEAST_GRACE_S: Final = 0.2


def server_config(app: Starlette, settings: Settings) -> uvicorn.Config:
    """Configure uvicorn for an application: our WebSocket protocol, and no wait without bound."""
    # Called like the class that uvicorn's signature asks for.
    http = partial(
        BoundedHttpProtocol,
        head_timeout_s=settings.connect_timeout_s,
        upgrade=WebSockets(app).upgrade,
    )
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=cast("type[asyncio.Protocol]", http),
        # Only says that there is one: the HTTP protocol hands handshakes to our endpoint.
        ws=SharedFrameProtocol,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        # From anybody else they would be whatever a client likes to be.
        proxy_headers=bool(settings.trusted_proxies.strip()),
        forwarded_allow_ips=settings.trusted_proxies,
        backlog=settings.listen_backlog,
        timeout_keep_alive=max(1, round(settings.keep_alive_timeout_s)),
        timeout_graceful_shutdown=max(1, round(settings.shutdown_timeout_s)),
    )


class Server(uvicorn.Server):
    """uvicorn's server with a farewell: clients are told and flushed before anything closes.

    From the first signal on the node is not ready; `drain_delay_s` later it takes nobody new,
    and its clients are told, `drain_connections_per_s` of them, or faster where that would take
    more than half of `shutdown_timeout_s`: other nodes get them one by one, and who was not told
    yet is served as before. When `shutdown_timeout_s` is over, all connections are gone; the
    lifespan's end may take as long again. A second signal ends it at once.

    Args:
        config: Made by `server_config`.
        app: The application whose node's connections are told.
        settings: Names the bounds.
    """

    def __init__(self, config: uvicorn.Config, app: Starlette, settings: Settings) -> None:
        super().__init__(config)
        self._app = app
        self._shutdown_timeout_s = settings.shutdown_timeout_s
        self._descriptors = DescriptorWatch()
        self._drain_delay_s = settings.drain_delay_s
        self._drain_connections_per_s = settings.drain_connections_per_s

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until the end; collections of garbage pass over what is there when it begins.

        That is some 150,000 objects of modules and routes: looking at them each time would hold
        the loop for a tenth of a second.
        """
        GarbageCollection().begin()
        super().run(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, on sockets whose connections are bounded in the kernel, too."""
        for sock in sockets or []:
            bound_kernel(sock)  # Before it listens: nobody comes sooner.
        await super().startup(sockets)
        for server in [] if sockets else getattr(self, "servers", []):
            for sock in server.sockets:
                bound_kernel(sock)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the shutdown, or end at once when it has begun.

        Deliberately not uvicorn's: sse-starlette replaces that one when it is imported, to
        cut its streams before anybody could say goodbye.
        """
        self._captured_signals.append(sig)
        self.force_exit = self.should_exit
        self.should_exit = True

    @property
    def has_failed(self) -> bool:
        """Whether the lifespan ended by itself: the node no longer follows the database."""
        lifespan = getattr(self, "lifespan", None)
        return bool(getattr(lifespan, "error_occurred", False))

    async def on_tick(self, counter: int) -> bool:
        """End the process when its node has failed, rather than serve a picture that stands."""
        if counter % _TICKS_PER_S == 0:
            self._descriptors.look()
        return await super().on_tick(counter) or self.has_failed

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, say goodbye, wait, drop who is left, and end the lifespan."""
        loop = asyncio.get_running_loop()
        connections = self._connections()
        if connections is not None and not self.has_failed:
            connections.stopping = True
            await self._pause(self._drain_delay_s)
        until_s = loop.time() + self._shutdown_timeout_s
        for server in self.servers:
            server.close()
        for sock in sockets or []:
            sock.close()
        if connections is not None:
            await self._say_goodbye(connections)
            await self._until_gone(connections, until_s)
            connections.abort()
        left_s = max(_LEAST_GRACE_S, until_s - loop.time())
        # An int in uvicorn's signature, handed to asyncio.wait_for as it is.
        self.config.timeout_graceful_shutdown = cast("int", left_s)
        try:
            async with asyncio.timeout(left_s + self._shutdown_timeout_s):
                await super().shutdown([])
        except TimeoutError:
            self.force_exit = True

    async def _pause(self, pause_s: float) -> None:
        loop = asyncio.get_running_loop()
        until_s = loop.time() + pause_s
        # A signal handler sets `force_exit`, and can set no event.
        while loop.time() < until_s and not self.force_exit:  # noqa: ASYNC110
            await asyncio.sleep(min(_POLL_S, pause_s))

    async def _say_goodbye(self, connections: Connections) -> None:
        """Tell all clients, spread over a bounded time; at once where the node has failed."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        count = connections.close()
        rate = max(self._drain_connections_per_s, 2 * count / self._shutdown_timeout_s)
        told = 0
        while not (self.force_exit or self.has_failed):
            due = 1 + int((loop.time() - began_s) * rate)
            left = connections.farewell(due - told)
            told = due
            if not left:
                return
            await asyncio.sleep(_POLL_S)
        connections.farewell()

    async def _until_gone(self, connections: Connections, until_s: float) -> None:
        loop = asyncio.get_running_loop()
        # A signal handler sets `force_exit`, and can set no event.
        while len(connections) and loop.time() < until_s and not self.force_exit:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)

    def _connections(self) -> Connections | None:
        node = getattr(self._app.state, "node", None)
        return None if node is None else cast("Connections", node.connections)
