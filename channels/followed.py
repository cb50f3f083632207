"""One followed channel: its replica, what waits to be applied, and who waits for it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable

from channels.changes import Change
from channels.positions import Position
from channels.replica import Replica


class Followed:
    """A channel that this node follows, because somebody watches it or did a moment ago.

    Attributes:
        replica: The state, `None` until it was first read.
        references: How many watchers and readers keep the channel followed.
        known_rev: The newest revision heard of, in the replica's epoch; may be ahead of it.
        waiting: Changes that came before their elders, by revision.
        repair_at: When the elders are given up, and read from the log.
        is_gone: The zone was deleted; nothing follows until it is made again.
        past_epoch: The epoch before the replica's, which the database will never have again.
        is_forgotten: Nobody follows it any more; a read under way is for nothing.
        verified_s: When the database was last asked for head or state (monotonic).
        compared: The replica's position and the head at the last comparison of heads.
        loading: Of the read of the state that is under way: whether there is such a channel;
            shared by all who wait for it.
        recalling: The read of older changes that is under way, likewise.
    """

    __slots__ = (
        "_wakers",
        "channel",
        "compared",
        "is_forgotten",
        "is_gone",
        "is_repairing",
        "known_rev",
        "linger",
        "loading",
        "past_epoch",
        "recalling",
        "references",
        "repair_at",
        "replica",
        "verified_s",
        "waiting",
        "waiting_max_changes",
    )

    def __init__(self, channel: str, *, waiting_max_changes: int) -> None:
        self.channel = channel
        self.replica: Replica | None = None
        self.references = 0
        self.known_rev = 0
        self.waiting: dict[int, Change] = {}
        self.waiting_max_changes = waiting_max_changes
        self.repair_at: asyncio.TimerHandle | None = None
        self.linger: asyncio.TimerHandle | None = None
        self.loading: asyncio.Future[bool] | None = None
        self.recalling: asyncio.Future[None] | None = None
        self.compared: tuple[Position, Position | None] | None = None
        self.verified_s = -math.inf
        self.past_epoch = ""
        self.is_repairing = False
        self.is_gone = False
        self.is_forgotten = False
        self._wakers: set[asyncio.Future[None]] = set()

    def __repr__(self) -> str:
        return f"<Followed {self.channel} {self.replica!r} {self.references} references>"

    @property
    def applied_rev(self) -> int:
        """The replica's revision, 0 before it was read."""
        return 0 if self.replica is None else self.replica.rev

    @property
    def is_there(self) -> bool:
        """Whether there is a replica of it that lives."""
        return self.replica is not None and not self.is_gone

    @property
    def is_behind(self) -> bool:
        """Whether a newer revision is known than the replica has."""
        return self.replica is not None and self.known_rev > self.replica.rev

    def has_reached(self, seen: Position, head: Position | None) -> bool:
        """Tell whether a replica that was at `seen` is where a head was, or beyond; or gone.

        One that has been read anew since, of an epoch that neither knew, is beyond.
        """
        if self.replica is None or self.is_gone:
            return True
        if head is None or self.replica.epoch != head.epoch:
            return self.replica.epoch != seen.epoch
        return self.replica.rev >= head.rev

    def covers_any(self, heads: Iterable[Position | None]) -> bool:
        """Tell whether the replica is where one of these heads was, or beyond; or gone."""
        if self.replica is None or self.is_gone:
            return True
        position = self.replica.position
        return any(head is not None and position.covers(head) for head in heads)

    def keep(self, change: Change) -> None:
        """Keep a change for later; the farthest ahead make room, as they are in the log, too."""
        self.waiting[change.rev] = change
        if len(self.waiting) > self.waiting_max_changes:
            del self.waiting[max(self.waiting)]

    def apply_waiting(self, applied: Callable[[Change], None]) -> None:
        """Apply what waits and now follows directly; forget what is older or of another epoch."""
        if self.replica is None:
            return
        while (change := self.waiting.pop(self.replica.rev + 1, None)) is not None:
            if change.epoch == self.replica.epoch:
                self.replica.apply(change)
                applied(change)
        epoch, applied_rev = self.replica.epoch, self.replica.rev
        for rev, change in list(self.waiting.items()):
            # What is left of another history would be waited for, and asked for, for ever.
            if rev <= applied_rev or change.epoch != epoch:
                del self.waiting[rev]
        if not self.is_behind and self.repair_at is not None:
            self.repair_at.cancel()
            self.repair_at = None

    def wake(self) -> None:
        """Wake everybody who waits for the channel to move."""
        for waker in self._wakers:
            if not waker.done():
                waker.set_result(None)
        self._wakers.clear()

    async def moved(self) -> None:
        """Wait until the replica moves, is read anew, or is gone. Cancel-safe."""
        waker = asyncio.get_running_loop().create_future()
        self._wakers.add(waker)
        try:
            await waker
        finally:
            self._wakers.discard(waker)

    def stop_timers(self) -> None:
        """Cancel what was to happen later."""
        for timer in (self.repair_at, self.linger):
            if timer is not None:
                timer.cancel()
        self.repair_at = self.linger = None
