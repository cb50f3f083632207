"""The HTTP protocol: uvicorn's, with bounds on a request's head and ways to drop or hand over."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Final, Protocol, cast
from urllib.parse import unquote

from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from realtime.websocket.handshake import Handshake

ABORT_EXTENSION: Final = "zonecast.abort"
"""The ASGI scope's extension: `{"abort": callable}` drops the connection, buffers included."""

HANDOVER_EXTENSION: Final = "zonecast.handover"
"""The ASGI scope's extension: `{"handover": Handover}` gives the connection away."""

KERNEL_UNSENT_BYTES: Final = 131_072
"""What the kernel may hold unsent: beyond, bytes wait where we can count them."""

_INTERNET: Final = frozenset({socket.AF_INET, socket.AF_INET6})

HEAD_MAX_BYTES: Final = 65_536
"""Larger heads of requests are refused with 431; what arrives in one read is not counted."""

_BODY: Final = b'{"type":"about:blank","title":"Request Header Fields Too Large","status":431}'
_TOO_LARGE: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-type: application/problem+json\r\nconnection: close\r\n"
    b"content-length: " + str(len(_BODY)).encode() + b"\r\n\r\n" + _BODY
)


def bound_kernel(listener: socket.socket) -> None:
    """Let the kernel hold little that is unsent; its own bound is some megabytes a socket.

    Args:
        listener: Whose connections inherit it: those that come after this call.
    """
    if hasattr(socket, "TCP_NOTSENT_LOWAT") and listener.family in _INTERNET:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, KERNEL_UNSENT_BYTES)


def _address(found: object) -> tuple[str, int] | None:
    """Return an address of the Internet as the scope has it; others have no port."""
    return (str(found[0]), int(found[1])) if isinstance(found, tuple) else None


Upgrade = Callable[[Handshake, asyncio.Transport, set[Any]], None]
"""Answers a WebSocket handshake, and takes the transport over if it accepts it."""


class Successor(Protocol):
    """Who takes a connection over; from then on the transport's protocol."""

    def take_over(
        self,
        transport: asyncio.Transport,
        connections: set[Any],
        *,
        is_chunked: bool,
        is_paused: bool,
    ) -> None:
        """Begin to write the body.

        Args:
            transport: To write to.
            connections: The server's, which waits at its end until this is empty.
            is_chunked: Whether the body was announced as chunks, or as what ends with the
                connection, for clients of HTTP/1.0.
            is_paused: Whether `pause_writing` was called before.
        """


class Handover:
    """The way to answer a request without a task: the head as usual, the body by a successor.

    Relies on attributes of uvicorn 0.54 that are not public; tests/realtime/test_sse_handover.py
    covers each.
    """

    __slots__ = ("_cycle", "_protocol")

    def __init__(self, protocol: BoundedHttpProtocol, cycle: RequestResponseCycle) -> None:
        self._protocol = protocol
        self._cycle = cycle

    def prepare(self) -> None:
        """Let the head, which is still to be sent, say that the connection ends with the body."""
        self._cycle.keep_alive = False
        if self._cycle.scope["http_version"] == "1.0":
            # uvicorn would send chunks, which such a client need not understand.
            self._cycle.chunked_encoding = False

    def complete(self, successor: Successor) -> bool:
        """Give the connection to a successor, once the head is sent. Never awaits.

        Returns:
            Whether the client is still there; else nothing was given.
        """
        return self._protocol.hand_over(self._cycle, successor)


class BoundedHttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which would wait for a request's head, and store it, without end.

    Also, the application can abort its connections: closing waits until the client has read
    what is buffered, which one that stopped reading never does.

    Args:
        config: uvicorn's.
        server_state: uvicorn's.
        app_state: The lifespan's.
        head_timeout_s: How long a new connection, and later each begun request, may take until
            the request's head is complete. Before the next request `timeout_keep_alive` counts.
        upgrade: Told of each WebSocket handshake, with the server's connections.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        head_timeout_s: float,
        upgrade: Upgrade,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._head_timeout_s = head_timeout_s
        self._upgrade = upgrade
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Begin to wait for the first request.

        What uvicorn does, but with the addresses that the transport has already: its own way
        takes nine system calls, which a crowd that comes back feels.
        """
        self.connections.add(self)
        self.transport = transport
        self.flow = FlowControl(transport)
        self.server = _address(transport.get_extra_info("sockname"))
        self.client = _address(transport.get_extra_info("peername"))
        self.scheme = "https" if transport.get_extra_info("sslcontext") else "http"
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Learn that the transport is gone."""
        self._head_is_complete()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what arrived, unless the head grows too large."""
        super().data_received(data)
        if self._head_timer is not None and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_MAX_BYTES:
                self.logger.warning("Request head too large.")
                self.transport.write(_TOO_LARGE)
                self.transport.close()

    def on_message_begin(self) -> None:
        """Begin a request with the extension in its scope."""
        super().on_message_begin()
        self.scope["extensions"] = {ABORT_EXTENSION: {"abort": self.transport.abort}}
        if self._head_timer is None:
            self._await_head()

    def on_headers_complete(self) -> None:
        """Take the head of a request."""
        self._head_is_complete()
        super().on_headers_complete()
        # There is none for a WebSocket's handshake.
        if getattr(self.cycle, "scope", None) is self.scope:
            handover = {"handover": Handover(self, self.cycle)}
            cast("dict[str, Any]", self.scope["extensions"])[HANDOVER_EXTENSION] = handover

    def hand_over(self, cycle: RequestResponseCycle, successor: Successor) -> bool:
        """Step back from the connection, with whatever else the client asked for meanwhile."""
        transport = self.transport
        if cycle.disconnected or transport.is_closing():
            return False
        cycle.response_complete = True
        self.server_state.total_requests += 1
        self.connections.discard(self)
        self._unset_keepalive_if_required()
        self._head_is_complete()
        self.pipeline.clear()
        self.flow.resume_reading()
        successor.take_over(
            transport,
            self.connections,
            is_chunked=bool(cycle.chunked_encoding),
            is_paused=self.flow.write_paused,
        )
        # Each knows the other: without this they would stay until the next full collection.
        self.parser = self.cycle = self.scope = None  # type: ignore[assignment]  # as when lost
        return True

    def _await_head(self) -> None:
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(self._head_timeout_s, self.transport.close)

    def _head_is_complete(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over; nothing of this object is kept with it."""
        self.connections.discard(self)
        # Or the two would hold each other until the next collection of garbage.
        self.parser = None  # type: ignore[assignment]  # as uvicorn does at the end
        path, _, query = self.url.partition(b"?")
        peer = None if self.client is None else f"{self.client[0]}:{self.client[1]}"
        handshake = Handshake(
            method=self.scope["method"],
            http_version=self.scope["http_version"],
            path=unquote(path.decode("latin-1")),
            query=query,
            headers=self.headers,
            peer=peer,
        )
        self._upgrade(handshake, self.transport, self.connections)
