"""Admission: how a subscriber comes to its channels, and with what it begins on each."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from channels.followed import Followed
from channels.follower import Follower, UnknownChannelError
from channels.hub import Hub
from channels.minima import Minima
from channels.ports import UnavailableError
from channels.positions import Position
from channels.resume import missed_changes
from channels.subscribers import Start, Subscriber

ACQUIRE_MAX_TRIES: Final = 3
"""How often channels are acquired anew because one of them went meanwhile."""

NO_MINIMA: Final[Mapping[str, Position]] = MappingProxyType({})

Reply = Callable[[Sequence[Start]], bool]


class Admission:
    """Follows channels for subscribers, decides how each begins, and attaches them.

    Args:
        follower: Who holds the replicas.
        hub: Where subscribers are attached.
        minima: Brings replicas to where clients know that the database has been.
        resume_max_changes: Farther behind, a client gets the state.
        resume_max_bytes: Likewise, for the events of what it missed.
    """

    def __init__(
        self,
        follower: Follower,
        hub: Hub,
        minima: Minima,
        *,
        resume_max_changes: int,
        resume_max_bytes: int,
    ) -> None:
        self._follower = follower
        self._hub = hub
        self._minima = minima
        self._resume_max_changes = resume_max_changes
        self._resume_max_bytes = resume_max_bytes

    async def subscribe(
        self,
        subscriber: Subscriber[Any],
        wanted: Mapping[str, Position | None],
        reply: Reply,
        minima: Mapping[str, Position] = NO_MINIMA,
    ) -> None:
        """Follow channels, decide how each begins, tell the client, and attach it: one step.

        `reply` is called once, synchronously, with a `Start` for each channel in the order
        of `wanted`, right before the connection is attached; what it writes precedes every
        change. When it returns `False` nothing is attached (the client refused a snapshot).
        `wanted` maps channels to the client's position, `None` for a new subscription; a
        channel in `minima` is first brought there, as `Minima.meet` does. Channels that the
        subscriber already has are refused by the caller before. Cancel-safe.

        Raises (nothing is attached then):
            UnknownChannelError: one of the channels does not exist.
            UnavailableError: the database cannot be asked, and no replica is at hand or the
                client has seen what it doesn't have.
        """
        held: list[str] = []
        try:
            for _ in range(ACQUIRE_MAX_TRIES):
                prepared = await self._acquire_all(wanted, minima, held)
                if not any(followed.is_gone for followed in prepared.values()):
                    break
                # One went while others were read. It may have been made again since.
                self._release(held)
            if self._begin(subscriber, wanted, prepared, reply):
                held.clear()
        finally:
            self._release(held)

    def try_subscribe(
        self, subscriber: Subscriber[Any], wanted: Mapping[str, Position | None], reply: Reply
    ) -> bool:
        """Do what `subscribe` does if nothing has to be awaited for it. Never awaits or raises.

        That is so when all channels are followed and no position needs a question to the
        database, which is the rule in a crowd.

        Returns:
            Whether `reply` was called, and the subscriber attached unless it refused; `False`:
            nothing was done, and `subscribe` is to be asked.
        """
        prepared: dict[str, Followed] = {}
        for channel, since in wanted.items():
            followed = self._follower.at_hand(channel)
            if followed is None or not self._is_prepared(followed, since):
                return False
            prepared[channel] = followed
        for channel in wanted:
            self._follower.hold(prepared[channel])
        held = list(wanted)
        try:
            if self._begin(subscriber, wanted, prepared, reply):
                held.clear()
        finally:
            self._release(held)
        return True

    def _begin(
        self,
        subscriber: Subscriber[Any],
        wanted: Mapping[str, Position | None],
        prepared: Mapping[str, Followed],
        reply: Reply,
    ) -> bool:
        starts = [self._start(prepared[channel], since) for channel, since in wanted.items()]
        if not reply(starts):
            return False
        for channel, start in zip(wanted, starts, strict=True):
            self._hub.attach(subscriber, channel, start.position.rev)
        return True

    def _release(self, held: list[str]) -> None:
        while held:
            self._follower.release(held.pop())

    async def _acquire_all(
        self,
        wanted: Mapping[str, Position | None],
        minima: Mapping[str, Position],
        held: list[str],
    ) -> dict[str, Followed]:
        """Follow all channels, note in `held` what is to be released, and prepare resumes."""
        asked_s = asyncio.get_running_loop().time()
        acquired = await self._follower.acquire_all(wanted)
        held += wanted
        prepared = dict(zip(wanted, acquired, strict=True))

        async def prepare(channel: str, since: Position | None) -> None:
            followed = prepared[channel]
            if channel in minima:
                await self._minima.meet(followed, minima[channel], asked_s)
            if since is not None:
                await self._prepare_resume(followed, since, asked_s)

        waits = [
            prepare(channel, since)
            for channel, since in wanted.items()
            if channel in minima or not self._is_prepared(prepared[channel], since)
        ]
        if len(waits) == 1:
            await waits[0]
        elif waits:
            results = await asyncio.gather(*waits, return_exceptions=True)
            for failure in filter(None, results):
                raise failure
        return prepared

    def _is_prepared(self, followed: Followed, since: Position | None) -> bool:
        """Tell whether `_prepare_resume` would have nothing to do."""
        replica = followed.replica
        if replica is None:
            return False
        if since is None:
            return True
        if since.epoch != replica.epoch:
            return since.epoch == followed.past_epoch
        is_far = replica.rev - since.rev > self._resume_max_changes
        return since.rev <= replica.rev and (is_far or since.rev >= replica.oldest_resumable_rev)

    async def _prepare_resume(self, followed: Followed, since: Position, asked_s: float) -> None:
        """Read what a resume from `since` may need; the decision itself comes later."""
        replica = followed.replica
        if replica is None:
            return
        is_ahead = since.epoch == replica.epoch and since.rev > replica.rev
        is_foreign = since.epoch not in {replica.epoch, followed.past_epoch}
        if is_ahead or (is_foreign and followed.verified_s < asked_s):
            # Perhaps it is this node that lags, not the client that comes from elsewhere.
            await self._minima.catch_up(followed, asked_s)
        if since.epoch == replica.epoch and 0 <= replica.rev - since.rev <= (
            self._resume_max_changes
        ):
            with contextlib.suppress(UnavailableError):
                # Without the changes it is the state that is at hand.
                await self._follower.repairs.recall(followed, since.rev)

    def _start(self, followed: Followed, since: Position | None) -> Start:
        replica = followed.replica
        if replica is None or followed.is_gone:
            raise UnknownChannelError(followed.channel)
        changes = missed_changes(replica, since, self._resume_max_changes, self._resume_max_bytes)
        return Start(replica, replica.position, since is not None, changes)
