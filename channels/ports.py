"""Ports: what the rules of synchronisation need from the world. The docstrings are the contract.

Errors of drivers never pass a port: an adapter raises `Unavailable` and keeps the cause.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from channels.changes import Change, ChangePage, ChannelState, Transaction
from channels.events import Event
from channels.positions import Position


class UnavailableError(Exception):
    """Something outside cannot be asked now; asking again later may work.

    Attributes:
        what: `database` or `bus`.
        reason: One line for the log, without secrets.
    """

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what} is unavailable: {reason}")
        self.what = what
        self.reason = reason


class ChangeLog(Protocol):
    """The truth as the follower reads it. Every method is bounded in time and cancel-safe.

    Epochs are those that clients see: a hash of the head's epoch and the database's identity.
    Each method raises `UnavailableError` when the database doesn't answer in time.
    """

    async def read_state(self, channel: str) -> ChannelState | None:
        """Read the state, the head and the identity in one database snapshot.

        Returns `None` when there is no such channel (a zone that was never made, or is gone).
        """

    async def read_states(self, channels: Sequence[str]) -> dict[str, ChannelState | None]:
        """Read the states of some channels as `read_state` does, all in one snapshot.

        The first is always among them. Those that would make the answer too large are left
        out: they are to be asked for again.
        """

    async def read_changes(self, channel: str, since_rev: int, limit: int) -> ChangePage | None:
        """Read up to `limit` changes after `since_rev`, with head and floor, in one snapshot.

        The changes carry their `parts`. `None` when the channel has no head. The caller
        compares the epoch: rows of an epoch other than the head's are never returned.
        """

    async def read_heads(self, channels: Sequence[str]) -> dict[str, Position]:
        """Read where channels are now; one that has no head is missing.

        The head of a deleted zone is still there, at the revision of its `zone_deleted`.
        Cheap: it is asked once a second for all followed channels, in slices of at most
        1,000, on a connection reserved for it.
        """


class BusState(Enum):
    """How a node's bus is."""

    LIVE = "live"
    DOWN = "down"
    DEAF = "deaf"
    """Connected, but the node doesn't hear its own heartbeat."""


@dataclass(frozen=True, slots=True)
class BusMessage:
    """What the bus brings of a change.

    Attributes:
        channel: The channel's name.
        position: Where the change takes the channel.
        tx: The transaction.
        time_ms: When it was recorded, Unix milliseconds.
        parts: As in `Change`; empty for a transaction of one channel.
        events: The change itself, or `None` when it was too large to be carried: then only
            the position is known, and the change is read from the log.
        events_json: The same as JSON.
        trace: As in `Change`, of the node that sent it.
    """

    channel: str
    position: Position
    tx: str
    time_ms: int
    parts: tuple[tuple[str, int], ...]
    events: tuple[Event, ...] | None
    events_json: bytes | None
    trace: str = ""


class BusListener(Protocol):
    """Who is told what the bus brings. All methods are synchronous, quick, and never raise."""

    def on_message(self, message: BusMessage) -> None:
        """Take a message of a subscribed channel; it may be lost, doubled, late, reordered."""

    def on_gap(self) -> None:
        """Learn that messages may have been lost: the connection was made anew."""


class Bus(Protocol):
    """The fast path between nodes. It promises nothing but speed.

    `run` owns connection and reader until it is cancelled, and reconnects by itself with
    back-off. Everything else may be called before `run` is connected.
    """

    @property
    def state(self) -> BusState:
        """How the bus is, as far as this node can tell."""

    async def run(self, listener: BusListener) -> None:
        """Deliver to `listener` until cancelled; only cancellation ends it."""

    async def subscribe(self, *channels: str) -> bool:
        """Register interest and wait, bounded (250 ms), for the confirmation of all.

        Returns whether all were confirmed. Unconfirmed interest is kept: it is registered as
        soon as the bus can, followed by `on_gap`. Never raises but on cancellation.
        """

    def unsubscribe(self, channel: str) -> None:
        """Drop interest; what is under way may still arrive. Never awaits."""

    async def publish(self, transactions: Sequence[Transaction]) -> None:
        """Send committed transactions to other nodes, in order, in one round trip, bounded.

        While the bus is known to be down this returns at once with the error, so that a
        hung bus costs a bounded wait once and not for each write.

        Raises:
            UnavailableError: some or all may not have been sent; head checks make up for it.
        """


class Observer(Protocol):
    """Who counts and logs what the rules do: three verbs would be too few, this is all."""

    def repaired(self, channel: str, cause: str, changes: int) -> None:
        """Count a repair from the log. `cause`: gap, head, oversize, behind."""

    def reset(self, channel: str, cause: str) -> None:
        """Count a replica read anew. `cause`: epoch, compacted, rewound, gone."""

    def heads_checked(self, channels: int, duration_s: float) -> None:
        """Count a completed comparison of heads."""

    def duplicate(self, channel: str) -> None:
        """Count a message that brought nothing new."""

    def fanned_out(
        self,
        changes: Sequence[Change],
        deliveries: int,
        publish_to_write_s: float,
        pass_s: float,
    ) -> None:
        """Count one pass: changes, writes to connections, the oldest's delay, the pass's time."""

    def published(self, transactions: int, commit_to_publish_s: float) -> None:
        """Count transactions handed to the bus."""

    def publish_failed(self, transactions: int, reason: str) -> None:
        """Count transactions that the bus did not take."""

    def failed(self, what: str, error: Exception) -> None:
        """Log a failure that the caller will try again."""
