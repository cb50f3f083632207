"""The shared-frame WebSocket protocol: a connection from its handshake on, without a task.

It takes the transport over from the HTTP protocol and does what a fan-out needs: frames
serialised once are written to many transports without awaiting, what a peer may pile up is
bounded on either side, and every connection ends, also one whose peer stopped reading. It holds
as little as there is to remember: an idle connection has no buffer, queue, timer or task.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from realtime.websocket.frames import (
    CLOSE,
    PING,
    TEXT,
    FrameError,
    FrameReader,
    close_frame,
    close_payload,
    pong_frame,
    read_close,
)


@dataclass(frozen=True, slots=True)
class WireBounds:
    """The bounds of connections.

    Attributes:
        max_message_bytes: The longest message of a client; longer ones close with 1009.
        slow_buffer_max_bytes: Left-over bytes that make a connection congested.
        close_timeout_s: How long a peer may take to hang up after a close frame.
    """

    max_message_bytes: int
    slow_buffer_max_bytes: int
    close_timeout_s: float


class _Progress:
    """What a peer takes of the bytes that were left over when a sign of life was asked for."""

    __slots__ = ("left_over_bytes", "written_bytes")

    def __init__(self, left_over_bytes: int) -> None:
        self.left_over_bytes = left_over_bytes
        self.written_bytes = 0


class SharedFrameProtocol(asyncio.Protocol, ABC):
    """One connection's wire. What comes and goes is told to the methods below "What happens".

    Args:
        transport: The connection, whose handshake has been answered.
        bounds: The same for all connections.

    Attributes:
        heard: Whether anything arrived since `begin_listening`.
        congested: Whether bytes left over from earlier writes pass the limit. Once true it
            stays so until the buffer is down to a quarter of the limit.
        reading_paused: Whether the peer's bytes stay in its socket.
        writing_paused: Whether the transport holds more than the limit, a state included.
    """

    __slots__ = (
        "_bounds",
        "_exempt_bytes",
        "_is_burdened",
        "_is_deaf",
        "_is_open",
        "_progress",
        "_reader",
        "_timer",
        "congested",
        "heard",
        "reading_paused",
        "transport",
        "writing_paused",
    )

    def __init__(self, transport: asyncio.Transport, bounds: WireBounds) -> None:
        self.transport = transport
        self.heard = True
        self.congested = False
        self.reading_paused = False
        self.writing_paused = False
        self._bounds = bounds
        self._is_open = True
        self._is_deaf = False
        self._is_burdened = False
        self._exempt_bytes = 0
        self._progress: _Progress | None = None
        self._reader: FrameReader | None = None
        self._timer: asyncio.TimerHandle | None = None
        limit = bounds.slow_buffer_max_bytes
        transport.set_write_buffer_limits(high=limit, low=limit // 4)

    # What happens: none of these may raise

    @abstractmethod
    def message_received(self, opcode: int, payload: bytes) -> None:
        """Take a text message, whose payload is UTF-8, or a binary one."""

    @abstractmethod
    def flush(self) -> None:
        """Write what was said since the last time."""

    @abstractmethod
    def writable(self) -> None:
        """Learn that the buffer has drained; may be called while the transport writes."""

    @abstractmethod
    def drained(self) -> None:
        """Learn that the connection is no longer congested."""

    @abstractmethod
    def closed(self, code: int) -> None:
        """Learn that nothing can be sent any more; may be told several times."""

    @abstractmethod
    def gone(self) -> None:
        """Learn that the transport is gone; after `closed`, once."""

    # Reading

    def data_received(self, data: bytes) -> None:
        """Take what arrived; whatever it is, the peer lives."""
        self.heard = True
        if self._is_deaf:
            return
        reader = self._reader or FrameReader(self._bounds.max_message_bytes)
        try:
            for opcode, payload in reader.read(data):
                self._take(opcode, payload)
                if self._is_deaf:
                    return
        except FrameError as error:
            self._fail(error.code)
            return
        self._reader = None if reader.is_empty else reader
        self.flush()

    def _take(self, opcode: int, payload: bytes) -> None:
        if opcode == TEXT:
            if self._is_open:
                try:
                    payload.decode()
                except UnicodeDecodeError:
                    raise FrameError(1007) from None
                self.message_received(opcode, payload)
        elif opcode == PING:
            # Who reads too little to get the answer has no need of it.
            if self._is_open and not self.writing_paused:
                self.transport.write(pong_frame(payload))
        elif opcode == CLOSE:
            self._end_by_peer(payload)
        elif opcode < CLOSE and self._is_open:
            self.message_received(opcode, payload)

    def pause_reading(self) -> None:
        """Leave in its socket what the peer says."""
        if not self.reading_paused and self._is_open:
            self.reading_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on reading."""
        if self.reading_paused:
            self.reading_paused = False
            if not self.transport.is_closing():
                self.transport.resume_reading()

    # Writing

    def pause_writing(self) -> None:
        """Learn from the transport that more is left over than the limit."""
        self.writing_paused = self._is_burdened = True

    def resume_writing(self) -> None:
        """Learn from the transport that the buffer has drained."""
        self.writing_paused = False
        self._is_burdened = self._progress is not None
        self._exempt_bytes = 0
        self.writable()
        if self.congested:
            self.congested = False
            # Not from within the transport, which may be in the middle of a write.
            asyncio.get_running_loop().call_soon(self.drained)

    def send_frame(self, frame: bytes) -> bool:
        """Write a serialised frame at once; tell whether the connection is open. Never awaits."""
        if not self._is_open:
            return False
        self.transport.write(frame)
        if self._is_burdened:
            self._weigh(len(frame))
        return True

    def send_parts(self, parts: Sequence[bytes], *, exempt: bool) -> bool:
        """Write a frame given in parts; an `exempt` one doesn't count as left over."""
        if not self._is_open or self.transport.is_closing():
            return False
        self.transport.writelines(parts)
        if exempt:
            self._exempt_bytes = self.transport.get_write_buffer_size()
        if self._is_burdened:
            self._weigh(sum(map(len, parts)))
        return True

    def _weigh(self, written_bytes: int) -> None:
        if self._progress is not None:
            self._progress.written_bytes += written_bytes
        if self.writing_paused and not self.congested:
            left_over = self.transport.get_write_buffer_size() - self._exempt_bytes
            self.congested = left_over > self._bounds.slow_buffer_max_bytes

    # Whether the peer lives

    def begin_listening(self) -> None:
        """Look for a sign of life from now on."""
        self.heard = False
        left_over = self.transport.get_write_buffer_size()
        if not left_over:
            self._exempt_bytes = 0
        self._progress = _Progress(left_over) if left_over else None
        self._is_burdened = self.writing_paused or left_over > 0

    @property
    def is_busy(self) -> bool:
        """Whether silence since `begin_listening` says nothing.

        That is while we don't read, and while the peer took bytes that were left over then: a
        ping waits behind them, and who takes them lives, however slowly.
        """
        if self._progress is None:
            return self.reading_paused
        could_be = self._progress.left_over_bytes + self._progress.written_bytes
        return self.reading_paused or self.transport.get_write_buffer_size() < could_be

    # The end

    def send_close(self, code: int, reason: str) -> None:
        """Send a close frame; who doesn't answer it in time is aborted. Never awaits."""
        if self._is_open:
            self._write_last(close_payload(code, reason))

    def _write_last(self, payload: bytes) -> None:
        self._is_open = False
        self.transport.write(close_frame(payload))
        self.resume_reading()
        self._abort_later()

    def _abort_later(self) -> None:
        # Closing waits until all is flushed: forever, when the peer doesn't read.
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._bounds.close_timeout_s, self.transport.abort)

    def _end_by_peer(self, payload: bytes) -> None:
        """Answer the peer's close frame, or learn that it answered ours."""
        code = read_close(payload)
        self._is_deaf = True
        if self._is_open:
            self.flush()
            self._write_last(payload)
        self._abort_later()
        self.transport.close()
        self.closed(code)

    def _fail(self, code: int) -> None:
        """Close after what can't be a WebSocket message; the peer still gets the close frame.

        Closing the socket with unread bytes would reset the connection, and the peer might
        lose the frame: so what it still sends is read and dropped until it hangs up.
        """
        self._is_deaf = True
        self._reader = None
        if self._is_open:
            self.flush()
            self._write_last(close_payload(code))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._abort_later()
        self.closed(code)

    def shutdown(self) -> None:
        """Drop the connection: what uvicorn calls for whoever is left when the server stops."""
        self.closed(1006)
        self.transport.abort()

    def eof_received(self) -> None:
        """Treat a half-closed socket as closed: nothing can be asked over it any more."""
        self._is_deaf = True
        self._abort_later()
        self.closed(1006)

    def connection_lost(self, exc: Exception | None) -> None:
        """Learn that the transport is gone."""
        self._is_open = False
        self._is_deaf = True
        self._reader = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.closed(1006)
        self.gone()
