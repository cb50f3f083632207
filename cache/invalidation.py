"""Invalidation: how commits, seen by a node's bus, reach the node's copies of the users dict."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cache.bus_config import hash_tag
from channels.changes import Transaction
from channels.events import Changed, Entered, Event, Left
from channels.ports import BusListener, BusMessage


@dataclass(frozen=True, slots=True)
class UsersDictKeys:
    """Where Redis keeps the users dict; the braces keep both keys on one cluster node.

    Attributes:
        fence: Holds a random token. A fill brings the token that was read before the
            database, and is refused when the key has another one or is gone.
        value: Holds the encoded dict. Fence and value are only ever deleted together.
    """

    fence: str
    value: str

    @classmethod
    def of_prefix(cls, key_prefix: str) -> UsersDictKeys:
        """Name the keys of the service with this prefix."""
        tag = hash_tag(key_prefix)
        return cls(f"{tag}:fence", f"{tag}:value")


def touches_users(transactions: Iterable[Transaction]) -> bool:
    """Tell whether any of the transactions entered, changed or removed a user."""
    return any(
        _is_about_users(change.events)
        for transaction in transactions
        for change in transaction.changes
    )


def _is_about_users(events: Iterable[Event]) -> bool:
    return any(isinstance(event, (Entered, Changed, Left)) for event in events)


class Invalidation:
    """What a node's bus tells its cache: one object, shared by the two. Nothing here awaits.

    Attributes:
        generation: Rises with every invalidation that the node makes or hears of. What was
            read at an older generation may be out of date.
    """

    def __init__(self) -> None:
        self.generation = 0
        self._under_way = 0
        self._owed = 0
        self._settled = 0

    @property
    def trusts_redis(self) -> bool:
        """Whether Redis may be read and filled.

        Not while this node's own raise of the fence is under way or owed: until it is done,
        Redis may hold a dict from before a commit that this node answered for.
        """
        return self._under_way == 0 and self._owed == self._settled

    @property
    def owes_raise(self) -> bool:
        """Whether a raise of the fence failed and is to be made up for."""
        return self._owed != self._settled

    def heard(self) -> None:
        """Note another node's invalidation, or that some may have been missed."""
        self.generation += 1

    def begin(self) -> None:
        """Note that this node is about to raise the fence for a commit of its own."""
        self.generation += 1
        self._under_way += 1

    def end(self, *, raised: bool) -> None:
        """Note how a raise that began ended; one that may have failed is owed from now on."""
        self._under_way -= 1
        if not raised:
            self._owed += 1

    def owed_mark(self) -> int:
        """Return what to hand to `settle` when the fence, raised from now on, is raised."""
        return self._owed

    def settle(self, mark: int) -> None:
        """Note that the fence was raised after all failures up to `mark`."""
        self.generation += 1
        self._settled = max(self._settled, mark)


@dataclass(slots=True)
class UsersListener:
    """Hears of changes first, where notices of the users dict come over another connection."""

    inner: BusListener
    invalidation: Invalidation

    def on_message(self, message: BusMessage) -> None:
        """Invalidate before the change is applied; what can't be seen may be about users."""
        if message.events is None or _is_about_users(message.events):
            self.invalidation.heard()
        self.inner.on_message(message)

    def on_gap(self) -> None:
        """Pass it on."""
        self.inner.on_gap()
