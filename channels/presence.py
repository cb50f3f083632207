"""Presence: who watches a channel, as nodes tell each other and as clients are told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Protocol

Clients = Mapping[str, str]
"""Users by the ids of their connections; a user that nobody knows is empty."""


@dataclass(frozen=True, slots=True)
class Headcount:
    """Who watches a channel at one node.

    Attributes:
        count: How many connections do.
        clients: Which; `None`: only the numbers were asked for, or they are too many.
        anonymous: How many of them are of nobody known.
        users: Marks of the users of the others, as `mark_of` makes them.
    """

    count: int
    clients: Clients | None
    anonymous: int
    users: frozenset[int]

    @classmethod
    def of_clients(cls, clients: Clients, *, is_named: bool) -> Headcount:
        """Count clients, and name them if that is wanted."""
        tally = Tally(len(clients) if is_named else -1)
        for client, user in clients.items():
            tally.add(client, user)
        return tally.headcount()


class Tally:
    """A headcount in the making: many are counted in pieces, between which others have the loop.

    Args:
        max_clients: How many are named; one more, and none is.
    """

    def __init__(self, max_clients: int) -> None:
        self._max_clients = max_clients
        self._clients: dict[str, str] = {}
        self._marks: dict[str, int] = {}
        self._anonymous = 0
        self._count = 0

    def add(self, client: str, user: str) -> None:
        """Count a client."""
        self._count += 1
        if self._count <= self._max_clients:
            self._clients[client] = user
        if not user:
            self._anonymous += 1
        elif user not in self._marks:
            self._marks[user] = mark_of(user)

    def headcount(self) -> Headcount:
        """Return who was counted."""
        named = self._clients if self._count <= self._max_clients else None
        users = frozenset(self._marks.values())
        return Headcount(self._count, named, self._anonymous, users)


def mark_of(user: str) -> int:
    """Return 64 bits that stand for a user: enough to count each once, over all nodes."""
    return int.from_bytes(blake2b(user.encode(), digest_size=8).digest())


@dataclass(frozen=True, slots=True, eq=False)
class Presence:
    """Who watches a channel, over all nodes.

    Attributes:
        clients: All of them; `None`: they are more than are named.
        num_clients: How many there are.
        num_users: How many different users; each that nobody knows counts for itself.
    """

    clients: Clients | None
    num_clients: int
    num_users: int

    @classmethod
    def of_nodes(cls, parts: Iterable[Headcount], max_clients: int) -> Presence:
        """Add up what the nodes told."""
        parts = list(parts)
        count = sum(part.count for part in parts)
        users: set[int] = set()
        named: dict[str, str] | None = {} if count <= max_clients else None
        for part in parts:
            users |= part.users
            if part.clients is None:
                named = None
            elif named is not None:
                named |= part.clients
        return cls(named, count, len(users) + sum(part.anonymous for part in parts))


@dataclass(frozen=True, slots=True, eq=False)
class Difference:
    """Who came to a channel, and who left it, since somebody was told last.

    Attributes:
        channel: The channel.
        joined: Who came.
        left: Who left.
        encoded: What codecs made of it, each once for all who are told.
    """

    channel: str
    joined: Clients
    left: Clients
    encoded: dict[Any, Any] = field(default_factory=dict)

    @classmethod
    def between(cls, channel: str, before: Clients, after: Clients) -> Difference:
        """Compare."""
        joined = {client: user for client, user in after.items() if client not in before}
        left = {client: user for client, user in before.items() if client not in after}
        return cls(channel, joined, left)

    def __bool__(self) -> bool:
        return bool(self.joined or self.left)


Asked = Mapping[str, bool]
"""Channels, and whether the clients are to be named."""
Counted = Mapping[str, Headcount]
Count = Callable[[Asked], Awaitable[Counted]]


class Nodes(Protocol):
    """The other nodes, as far as presence goes. The docstrings are the contract."""

    async def run(self, count: Count) -> None:
        """Let other nodes know of this one, and answer them, until cancelled.

        Args:
            count: Counts who is here, by channel; those that nobody watches may be left out.
        """

    async def ask(self, channels: Asked) -> list[Counted]:
        """Ask all other nodes, and return what each answered. Bounded, cancel-safe.

        Raises:
            UnavailableError: one of them did not answer, or it isn't known who they are: what
                the rest says would pass for the whole.
        """


class NoOtherNodes:
    """`Nodes` of a process that is alone."""

    async def run(self, count: Count) -> None:
        """Nobody asks."""

    async def ask(self, channels: Asked) -> list[Counted]:
        """Nobody answers."""
        return []
