"""Live connections: counted against the limits, and told when the node stops."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Address
from typing import Final, Protocol, cast

from realtime.limits import Refusal


@dataclass(frozen=True, slots=True)
class Card:
    """What is known of a connection from its beginning on.

    Attributes:
        connection_id: Unique; of a WebSocket the client id that its client knows, too.
        transport: `websocket`, `sse` or `long_poll`.
        peer: The client's address and port, as a trusted proxy has it; empty: not known.
        subject: The `sub` of its token; empty: none is known.
        opened_ms: When it was taken in, Unix milliseconds.
    """

    connection_id: str
    transport: str
    peer: str = ""
    subject: str = ""
    opened_ms: int = field(default_factory=lambda: time.time_ns() // 1_000_000)


_ORDINARY_ENDS: Final = frozenset({1000, 1001, 1005, 1006, 3000, 3001, 3005})
"""Close codes of clients that left, were drained or didn't renew their token."""


def level_of_end(code: int) -> int:
    """Return the level of the log's line about the end of a connection.

    Thousands come and go, and at night nobody wants to read of each: they are counted. Those
    that a node had to end are for who looks for the reason.
    """
    return logging.DEBUG if code in _ORDINARY_ENDS else logging.INFO


UNKNOWN: Final = Card("", "unknown", opened_ms=0)


def place_of(peer: str) -> str:
    """Return what counts as one place of an address and port: an IPv4 address, an IPv6 /64.

    A network gives its clients as many IPv6 addresses as they like, but at least a /64 each.
    """
    host = peer.rpartition(":")[0]
    if ":" not in host:
        return host
    try:
        address = IPv6Address(host.strip("[]").partition("%")[0])
    except ValueError:
        return host
    return str(address.ipv4_mapped or f"{address.packed[:8].hex(':', 2)}::/64")


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

    Args:
        maximum: How many there may be.
        max_per_address: How many of one place, as `place_of` has it; 0: no bound.
        max_per_subject: How many of one subject; 0: no bound.

    Attributes:
        maximum: How many there may be.
        stopping: Whether the node is about to go: it should get no more traffic.
        closing: Whether nobody is admitted any more.
    """

    def __init__(self, maximum: int, *, max_per_address: int = 0, max_per_subject: int = 0) -> None:
        self._live: dict[Connection, Card] = {}
        self.maximum = maximum
        self._untold: set[Connection] = set()
        self._max_per_address = max_per_address
        self._max_per_subject = max_per_subject
        # Empty where there is no bound.
        self._places: Counter[str] = Counter()
        self._subjects: Counter[str] = Counter()
        self.stopping = False
        self.closing = False

    def __len__(self) -> int:
        return len(self._live)

    def admit(self, connection: Connection, card: Card = UNKNOWN) -> Refusal | None:
        """Take a connection in, or return why not."""
        if self.closing:
            return Refusal.STOPPING
        if len(self._live) >= self.maximum:
            return Refusal.NODE
        place = place_of(card.peer) if self._max_per_address else ""
        if place and self._places[place] >= self._max_per_address:
            return Refusal.ADDRESS
        if self._is_everywhere(card.subject):
            return Refusal.SUBJECT
        if place:
            self._places[place] += 1
        self._count_subject(card.subject)
        self._live[connection] = card
        return None

    def identify(self, connection: Connection, subject: str) -> Refusal | None:
        """Learn whose a connection is that was taken in before that was known; or why not."""
        card = self._live.get(connection)
        if card is None or card.subject == subject:
            return None
        if self._is_everywhere(subject):
            return Refusal.SUBJECT
        _uncount(self._subjects, card.subject)
        self._count_subject(subject)
        self._live[connection] = replace(card, subject=subject)
        return None

    def _is_everywhere(self, subject: str) -> bool:
        most = self._max_per_subject
        return bool(most and subject) and self._subjects[subject] >= most

    def _count_subject(self, subject: str) -> None:
        if self._max_per_subject and subject:
            self._subjects[subject] += 1

    def listed(self) -> Iterable[tuple[Connection, Card]]:
        """Return the live connections, the oldest first, as they are now."""
        return list(self._live.items())

    def card_of(self, connection: object) -> Card | None:
        """Return what is known of a connection; `None`: it isn't there."""
        return self._live.get(cast("Connection", connection))

    def remove(self, connection: Connection) -> None:
        """Forget a connection that ended; unknown ones are ignored."""
        card = self._live.pop(connection, None)
        if card is not None:
            if self._max_per_address:
                _uncount(self._places, place_of(card.peer))
            _uncount(self._subjects, card.subject)
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


def _uncount(counts: Counter[str], key: str) -> None:
    """Count one less; what is gone takes no memory."""
    if counts[key] > 1:
        counts[key] -= 1
    else:
        del counts[key]
