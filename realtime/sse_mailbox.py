"""The mailbox of an SSE stream: what is to be written, in order and bounded."""

from __future__ import annotations

from collections import deque
from typing import Final

CHUNK_MAX_BYTES: Final = 65_536
"""What is handed to the transport at once: so much of a stuck stream is out of our hands."""


class Mailbox:
    """Bytes waiting for the stream's own coroutine. Nothing here awaits.

    Args:
        limit_bytes: More than that waiting makes the stream congested; it stays so until no
            more than a quarter waits.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._entries: deque[tuple[bytes | memoryview, bool]] = deque()
        self._counted_bytes = 0
        self._in_flight_bytes = 0
        self.congested = False

    def __repr__(self) -> str:
        return f"<Mailbox {len(self._entries)} entries, {self._counted_bytes} bytes counted>"

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def queued_bytes(self) -> int:
        """All bytes that wait, counted against the limit or not."""
        return sum(len(data) for data, _ in self._entries) + self._in_flight_bytes

    def put(self, data: bytes, *, counted: bool = True) -> None:
        """Append bytes, kept without a copy. Snapshots are not counted against the limit."""
        self._entries.append((data, counted))
        if counted:
            self._counted_bytes += len(data)
            if self._counted_bytes > self._limit_bytes:
                self.congested = True

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
