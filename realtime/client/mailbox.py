"""The mailbox: what was told and not taken yet, bounded."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

from realtime.client.updates import Changed, Gone, Replaced, Status, Update


class Mailbox:
    """A queue of updates that sums up what is not taken in time.

    When more than `max_events` wait, all that waits is dropped, and until somebody takes
    something nothing more is kept: then come the ends of zones, the states of all zones as they
    are at that moment, and the status. So a slow reader misses changes, never their effect.

    Args:
        max_events: Events of changes and users of states that may wait; one update always may.
        sum_up: Returns the present states of all zones.

    Attributes:
        times_behind: How often it was full.
    """

    def __init__(self, max_events: int, sum_up: Callable[[], Replaced]) -> None:
        self._max_events = max_events
        self._sum_up = sum_up
        self._queue: deque[Update] = deque()
        self._events = 0
        self._is_behind = False
        self._gone: dict[str, Gone] = {}
        self._status: Status | None = None
        self._filled = asyncio.Event()
        self._is_awaited = False
        self._failure: Exception | None = None
        self.times_behind = 0

    def put(self, updates: Iterable[Update]) -> None:
        """Add updates. Never awaits."""
        for update in updates:
            if not self._is_behind:
                self._queue.append(update)
                self._events += _weight(update)
                if self._events > self._max_events and len(self._queue) > 1:
                    self._fall_behind()
            else:
                self._note(update)
        self._filled.set()

    def _fall_behind(self) -> None:
        self._is_behind = True
        self.times_behind += 1
        self._gone, self._status = {}, None
        dropped, self._queue = self._queue, deque()
        self._events = 0
        for update in dropped:
            self._note(update)

    def _note(self, update: Update) -> None:
        if isinstance(update, Gone):
            self._gone[update.zone_id] = update
        elif isinstance(update, Status):
            self._status = update

    def end(self, failure: Exception) -> None:
        """Let readers have what waits, and then this failure. The first one counts."""
        self._failure = self._failure or failure
        self._filled.set()

    async def take(self) -> Update:
        """Return the next update, waiting for it. Cancel-safe; one reader at a time.

        Raises:
            Exception: what `end` was given, when nothing waits any more.
        """
        if self._is_awaited:
            raise RuntimeError("a watch is iterated by one task at a time")
        self._is_awaited = True
        try:
            while True:
                if self._is_behind:
                    self._catch_up()
                if self._queue:
                    break
                if self._failure is not None:
                    raise self._failure
                self._filled.clear()
                await self._filled.wait()
        finally:
            self._is_awaited = False
        update = self._queue.popleft()
        self._events -= _weight(update)
        return update

    def _catch_up(self) -> None:
        self._is_behind = False
        summary = self._sum_up()
        self._queue.extend(self._gone.values())
        if summary.zones:
            self._queue.append(summary)
        if self._status is not None:
            self._queue.append(self._status)
        self._events = sum(map(_weight, self._queue))


def _weight(update: Update) -> int:
    """Return what an update counts: its events, or the users of its states."""
    if isinstance(update, Changed):
        return max(1, sum(len(part.events) for part in update.parts))
    if isinstance(update, Replaced):
        return max(1, sum(len(state.users) for state in update.zones))
    return 1
