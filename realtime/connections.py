"""Live connections: counted against the limit, and told when the node stops."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol


@dataclass(frozen=True, slots=True)
class Card:
    """What is known of a connection from its beginning on.

    Attributes:
        connection_id: Unique; of a WebSocket the client id that its client knows, too.
        transport: `websocket`, `sse` or `long_poll`.
        peer: The client's address and port, as a trusted proxy has it; empty: not known.
        opened_ms: When it was taken in, Unix milliseconds.
    """

    connection_id: str
    transport: str
    peer: str = ""
    opened_ms: int = field(default_factory=lambda: time.time_ns() // 1_000_000)


UNKNOWN: Final = Card("", "unknown", opened_ms=0)


class Connection(Protocol):
    """A WebSocket or SSE connection as the node sees it. No method awaits or raises."""

    @property
    def queued_bytes(self) -> int:
        """What is written for the client and waits until it reads."""

    @property
    def congested(self) -> bool:
        """Whether so much of it waits that nothing more is queued."""

    def dismiss(self, *, reconnect: bool) -> None:
        """End the connection as an operator wants it (3503, or 3011 to come back)."""

    def farewell(self) -> None:
        """Tell the client to reconnect elsewhere (3001), and end once that is flushed."""

    def abort(self) -> None:
        """Drop the connection at once, whatever is still buffered."""


class Connections:
    """The live connections of a node, at most `maximum` at a time.

    Attributes:
        maximum: How many there may be.
        stopping: Whether the node is about to go: it should get no more traffic.
        closing: Whether nobody is admitted any more.
    """

    def __init__(self, maximum: int) -> None:
        self._live: dict[Connection, Card] = {}
        self.maximum = maximum
        self._untold: set[Connection] = set()
        self.stopping = False
        self.closing = False

    def __len__(self) -> int:
        return len(self._live)

    def admit(self, connection: Connection, card: Card = UNKNOWN) -> bool:
        """Take a connection in, unless the node is full or stopping; tell whether it was."""
        if self.closing or len(self._live) >= self.maximum:
            return False
        self._live[connection] = card
        return True

    def listed(self) -> Iterable[tuple[Connection, Card]]:
        """Return the live connections, the oldest first, as they are now."""
        return list(self._live.items())

    def remove(self, connection: Connection) -> None:
        """Forget a connection that ended; unknown ones are ignored."""
        self._live.pop(connection, None)
        self._untold.discard(connection)

    def close(self) -> int:
        """Admit nobody any more; return how many connections are to be told."""
        if not self.closing:
            self.stopping = self.closing = True
            self._untold = set(self._live)
        return len(self._untold)

    def farewell(self, most: int | None = None) -> int:
        """Tell clients to go elsewhere, each once; nobody is admitted any more.

        Args:
            most: How many are told; `None`: all.

        Returns:
            How many are still to be told. Those are served as before.
        """
        left = self.close()
        for _ in range(left if most is None else min(most, left)):
            self._untold.pop().farewell()
        return len(self._untold)

    def abort(self) -> None:
        """Drop whoever did not leave after the farewell."""
        for connection in list(self._live):
            connection.abort()
