"""The mailbox of an event stream: what is to be written while no connection is taken over."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from realtime.sse.codec import SharedBytes
from realtime.sse.wire import Traffic

CHUNK_MAX_BYTES: Final = 65_536
"""What is handed to the transport at once: so much of a stuck stream is out of our hands."""


class Mailbox:
    """The wire of a stream until its connection is taken over; for good where none can be.

    Under a server other than ours a response reads it by `chunks`, at the pace of the client.
    Nothing else here awaits.

    Args:
        limit_bytes: More than that waiting makes the stream congested; it stays so until no
            more than a quarter waits.

    Attributes:
        is_ended: Whether nothing is put in any more.
        is_aborted: Whether what waits is not to be written.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._entries: deque[tuple[bytes | memoryview, bool]] = deque()
        self._counted_bytes = 0
        self._in_flight_bytes = 0
        self._wake = asyncio.Event()
        self._bound: asyncio.Timeout | None = None
        self.queued_bytes = 0
        self.taken_bytes = 0
        self.congested = False
        self.is_ended = False
        self.is_aborted = False

    def __repr__(self) -> str:
        return f"<Mailbox {len(self._entries)} entries, {self._counted_bytes} bytes counted>"

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def is_blocked(self) -> bool:
        """Whether anything waits: states can't pile up for who doesn't read."""
        return bool(self._entries)

    # Putting in

    def put(self, data: bytes, *, counted: bool = True) -> None:
        """Append bytes, kept without a copy. Snapshots are not counted against the limit."""
        if not data:
            return
        self._entries.append((data, counted))
        self.queued_bytes += len(data)
        if counted:
            self._counted_bytes += len(data)
            if self._counted_bytes > self._limit_bytes:
                self.congested = True
        self._wake.set()

    def write(self, shared: SharedBytes) -> None:
        """Append bytes that other streams get, too."""
        self.put(shared.plain)

    def write_parts(self, parts: Sequence[bytes], *, exempt: bool) -> None:
        """Append bytes in parts."""
        for part in parts:
            self.put(part, counted=not exempt)

    def end(self) -> None:
        """Let it end after what was put in."""
        self.is_ended = True
        self._wake.set()

    def abort(self) -> None:
        """Let it end at once."""
        self.is_aborted = True
        if self._bound is not None and not self._bound.expired():
            self._bound.reschedule(asyncio.get_running_loop().time())

    # Taking out

    def take_all(self) -> list[bytes]:
        """Take all that waits."""
        taken = [bytes(data) for data, _ in self._entries]
        self._entries.clear()
        return taken

    def take(self) -> bytes:
        """Take the next bytes, at most `CHUNK_MAX_BYTES`; empty when nothing waits.

        They count until `sent` is called, which has to come before the next call.
        """
        parts: list[bytes | memoryview] = []
        room = CHUNK_MAX_BYTES
        while self._entries and room:
            data, counted = self._entries.popleft()
            if len(data) > room:
                view = memoryview(data)
                self._entries.appendleft((view[room:], counted))
                data = view[:room]
            room -= len(data)
            parts.append(data)
            if counted:
                self._in_flight_bytes += len(data)
        return b"".join(parts)

    def sent(self) -> bool:
        """Learn that the bytes taken last were written; tell whether that ended a congestion."""
        self._counted_bytes -= self._in_flight_bytes
        self._in_flight_bytes = 0
        if self.congested and self._counted_bytes <= self._limit_bytes // 4:
            self.congested = False
            return True
        return False

    def bounded(self) -> asyncio.Timeout:
        """Return a bound for the reading of `chunks`, which `abort` ends by `TimeoutError`."""
        self._bound = asyncio.timeout(0 if self.is_aborted else None)
        return self._bound

    async def chunks(self, traffic: Traffic, drained: Callable[[], None]) -> AsyncIterator[bytes]:
        """Yield what is to be written until the end; `drained` is called when it has been."""
        while True:
            while chunk := self.take():
                yield chunk
                self.queued_bytes -= len(chunk)
                self.taken_bytes += len(chunk)
                traffic.sent_bytes += len(chunk)
                if self.sent() or not self._entries:
                    drained()
            if self.is_ended:
                return
            self._wake.clear()
            await self._wake.wait()
