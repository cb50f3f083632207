"""The record: a truth that knows what it was at every position, and so what is promised."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final

from channels.changes import Change, ChannelState, Transaction
from channels.positions import Position
from tests.channels.truth import Head, Truth
from tests.channels.viewers import Node, Picture

BACK: Final = "a node never goes back in time"


@dataclass(frozen=True)
class Backup:
    """A copy of the truth, which may be restored."""

    heads: dict[str, Head]
    zones: dict[str, Any]
    users: dict[int, Any]
    rows: dict[tuple[str, int], Change]
    identity: str


class RecordedTruth(Truth):
    """A truth that remembers what it was at each position, and knows what is promised.

    Attributes:
        moment: How often it has changed.
        broken: The promises that did not hold.
    """

    def __init__(self, zones: Sequence[str]) -> None:
        super().__init__(zones)
        self.moment = 0
        self.broken: list[str] = []
        self._pictures: dict[tuple[str, Position], list[Picture]] = {}
        self._moments: dict[tuple[str, Position], int] = {}
        self._present: dict[str, Position] = {}
        self._absent: dict[str, int] = {}
        self._epochs_of: dict[str, dict[str, str]] = {}
        self._served: dict[tuple[int, str], int] = {}
        self._down_until_s = -1.0
        self.note()

    def note(self, transaction: Transaction | None = None) -> None:
        """Remember what is now."""
        self.moment += 1
        for channel in self.heads:
            position, state = self.position(channel), self.state(channel)
            # Before it had a head there was no such channel.
            self._absent.setdefault(channel, self.moment - 1)
            pictures = self._pictures.setdefault((channel, position), [])
            picture = Picture.of(state)
            if picture not in pictures:
                pictures.append(picture)
            if self._present.get(channel) != position:
                self._present[channel] = position
                self._moments[channel, position] = self.moment
        for channel in self._absent:
            if self.state(channel) is None:
                self._absent[channel] = self.moment
        if transaction is not None:
            names = [change.channel for change in transaction.changes]
            self._epochs_of[transaction.tx] = {name: self.heads[name].epoch for name in names}

    def back_up(self) -> Backup:
        """Copy what is now."""
        rows = dict(self.rows)
        return Backup(deepcopy(self.heads), dict(self.zones), dict(self.users), rows, self.identity)

    def restore(self, backup: Backup) -> None:
        """Become what was copied; the identity stays what it is."""
        self.heads, self.zones = deepcopy(backup.heads), dict(backup.zones)
        self.users, self.rows = dict(backup.users), dict(backup.rows)
        self.note()

    def forgive_going_back(self) -> None:
        """Drop what was noted of nodes that went back in time, and begin anew."""
        self._served.clear()
        self.broken = [promise for promise in self.broken if not promise.startswith(BACK)]

    def set_down(self, *, down: bool) -> None:
        """Let questions fail or be answered."""
        if self.down:
            self._down_until_s = asyncio.get_running_loop().time()
        self.down = down

    # What viewers ask of the record

    def check(self, holds: object, promise: str, *details: object) -> None:
        """Note a broken promise."""
        if not holds:
            self.broken.append(" ".join(map(str, (promise, *details))))

    def check_picture(self, channel: str, position: Position, picture: Picture) -> None:
        """Note a picture that is not the truth at exactly this position."""
        known = self._pictures.get((channel, position), [])
        self.check(picture in known, "the state at exactly its position", channel, position)

    def states_at(self, channel: str, position: Position) -> list[ChannelState]:
        """Return what the channel was at a position."""
        pictures = self._pictures.get((channel, position), [])
        return [ChannelState(channel, position, p.zone, p.users, p.zones) for p in pictures]

    def check_served(self, node: Node, channel: str, position: Position) -> None:
        """Note a node that goes back in time."""
        moment = self.moment_of(channel, position)
        last = self._served.get((id(node), channel), -1)
        self.check(moment >= last, BACK, channel, position)
        self._served[id(node), channel] = moment

    def part_position(self, change: Change, channel: str, rev: int) -> Position:
        """Return where a part of a change's transaction took another channel."""
        own = self._epochs_of[change.tx][change.channel]
        identity = change.epoch.removeprefix(own)
        return Position(self._epochs_of[change.tx][channel] + identity, rev)

    def moment_of(self, channel: str, position: Position) -> int:
        """Return the moment at which the channel came to a position."""
        return self._moments.get((channel, position), -1)

    def was_absent_since(self, channel: str, moment: int) -> bool:
        """Tell whether there was no such channel at that moment or later."""
        return channel not in self.heads or self._absent.get(channel, -1) >= moment

    def was_down_since(self, time_s: float) -> bool:
        """Tell whether the database was down at that time or later."""
        return self.down or self._down_until_s >= time_s
