"""Minima: positions that a reader has heard of, and below which nothing is to be told to it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from channels.followed import Followed
from channels.follower import Follower
from channels.ports import UnavailableError
from channels.positions import Position

Outcome = UnavailableError | bool
"""Of a question to the database: why it failed, or whether it was carried through."""


class Minima:
    """Brings replicas to where readers know that the database has been.

    Args:
        follower: Whose replicas.
        wait_s: How long the bus has before the database is asked.
    """

    def __init__(self, follower: Follower, wait_s: float) -> None:
        self._follower = follower
        self._wait_s = wait_s
        self._asking: dict[Followed, tuple[float, asyncio.Future[Outcome]]] = {}

    def covers(self, channel: str, minimum: Position) -> bool:
        """Tell whether this node follows a channel and has it at `minimum` or later."""
        replica = self._follower.current(channel)
        return replica is not None and replica.position.covers(minimum)

    @contextlib.asynccontextmanager
    async def held_at(
        self, channel: str, minimum: Position | None, asked_s: float
    ) -> AsyncIterator[Followed]:
        """Follow a channel for the time of a block, which begins when `meet` is done.

        Cancel-safe.

        Raises:
            UnknownChannelError: there is no such channel.
            UnavailableError: the database can't be asked.
        """
        followed = await self._follower.acquire(channel)
        try:
            if minimum is not None:
                await self.meet(followed, minimum, asked_s)
            yield followed
        finally:
            self._follower.release(channel)

    async def meet(self, followed: Followed, minimum: Position, asked_s: float) -> None:
        """Bring a replica to `minimum`, or to where the database is now when that is not there.

        Waits for the bus first, within its time since `asked_s` (monotonic): who has waited
        for others before doesn't begin anew. Cancel-safe.

        Raises:
            UnavailableError: the bus didn't bring it, and the database can't be asked.
        """
        now_s = asyncio.get_running_loop().time()
        wait_s = max(0, asked_s + self._wait_s - now_s)
        if not await self._follower.reach(followed, minimum, wait_s):
            await self.catch_up(followed, asked_s)

    async def catch_up(self, followed: Followed, asked_s: float) -> None:
        """Bring a replica to a head that was read after `asked_s`; one question serves many.

        Cancel-safe.

        Raises:
            UnavailableError: the database can't be asked.
        """
        while (asking := self._asking.get(followed)) is not None:
            began_s, outcome = asking
            found = await asyncio.shield(outcome)
            if began_s < asked_s or found is False:
                continue  # It may not know of what we know, or whoever asked was cancelled.
            if isinstance(found, UnavailableError):
                raise UnavailableError(found.what, found.reason)
            return
        loop = asyncio.get_running_loop()
        outcome = loop.create_future()
        self._asking[followed] = loop.time(), outcome
        found = False
        try:
            await self._follower.repairs.catch_up(followed)
            found = True
        except UnavailableError as error:
            found = error
            raise
        finally:
            del self._asking[followed]
            outcome.set_result(found)
