"""Subscribers: what a connection is to the hub, and why the hub ends a subscription."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol, TypeVar

from channels.changes import Change
from channels.positions import Position
from channels.replica import Replica

Frame = TypeVar("Frame")
Frame_co = TypeVar("Frame_co", covariant=True)


class EndReason(IntEnum):
    """Why a subscription ends by the server's decision. Values: unsubscribe push codes.

    Codes from 2500 on make the official SDKs subscribe again by themselves.
    """

    GONE = 2000
    """The zone was deleted; subscribing again will not help."""
    REVOKED = 2001
    """The client may no longer see the channel; subscribing again is for who may anew."""
    RESUME = 2500
    """Subscribe again from the last position."""
    EXPIRED = 2501
    """What granted the channel has ended; subscribe again with something newer."""
    ANEW = 2502
    """Forget the position and subscribe again for a snapshot."""


class Codec(Protocol[Frame_co]):
    """How changes become what a kind of connection writes. One instance for all connections of
    the kind: the hub encodes once for each codec and shares the frame.
    """

    def encode(self, changes: Sequence[Change]) -> Frame_co:
        """Encode whole transactions, in order, as one frame. Pure; never awaits."""


class Subscriber(Protocol[Frame]):
    """A connection. Hashable by identity. No method awaits or raises."""

    @property
    def codec(self) -> Codec[Frame]:
        """The codec shared with all connections of this kind."""

    @property
    def congested(self) -> bool:
        """Whether bytes left over from earlier writes pass the limit (a snapshot in flight
        does not count). When this turns false again the connection calls `Feed.drained`.
        """

    def deliver(self, frame: Frame) -> None:
        """Write a frame at once. Never called while congested but for the catch-up."""

    def end_channel(self, channel: str, reason: EndReason) -> None:
        """Tell the client that a subscription ended; the hub has already dropped it."""

    def tell_staleness(self, since_ms: int | None) -> None:
        """Tell the client since when (Unix ms) the picture is not verified; `None`: it is live."""

    def cut(self) -> None:
        """Abort the connection, which has not drained in time (3008)."""


@dataclass(frozen=True, slots=True)
class Start:
    """How a subscription begins, decided in the same step in which the client is told.

    Attributes:
        replica: The channel's state at `position`; read it now, it moves on.
        position: Where the stream goes on from: what follows is `position.rev + 1`.
        was_recovering: Whether the client gave a position.
        changes: What the client missed, when it could be recovered; else `None`: it needs
            the snapshot.
    """

    replica: Replica
    position: Position
    was_recovering: bool
    changes: tuple[Change, ...] | None
