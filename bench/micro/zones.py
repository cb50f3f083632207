"""What the micro-benchmarks work on: a zone's state, its changes, and connections that forget."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from channels.changes import Change, ChannelState
from channels.events import Changed, User, Zone
from channels.positions import Position
from channels.subscribers import EndReason
from realtime.websocket.json_codec import CentrifugeJsonCodec

CHANNEL = "zone:A"
CHANGES_PER_TICK = 32


class Benchmark(Protocol):
    """The fixture of pytest-benchmark, as far as it is used here."""

    extra_info: dict[str, Any]

    def __call__(self, play: Callable[..., Any], *arguments: Any) -> Any:
        """Call `play` as often as it takes; return what it returned."""


def user(number: int, version: int = 1) -> User:
    """Make a user of the zone."""
    return User(number, 1_000 + number, f"User {number}", "A", {"seat": number}, version)


def state(users: int) -> ChannelState:
    """Make a zone with so many users, at revision 0."""
    zone = Zone("A", "Zone A", {})
    everybody = {number: user(number) for number in range(1, users + 1)}
    return ChannelState(CHANNEL, Position("e", 0), zone, everybody, {})


def changes(count: int = CHANGES_PER_TICK) -> list[Change]:
    """Make changes of one user, from revision 1."""
    return [
        Change.of_events(
            CHANNEL, Position("e", rev), f"{rev:016x}", 0, (Changed(user(1, 1 + rev)),)
        )
        for rev in range(1, count + 1)
    ]


class Sink:
    """A connection that takes frames and forgets them."""

    congested = False

    def __init__(self, codec: CentrifugeJsonCodec) -> None:
        self.codec = codec
        self.taken_bytes = 0

    def deliver(self, frame: bytes) -> None:
        """Take a frame."""
        self.taken_bytes += len(frame)

    def end_channel(self, channel: str, reason: EndReason) -> None:
        """Not reached: the zone stays."""

    def tell_staleness(self, since_ms: int | None) -> None:
        """Not reached: nothing is stale."""

    def cut(self) -> None:
        """Not reached: nobody is slow."""
