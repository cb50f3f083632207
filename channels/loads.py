"""Loads: how the states of channels are read that this node begins to follow, many at once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from channels.changes import ChannelState
from channels.encoded_users import EncodedUsers
from channels.followed import Followed
from channels.ports import Bus, ChangeLog

LOAD_MAX_CHANNELS: Final = 250
"""How many channels are registered on the bus and asked for together."""

Take = Callable[[Followed, ChannelState | None, EncodedUsers | None], None]


class Loads:
    """Reads of states, one at a time for each channel; those due in the same tick are joined.

    Args:
        log: The truth.
        bus: Where channels are registered before they are read.
        tasks: Owns the reads; ending it ends them.
        slots: Bounds how many questions to the log run at once.
        take: Makes a state the replica's, `None`: there is no such channel. Never raises.
    """

    def __init__(
        self,
        log: ChangeLog,
        bus: Bus,
        *,
        tasks: asyncio.TaskGroup,
        slots: asyncio.Semaphore,
        take: Take,
    ) -> None:
        self._log = log
        self._bus = bus
        self._tasks = tasks
        self._slots = slots
        self._take = take
        self._due: deque[Followed] = deque()

    async def load(self, channels: Sequence[Followed]) -> list[Followed]:
        """Read channels' states for the first time, or again after their zones were gone.

        Cancel-safe: whoever else waits for the same read gets it.

        Returns:
            Those which do not exist, whatever became of the others since they were read.

        Raises:
            UnavailableError: the database can't be asked.
        """
        unknown = []
        for followed, outcome in zip(channels, self.begin(channels), strict=True):
            # Most are read together: who has waited for one need not for the next.
            found = outcome.result() if outcome.done() else await asyncio.shield(outcome)
            if not found:
                unknown.append(followed)
        return unknown

    def begin(self, channels: Sequence[Followed]) -> list[asyncio.Future[bool]]:
        """Begin to read channels' states, where that isn't under way; return what to wait for."""
        outcomes = []
        for followed in channels:
            if followed.loading is None:
                followed.loading = asyncio.get_running_loop().create_future()
                if not self._due:
                    # It begins in the next step of the loop, with all that is due by then.
                    self._tasks.create_task(self._load_due())
                self._due.append(followed)
            outcomes.append(followed.loading)
        return outcomes

    async def _load_due(self) -> None:
        batch = [self._due.popleft() for _ in range(min(LOAD_MAX_CHANNELS, len(self._due)))]
        if self._due:
            self._tasks.create_task(self._load_due())
        try:
            await self._load(batch)
        except asyncio.CancelledError:
            for followed in batch:
                if followed.loading is not None:
                    followed.loading.cancel()
                    followed.loading = None
            raise
        except Exception as error:  # noqa: BLE001 - a task boundary: it is raised in who waits
            for followed in batch:
                _end(followed, error=error)

    async def _load(self, batch: list[Followed]) -> None:
        # The bus comes first, then the database: what is committed in between is not missed.
        await self._bus.subscribe(*(followed.channel for followed in batch))
        for followed in batch:
            while followed.is_repairing:
                await followed.moved()
        left = {followed.channel: followed for followed in batch}
        while left:
            async with self._slots:
                asked_s = asyncio.get_running_loop().time()
                states = await self._log.read_states(list(left))
            for channel, state in states.items():
                encoded = None if state is None else await EncodedUsers.in_pieces(state)
                followed = left.pop(channel)
                if not followed.is_forgotten:
                    followed.verified_s = asked_s
                    self._take(followed, state, encoded)
                _end(followed, found=state is not None)


def _end(followed: Followed, *, found: bool = False, error: Exception | None = None) -> None:
    """Tell all who wait for a read what came of it."""
    outcome, followed.loading = followed.loading, None
    if outcome is None or outcome.done():
        return
    if error is None:
        outcome.set_result(found)
    else:
        outcome.set_exception(error)
        outcome.exception()  # Whoever waited may be gone, which is no news for the log.
