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
    """The live connections of a node, at most `maximum` at a time.

    Attributes:
        stopping: Whether the node is about to go: it should get no more traffic.
        closing: Whether nobody is admitted any more.
    """

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._live: set[Connection] = set()
        self._untold: set[Connection] = set()
        self.stopping = False
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
