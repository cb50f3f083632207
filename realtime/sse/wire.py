"""The wire of an event stream: what a stream writes to, and the HTTP connection taken over."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final, Protocol

from realtime.sse.codec import SharedBytes

_LAST_CHUNK: Final = b"0\r\n\r\n"


class Traffic:
    """Bytes written since somebody looked, over all streams: cheaper than a metric each."""

    __slots__ = ("sent_bytes",)

    def __init__(self) -> None:
        self.sent_bytes = 0


class Reader(Protocol):
    """Who is told what the client does. No method awaits or raises."""

    def blocked(self) -> None:
        """Learn that the client leaves much untaken."""

    def drained(self) -> None:
        """Learn that it has taken most of it: anything may be written again."""

    def closed(self) -> None:
        """Learn that nothing can be sent any more."""


class Wire(Protocol):
    """Where a stream's bytes go. No method awaits or raises."""

    @property
    def congested(self) -> bool:
        """Whether what is left untaken passes the limit; states don't count."""

    @property
    def is_blocked(self) -> bool:
        """Whether so much is untaken that no state should be added; then `drained` comes."""

    @property
    def queued_bytes(self) -> int:
        """What is untaken, as far as this process knows."""

    @property
    def taken_bytes(self) -> int:
        """What was taken."""

    def write(self, shared: SharedBytes) -> None:
        """Write bytes that other streams get, too."""

    def write_parts(self, parts: Sequence[bytes], *, exempt: bool) -> None:
        """Write bytes without joining them. `exempt`: they are a state."""

    def end(self) -> None:
        """End after what was written."""

    def abort(self) -> None:
        """End at once, whatever was not taken."""


class StreamConnection(asyncio.Protocol):
    """An HTTP connection whose rest is one event stream: no task, parser or request is left.

    What the client still sends is read and dropped: a request behind this one was told
    `connection: close`, and reading on is how its leaving is noticed.

    Args:
        reader: The stream.
        traffic: Counts what is written.
        limit_bytes: Untaken bytes that make the connection congested; it stays so until no more
            than a quarter is left.
    """

    __slots__ = (
        "_connections",
        "_exempt_bytes",
        "_is_chunked",
        "_limit_bytes",
        "_reader",
        "_traffic",
        "_transport",
        "_written_bytes",
        "congested",
        "is_blocked",
    )

    _transport: asyncio.Transport
    _connections: set[Any]

    def __init__(self, reader: Reader, *, traffic: Traffic, limit_bytes: int) -> None:
        self._reader = reader
        self._traffic = traffic
        self._limit_bytes = limit_bytes
        self._is_chunked = True
        self._exempt_bytes = 0
        self._written_bytes = 0
        self.congested = False
        self.is_blocked = False

    def take_over(
        self,
        transport: asyncio.Transport,
        connections: set[Any],
        *,
        is_chunked: bool,
        is_paused: bool,
    ) -> None:
        """Become the transport's protocol."""
        self._transport = transport
        self._connections = connections
        self._is_chunked = is_chunked
        self.is_blocked = is_paused
        connections.add(self)
        transport.set_protocol(self)
        transport.set_write_buffer_limits(high=self._limit_bytes, low=self._limit_bytes // 4)

    # What the transport tells

    def pause_writing(self) -> None:
        """Learn that the buffer is full."""
        self.is_blocked = True
        self._reader.blocked()

    def resume_writing(self) -> None:
        """Learn that the buffer has drained."""
        self.is_blocked = self.congested = False
        self._exempt_bytes = 0
        # Not from within the transport, which may be in the middle of a write.
        asyncio.get_running_loop().call_soon(self._reader.drained)

    def eof_received(self) -> None:
        """Treat a half-closed socket as closed: browsers and proxies close both ways."""
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Learn that the transport is gone."""
        self._connections.discard(self)
        self._reader.closed()

    def shutdown(self) -> None:
        """End, as uvicorn asks at its own end; streams were told before."""
        self.end()

    # Writing

    @property
    def queued_bytes(self) -> int:
        """What the kernel has not taken yet."""
        return self._transport.get_write_buffer_size()

    @property
    def taken_bytes(self) -> int:
        """What the kernel has taken."""
        return self._written_bytes - self._transport.get_write_buffer_size()

    def write(self, shared: SharedBytes) -> None:
        """Write at once, unless the transport is closing."""
        if self._transport.is_closing():
            return
        data = shared.chunk if self._is_chunked else shared.plain
        self._transport.write(data)
        self._wrote(len(data))

    def write_parts(self, parts: Sequence[bytes], *, exempt: bool) -> None:
        """Write at once, unless the transport is closing."""
        count = sum(map(len, parts))
        if not count or self._transport.is_closing():
            return
        if self._is_chunked:
            parts = (b"%x\r\n" % count, *parts, b"\r\n")
        self._transport.writelines(parts)
        if exempt:
            self._exempt_bytes = self._transport.get_write_buffer_size()
        self._wrote(count)

    def _wrote(self, count: int) -> None:
        self._written_bytes += count
        self._traffic.sent_bytes += count
        if self.is_blocked and not self.congested:
            untaken_bytes = self._transport.get_write_buffer_size() - self._exempt_bytes
            self.congested = untaken_bytes > self._limit_bytes

    # The end

    def end(self) -> None:
        """Say that it is the end, and close once that is flushed."""
        if not self._transport.is_closing():
            if self._is_chunked:
                self._transport.write(_LAST_CHUNK)
            self._transport.close()

    def abort(self) -> None:
        """Drop the connection with what is buffered."""
        self._transport.abort()
