"""Flights: one load that several readers wait for."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from cache.users_dict import CachedBytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a flight brought.

    Attributes:
        copy: The dict.
        generation: The invalidations known when reading it began.
        load: The number of the load that read it; 0 when it comes from Redis.
    """

    copy: CachedBytes
    generation: int
    load: int

    def serves(self, generation: int, first_load: int) -> bool:
        """Tell whether it is fresh enough for who knew of `generation` when it asked."""
        return self.generation >= generation and self.load >= first_load


class Flight:
    """A load under way. Its first reader flies it; when that one is cancelled, it is abandoned."""

    def __init__(self) -> None:
        self._outcome: asyncio.Future[Outcome | None] = asyncio.get_running_loop().create_future()

    async def join(self) -> Outcome | None:
        """Wait for the outcome; `None` when the flight was abandoned. Cancel-safe.

        Raises:
            Exception: what the load raised; asking at once again would only add to it.
        """
        return await asyncio.shield(self._outcome)

    def land(self, outcome: Outcome) -> None:
        """Hand the outcome to all who joined."""
        self._outcome.set_result(outcome)

    def fail(self, error: Exception) -> None:
        """Raise the load's error in all who joined."""
        self._outcome.set_exception(error)
        # Nobody may have joined; that is no reason for asyncio to complain.
        self._outcome.exception()

    def abandon(self) -> None:
        """Let one of those who joined fly anew; nothing happens after an outcome."""
        if not self._outcome.done():
            self._outcome.set_result(None)
