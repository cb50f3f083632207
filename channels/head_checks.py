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
        unix_ms: The wall clock.
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
        tell: Callable[[int | None], None],
    ) -> None:
        self._log = log
        self._follower = follower
        self._observer = observer
        self._interval_s = interval_s
        self._stale_after_s = stale_after_s
        self._unix_ms = unix_ms
        self._tell = tell
        self._verified_ms = unix_ms()
        self._stale_since_ms: int | None = None

    @property
    def stale_since_ms(self) -> int | None:
        """Since when (Unix ms) the heads could not be verified; `None`: they are."""
        return self._stale_since_ms

    @property
    def verified_ms(self) -> int:
        """When (Unix ms) the last complete comparison began."""
        return self._verified_ms

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
        loop = asyncio.get_running_loop()
        started_s, started_ms = loop.time(), self._unix_ms()
        positions = self._follower.positions()
        for first in range(0, max(1, len(positions)), SLICE_MAX_CHANNELS):
            # Positions of later slices are taken anew: they moved while the first were asked.
            channels = [name for name, _ in positions[first : first + SLICE_MAX_CHANNELS]]
            seen = [
                (name, replica.position)
                for name in channels
                if (replica := self._follower.replicas.get(name)) is not None
            ]
            asked_s = loop.time()
            heads = await self._log.read_heads(channels or [DIRECTORY])
            for channel, position in seen:
                self._follower.note_head(channel, position, heads.get(channel), asked_s)
        self._observer.heads_checked(len(positions), loop.time() - started_s)
        self._verified_ms = started_ms
        self._become(None)

    async def _watch_staleness(self) -> None:
        """Notice staleness on time even while a question to the database hangs."""
        while True:
            await asyncio.sleep(self._stale_after_s / 8)
            if self._unix_ms() - self._verified_ms > self._stale_after_s * 1000:
                self._become(self._verified_ms)

    def _become(self, since_ms: int | None) -> None:
        if (since_ms is None) != (self._stale_since_ms is None):
            self._stale_since_ms = since_ms
            self._tell(since_ms)
