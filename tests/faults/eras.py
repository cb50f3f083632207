"""Eras: what the database held and committed, from its beginning or a restore to the next."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from typing import Any

from channels.positions import Position
from db.identity import client_epoch


@dataclass(frozen=True, slots=True)
class Head:
    """Where a channel is in the tables."""

    epoch: str
    rev: int
    floor: int


@dataclass(frozen=True, slots=True)
class Tables:
    """What the database holds at one moment: users and zones as clients see them, and heads."""

    users: dict[int, dict[str, Any]] = field(default_factory=dict)
    zones: dict[str, dict[str, Any]] = field(default_factory=dict)
    heads: dict[str, Head] = field(default_factory=dict)
    identity: str = ""

    def position(self, channel: str) -> Position:
        """Return where a channel is, as clients see it."""
        head = self.heads[channel]
        return Position(client_epoch(head.epoch, self.identity), head.rev)


@dataclass(frozen=True, slots=True)
class LogRow:
    """A row of the change log."""

    channel: str
    rev: int
    tx: str
    span: int
    events: bytes


@dataclass(slots=True)
class HeadTimes:
    """When each channel was first seen at which revision: an upper bound of commit times.

    Attributes:
        marks: Revisions and times, both ascending, by channel.
        epochs: All epochs that channels were seen in, as clients see them.
        identities: All that the database was seen with: each start of it makes another.
    """

    marks: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)
    epochs: set[str] = field(default_factory=set)
    identities: set[str] = field(default_factory=set)

    def note(self, channel: str, rev: int, at_s: float) -> None:
        """Note that a channel was at `rev`."""
        revs, times = self.marks.setdefault(channel, ([], []))
        if not revs or rev > revs[-1]:
            revs.append(rev)
            times.append(at_s)

    def committed_s(self, channel: str, rev: int) -> float | None:
        """Return by when a revision was committed; `None`: that was never seen."""
        revs, times = self.marks.get(channel, ([], []))
        index = bisect_left(revs, rev)
        return times[index] if index < len(times) else None

    def rev_by(self, channel: str, at_s: float) -> int:
        """Return the last revision that a channel was seen at by a time; 0: none."""
        revs, times = self.marks.get(channel, ([], []))
        index = bisect_right(times, at_s)
        return revs[index - 1] if index else 0


@dataclass(slots=True)
class Era:
    """What was committed from the first moment on until the database was put back, or the end.

    Eras share their beginnings: the log of each leads from the `base` of the history to its
    own tables. After that they part, and reuse the same revisions.

    Attributes:
        from_s: Since when the database tells this one; nobody can know of it before.
        to_s: When it was lost; infinite for the last.
        from_revs: Of heads, where it parts from the one before; at most a little lower.
        final: Its tables at its end.
        log: Its change log after the base.
        kept_rows: Rows that were in its log, and were pruned.
        head_times: When each channel was first seen at which of its revisions.
    """

    from_s: float = 0.0
    to_s: float = math.inf
    from_revs: dict[str, int] = field(default_factory=dict)
    final: Tables = field(default_factory=Tables)
    log: list[LogRow] = field(default_factory=list)
    kept_rows: list[LogRow] = field(default_factory=list)
    head_times: HeadTimes = field(default_factory=HeadTimes)

    def epochs(self) -> set[str]:
        """Return the epochs that clients may have seen, but for some that lived for moments."""
        ends = {head.epoch for head in self.final.heads.values()}
        identities = self.head_times.identities
        return self.head_times.epochs | {
            client_epoch(epoch, identity) for epoch in ends for identity in identities
        }
