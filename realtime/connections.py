"""Live connections: counted against the limit, and told when the node stops."""

from __future__ import annotations

from typing import Protocol


class Connection(Protocol):
    """A WebSocket or SSE connection as the node sees it. No method awaits or raises."""

    def farewell(self) -> None:
        """Tell the client to reconnect elsewhere (3001), and end once that is flushed."""

    def abort(self) -> None:
        """Drop the connection at once, whatever is still buffered."""


class Connections:
    """The live connections of a node, at most `maximum` at a time."""

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._live: set[Connection] = set()
        self.closing = False

    def __len__(self) -> int:
        return len(self._live)

    def admit(self, connection: Connection) -> bool:
        """Take a connection in, unless the node is full or stopping; tell whether it was."""
        if self.closing or len(self._live) >= self._maximum:
            return False
        self._live.add(connection)
        return True

    def remove(self, connection: Connection) -> None:
        """Forget a connection that ended; unknown ones are ignored."""
        self._live.discard(connection)

    def farewell(self) -> None:
        """Tell every client to go elsewhere; nobody is admitted any more."""
        self.closing = True
        for connection in list(self._live):
            connection.farewell()

    def abort(self) -> None:
        """Drop whoever did not leave after the farewell."""
        for connection in list(self._live):
            connection.abort()
