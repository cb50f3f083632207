"""The shared-frame WebSocket protocol: what uvicorn runs below our WebSocket endpoint.

It adds to uvicorn's own protocol what a fan-out needs: frames serialised once and written to
many transports without awaiting, bounds on what a peer may pile up on either side, and an end
to every connection, also to one whose peer stopped reading.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Final, Protocol

from uvicorn._types import ASGIReceiveEvent
from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import Frame
from websockets.protocol import State

from realtime.http_protocol import bound_kernel

EXTENSION: Final = "zonecast.frames"
"""The ASGI scope's extension in which the endpoint finds the protocol."""

_PONG: Final = b"{}"
_QUEUED_MESSAGE_BYTES: Final = 512
"""What a queued message costs beside its data: without it empty messages would cost nothing."""


class Peer(Protocol):
    """Who is told what happens to the connection. No method awaits or raises."""

    def drained(self) -> None:
        """Learn that the connection is no longer congested."""

    def closed(self, code: int) -> None:
        """Learn that nothing can be sent any more; may be told twice."""


class SharedFrameProtocol(WebSocketsSansIOProtocol):
    """uvicorn's protocol plus `send_frame`; found by the endpoint in the scope's extensions.

    Relies on attributes of uvicorn 0.54 that are not public: a contract test names them.

    Attributes:
        heard: Whether anything arrived since `begin_listening`.
        congested: Whether bytes left over from earlier writes pass the limit. Once true it
            stays so until the buffer is down to a quarter of the limit.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        # uvicorn logs each handshake with its query string, in which tokens may be.
        self.logger = logging.getLogger("uvicorn.error.websocket")
        if self.logger.level != logging.WARNING:
            self.logger.setLevel(logging.WARNING)
        self.conn.logger = self.logger
        self.conn.debug = False
        self.peer: Peer | None = None
        self.heard = True
        self.congested = False
        self._has_failed = False
        self._limit_bytes = config.ws_max_size
        self._exempt_bytes = 0
        self._written_bytes = 0
        self._flushed_before_bytes = 0
        self._had_left_over = False
        self._inbox_bytes = 0

    # Set-up

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take over the transport of the HTTP protocol."""
        super().connection_made(transport)
        bound_kernel(transport)

    async def run_asgi(self) -> None:
        """Run the application with this protocol in the scope's extensions."""
        self.scope["extensions"][EXTENSION] = {"protocol": self}
        await super().run_asgi()

    def attach(self, peer: Peer, *, slow_buffer_max_bytes: int, close_timeout_s: float) -> None:
        """Name who is told what happens, and the bounds.

        Args:
            peer: The session.
            slow_buffer_max_bytes: Left-over bytes that make the connection congested.
            close_timeout_s: How long the peer may take to answer our close frame.
        """
        self.peer = peer
        self._limit_bytes = slow_buffer_max_bytes
        self.close_timeout = close_timeout_s
        self.transport.set_write_buffer_limits(
            high=slow_buffer_max_bytes, low=slow_buffer_max_bytes // 4
        )

    # Reading

    def data_received(self, data: bytes) -> None:
        """Parse what arrived; whatever it is, the peer lives."""
        self.heard = True
        if self._has_failed:
            return
        super().data_received(data)
        if not self.handshake_initiated and not self.transport.is_closing():
            # A header line over the limit: uvicorn prepares the answer but doesn't send it.
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.transport.close()

    def handle_cont(self, event: Frame) -> None:
        """Take a continuation; empty ones would grow a list without ever growing the message."""
        if event.data or event.fin:
            super().handle_cont(event)

    def handle_ping(self) -> None:
        """Answer a ping, unless the peer reads too little to get the answer."""
        output = b"".join(self.conn.data_to_send())
        if self.writable.is_set():
            self.transport.write(output)

    def send_receive_event_to_app(self) -> None:
        """Queue a message for the session, and stop reading only when too much is queued."""
        data = b"".join(self.frames)
        self.frames = []
        is_text = self.curr_msg_data_type == "text"
        if self.close_sent or (is_text and data == _PONG):
            return
        event: ASGIReceiveEvent
        if is_text:
            try:
                event = {"type": "websocket.receive", "text": data.decode()}
            except UnicodeDecodeError:
                self.conn.fail(1007)
                self.handle_parser_exception()
                return
        else:
            event = {"type": "websocket.receive", "bytes": data}
        self.queue.put_nowait(event)
        self._inbox_bytes += len(data) + _QUEUED_MESSAGE_BYTES
        if self._inbox_bytes > self.config.ws_max_size and not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()

    async def receive(self) -> ASGIReceiveEvent:
        """Return the next message; reading goes on once the last queued one is taken."""
        event = await super().receive()
        if self.queue.empty():
            self._inbox_bytes = 0
        return event

    # Writing

    def resume_writing(self) -> None:
        """Learn that the buffer has drained."""
        super().resume_writing()
        self._exempt_bytes = 0
        if self.congested:
            self.congested = False
            if self.peer is not None:
                # Not from within the transport, which may be in the middle of a write.
                self.loop.call_soon(self.peer.drained)

    @property
    def queued_bytes(self) -> int:
        """What waits until the peer reads."""
        return self.transport.get_write_buffer_size()

    @property
    def is_open(self) -> bool:
        """Whether frames can be sent."""
        return self.conn.state is State.OPEN and not self.transport.is_closing()

    def send_frame(self, frame: bytes) -> bool:
        """Write a serialised frame at once; tell whether the connection is open. Never awaits."""
        if self.conn.state is not State.OPEN or self.transport.is_closing():
            return False
        self.transport.write(frame)
        self._wrote(len(frame))
        return True

    def send_parts(self, parts: Sequence[bytes], *, exempt: bool) -> bool:
        """Write a frame given in parts; an `exempt` one doesn't count as left over."""
        if not self.is_open:
            return False
        self.transport.writelines(parts)
        if exempt:
            self._exempt_bytes = self.transport.get_write_buffer_size()
        self._wrote(sum(map(len, parts)))
        return True

    def _wrote(self, count: int) -> None:
        self._written_bytes += count
        if not self.writable.is_set() and not self.congested:
            left_over = self.transport.get_write_buffer_size() - self._exempt_bytes
            self.congested = left_over > self._limit_bytes

    # Whether the peer lives

    def begin_listening(self) -> None:
        """Look for a sign of life from now on."""
        self.heard = False
        self._had_left_over = self.transport.get_write_buffer_size() > 0
        self._flushed_before_bytes = self._flushed_bytes

    @property
    def _flushed_bytes(self) -> int:
        return self._written_bytes - self.transport.get_write_buffer_size()

    @property
    def is_busy(self) -> bool:
        """Whether silence since `begin_listening` says nothing.

        That is while we don't read, and while the peer took bytes that were left over then: a
        ping waits behind them, and who takes them lives, however slowly.
        """
        return self.read_paused or (
            self._had_left_over and self._flushed_bytes > self._flushed_before_bytes
        )

    # The end

    def end(self, code: int, reason: str) -> None:
        """Send a close frame; who doesn't answer it in time is aborted. Never awaits."""
        if self.conn.state is State.CONNECTING:
            self.transport.abort()
        elif self.is_open:
            self.conn.send_close(code, reason)
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.close_sent = True
            if self.read_paused:
                self.read_paused = False
                self.transport.resume_reading()
            self._abort_later()

    def abort(self) -> None:
        """Drop the connection and whatever is still buffered."""
        self.transport.abort()

    def _abort_later(self) -> None:
        if self.close_timer is None and not self.disconnected:
            self.close_timer = self.loop.call_later(self.close_timeout, self.transport.abort)

    def handle_close(self, event: Frame) -> None:
        """Answer the peer's close frame, or learn that it answered ours."""
        super().handle_close(event)
        # Closing waits until all is flushed: forever, when the peer doesn't read.
        self._abort_later()
        self._tell_closed(self.conn.close_rcvd.code if self.conn.close_rcvd else 1005)

    def handle_parser_exception(self) -> None:
        """Close after what can't be a WebSocket message; the peer still gets the close frame.

        Closing the socket with unread bytes would reset the connection, and the peer might
        lose the frame: so what it still sends is read and dropped until it hangs up.
        """
        self._has_failed = True
        self.close_sent = True
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.transport.write(b"".join(self.conn.data_to_send()))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._abort_later()
        self._tell_closed(self.conn.close_sent.code if self.conn.close_sent else 1006)

    def eof_received(self) -> None:
        """Treat a half-closed socket as closed: nothing can be asked over it any more."""
        super().eof_received()
        self._abort_later()
        self._tell_closed(1006)

    def connection_lost(self, exc: Exception | None) -> None:
        """Learn that the transport is gone."""
        super().connection_lost(exc)
        self._tell_closed(1006)

    def _tell_closed(self, code: int) -> None:
        if self.peer is not None:
            self.peer.closed(code)
