"""Head checks: the comparison of every followed channel with the database, once a second.

The last lost message of a channel leaves no gap to see, and a bus may be deaf without knowing.
So the comparison always runs, whatever the bus says; it is what bounds staleness.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from channels.follower import Follower
from channels.names import DIRECTORY
from channels.ports import ChangeLog, Observer, UnavailableError

SLICE_MAX_CHANNELS: Final = 1_000
MIN_SPACING_S: Final = 0.05
"""However often a comparison is wanted, the database is asked no oftener than this."""


class HeadChecks:
    """The loop that compares heads, and what it knows of the picture's staleness.

    Args:
        log: The truth.
        follower: Whose replicas are compared.
        observer: Told of each comparison.
        interval_s: The time between the ends and starts of comparisons, at most 1.
        stale_after_s: When heads unverified for that long make the picture stale.
        unix_ms: The wall clock, only to tell: it may jump.
        monotonic_s: The clock of the bounds.
        tell: Told since when (Unix ms) the picture is not verified, and `None` when it is.
    """

    def __init__(
        self,
        log: ChangeLog,
        follower: Follower,
        observer: Observer,
        *,
        interval_s: float,
        stale_after_s: float,
        unix_ms: Callable[[], int],
        monotonic_s: Callable[[], float],
        tell: Callable[[int | None], None],
    ) -> None:
        self._log = log
        self._follower = follower
        self._observer = observer
        self._interval_s = interval_s
        self._stale_after_s = stale_after_s
        self._unix_ms = unix_ms
        self._monotonic_s = monotonic_s
        self._tell = tell
        self._verified_s = monotonic_s()
        self._stale_since_ms: int | None = None

    @property
    def stale_since_ms(self) -> int | None:
        """Since when (Unix ms) the heads could not be verified; `None`: they are."""
        return self._stale_since_ms

    @property
    def verified_ms(self) -> int:
        """When (Unix ms) the last comparison began that found all repaired of the one before."""
        return self._unix_ms() - round((self._monotonic_s() - self._verified_s) * 1000)

    async def run(self) -> None:
        """Compare until cancelled; a database that can't be asked is asked again."""
        wanted = self._follower.verify_wanted
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch_staleness())
            while True:
                wanted.clear()
                try:
                    await self._compare()
                except UnavailableError as error:
                    self._observer.failed("comparison of heads", error)
                await asyncio.sleep(MIN_SPACING_S)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(0, self._interval_s - MIN_SPACING_S)):
                        await wanted.wait()

    async def _compare(self) -> None:
        started_s = self._monotonic_s()
        lagging = 0
        positions = self._follower.positions()
        for first in range(0, max(1, len(positions)), SLICE_MAX_CHANNELS):
            # Positions of later slices are taken anew: they moved while the first were asked.
            channels = [name for name, _ in positions[first : first + SLICE_MAX_CHANNELS]]
            seen = [
                (name, replica.position)
                for name in channels
                if (replica := self._follower.replicas.get(name)) is not None
            ]
            asked_s = self._monotonic_s()
            heads = await self._log.read_heads(channels or [DIRECTORY])
            for channel, position in seen:
                if not self._follower.note_head(channel, position, heads.get(channel), asked_s):
                    lagging += 1
        self._observer.heads_checked(len(positions), self._monotonic_s() - started_s)
        if not lagging:
            # To know that a replica is behind is not yet to show the truth.
            self._verified_s = started_s
            # What a late answer tells is old, and would be stale again before the next one.
            if self._monotonic_s() - started_s <= self._stale_after_s / 2:
                self._become(None)

    async def _watch_staleness(self) -> None:
        """Notice staleness on time even while a question to the database hangs."""
        while True:
            await asyncio.sleep(self._stale_after_s / 8)
            if self._monotonic_s() - self._verified_s > self._stale_after_s:
                self._become(self.verified_ms)

    def _become(self, since_ms: int | None) -> None:
        if (since_ms is None) != (self._stale_since_ms is None):
            self._stale_since_ms = since_ms
            self._tell(since_ms)
