"""The feed: where transports come to watch channels, and HTTP to read them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from channels.changes import Change, ChangePage, ChannelState
from channels.digest import DigestAt
from channels.followed import Followed
from channels.follower import Follower, UnknownChannelError
from channels.head_checks import HeadChecks
from channels.hub import Hub
from channels.minima import Minima
from channels.ports import Bus, ChangeLog, Observer, UnavailableError
from channels.positions import Position
from channels.repairs import FollowerConfig
from channels.replica import Replica, encode_state
from channels.resume import missed_changes
from channels.subscribers import EndReason, Start, Subscriber

ACQUIRE_MAX_TRIES: Final = 3
"""How often channels are acquired anew because one of them went meanwhile."""

NO_MINIMA: Final[Mapping[str, Position]] = MappingProxyType({})

Reply = Callable[[Sequence[Start]], bool]

__all__ = ["Feed", "FeedConfig", "Reply", "Snapshot", "UnknownChannelError"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A channel's state at `position`, encoded as `encode_state` does; the bytes are shared."""

    position: Position
    body: bytes


@dataclass(frozen=True, slots=True)
class FeedConfig:
    """The bounds of the feed; see `Settings` for what each means."""

    following: FollowerConfig = field(default_factory=FollowerConfig)
    head_check_interval_s: float = 0.5
    stale_after_s: float = 2
    atomic_wait_s: float = 2
    slow_drain_timeout_s: float = 30
    min_position_wait_s: float = 2
    catch_up_max_bytes: int = 1_048_576
    resume_max_bytes: int = 16_777_216


def unix_ms() -> int:
    """Return the wall clock, Unix milliseconds."""
    return time.time_ns() // 1_000_000


class Feed:
    """Hub, follower and head checks of one node, behind the few verbs that transports need.

    Args:
        log: The truth.
        bus: The fast path; its listener is `follower`.
        observer: Counts and logs.
        config: The bounds.
        tasks: Owns everything that runs; `run` is started by the caller in the same group.
    """

    def __init__(
        self,
        log: ChangeLog,
        bus: Bus,
        observer: Observer,
        config: FeedConfig,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._log = log
        self._config = config
        loop = asyncio.get_running_loop()
        self.follower = Follower(
            log,
            bus,
            observer,
            config.following,
            tasks=tasks,
            applied=self._applied,
            ended=self._ended,
        )
        self.minima = Minima(self.follower, config.min_position_wait_s)
        self._hub = Hub(
            self.follower.replicas,
            observer,
            call_soon=loop.call_soon,
            unix_ms=unix_ms,
            monotonic_s=loop.time,
            released=self.follower.release,
            catch_up_max_bytes=config.catch_up_max_bytes,
        )
        self._head_checks = HeadChecks(
            log,
            self.follower,
            observer,
            interval_s=config.head_check_interval_s,
            stale_after_s=config.stale_after_s,
            unix_ms=unix_ms,
            monotonic_s=loop.time,
            tell=self._hub.tell_staleness,
        )

    def _applied(self, change: Change) -> None:
        self._hub.enqueue(change)

    def _ended(self, channel: str, reason: EndReason) -> None:
        self._hub.end(channel, reason)

    async def run(self) -> None:
        """Verify heads and enforce the bounds until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._head_checks.run())
                await self._sweep()
        finally:
            self.follower.repairs.stop()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(1, self._config.atomic_wait_s / 2))
            self._hub.sweep(
                atomic_wait_s=self._config.atomic_wait_s,
                slow_drain_timeout_s=self._config.slow_drain_timeout_s,
            )

    # Watching

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
            starts = [self._start(prepared[channel], since) for channel, since in wanted.items()]
            self._hub.settle(wanted)
            if reply(starts):
                for channel in wanted:
                    self._hub.attach(subscriber, channel)
                held.clear()
        finally:
            self._release(held)

    def _release(self, held: list[str]) -> None:
        while held:
            self.follower.release(held.pop())

    async def _acquire_all(
        self,
        wanted: Mapping[str, Position | None],
        minima: Mapping[str, Position],
        held: list[str],
    ) -> dict[str, Followed]:
        """Follow all channels, note in `held` what is to be released, and prepare resumes."""
        asked_s = asyncio.get_running_loop().time()

        async def prepare(channel: str, since: Position | None) -> Followed:
            followed = await self.follower.acquire(channel)
            held.append(channel)
            if channel in minima:
                await self.minima.meet(followed, minima[channel], asked_s)
            if since is not None:
                await self._prepare_resume(followed, since, asked_s)
            return followed

        names = list(wanted)
        if len(names) == 1:
            return {names[0]: await prepare(names[0], wanted[names[0]])}
        results = await asyncio.gather(
            *(prepare(name, wanted[name]) for name in names), return_exceptions=True
        )
        prepared: dict[str, Followed] = {}
        for name, result in zip(names, results, strict=True):
            if isinstance(result, BaseException):
                raise result
            prepared[name] = result
        return prepared

    async def _prepare_resume(self, followed: Followed, since: Position, asked_s: float) -> None:
        """Read what a resume from `since` may need; the decision itself comes later."""
        replica = followed.replica
        if replica is None:
            return
        is_ahead = since.epoch == replica.epoch and since.rev > replica.rev
        is_foreign = since.epoch not in {replica.epoch, followed.past_epoch}
        if is_ahead or (is_foreign and followed.verified_s < asked_s):
            # Perhaps it is this node that lags, not the client that comes from elsewhere.
            await self.minima.catch_up(followed, asked_s)
        limit = self._config.following.resume_max_changes
        if since.epoch == replica.epoch and 0 <= replica.rev - since.rev <= limit:
            with contextlib.suppress(UnavailableError):
                # Without the changes it is the state that is at hand.
                await self.follower.repairs.recall(followed, since.rev)

    def _start(self, followed: Followed, since: Position | None) -> Start:
        replica = followed.replica
        if replica is None or followed.is_gone:
            raise UnknownChannelError(followed.channel)
        limit = self._config.following.resume_max_changes
        changes = missed_changes(replica, since, limit, self._config.resume_max_bytes)
        return Start(replica, replica.position, since is not None, changes)

    def unsubscribe(self, subscriber: Subscriber[Any], channel: str) -> None:
        """End one subscription; unknown ones are ignored. Never awaits."""
        self._hub.detach(subscriber, channel)

    def leave(self, subscriber: Subscriber[Any]) -> None:
        """End all subscriptions of a connection that is gone. Never awaits."""
        self._hub.leave(subscriber)

    def drained(self, subscriber: Subscriber[Any]) -> None:
        """Bring a connection up to date that is no longer congested. Never awaits."""
        self._hub.drained(subscriber)

    def channels_of(self, subscriber: Subscriber[Any]) -> frozenset[str]:
        """Return what a connection watches."""
        return self._hub.channels_of(subscriber)

    # Reading

    def current(self, channel: str) -> Replica | None:
        """Return the replica when this node follows the channel and it is live, else `None`."""
        return self.follower.current(channel)

    async def snapshot(self, channel: str, minimum: Position | None = None) -> Snapshot:
        """Return the state, at `minimum` or later where that exists.

        Waits a bounded time for the bus, then asks the database, which is always late enough.
        Cancel-safe.

        Raises:
            UnknownChannelError: there is no such channel.
            UnavailableError: the database cannot be asked.
        """
        async with self._held_at(channel, minimum) as replica:
            if replica is not None:
                return Snapshot(replica.position, replica.snapshot())
        state = await self.read_state(channel)
        return Snapshot(state.position, encode_state(state))

    async def read_state(self, channel: str) -> ChannelState:
        """Return the database's own state, whatever this node holds. Raises as `snapshot`."""
        state = await self._log.read_state(channel)
        if state is None:
            raise UnknownChannelError(channel)
        return state

    async def digest(self, channel: str, minimum: Position | None = None) -> DigestAt:
        """Return the digest of this node's replica, of the database where it has none.

        At `minimum` or later where that exists. Cancel-safe. Raises as `snapshot`.
        """
        async with self._held_at(channel, minimum) as replica:
            if replica is not None:
                return DigestAt(channel, replica.position, replica.digest(), from_replica=True)
        return DigestAt.of_state(await self.read_state(channel))

    @contextlib.asynccontextmanager
    async def _held_at(
        self, channel: str, minimum: Position | None
    ) -> AsyncIterator[Replica | None]:
        """Hold this node's replica at `minimum` or later; `None`: it has none."""
        if self.follower.current(channel) is None:
            yield None
            return
        asked_s = asyncio.get_running_loop().time()
        async with self.minima.held_at(channel, minimum, asked_s) as followed:
            yield None if followed.is_gone else followed.replica

    async def history(self, channel: str, since_rev: int, limit: int) -> ChangePage:
        """Return retained changes from the database. Raises as `snapshot`."""
        page = await self._log.read_changes(channel, since_rev, limit)
        if page is None:
            raise UnknownChannelError(channel)
        return page

    async def wait_beyond(self, channel: str, position: Position, timeout_s: float) -> bool:
        """Wait until the channel is past `position` or of another epoch; tell whether it is.

        Cancel-safe. Raises as `snapshot`.
        """
        followed = await self.follower.acquire(channel)
        try:
            async with asyncio.timeout(timeout_s):
                while (
                    followed.replica is not None
                    and not followed.is_gone
                    and followed.replica.epoch == position.epoch
                    and followed.replica.rev <= position.rev
                ):
                    await followed.moved()
        except TimeoutError:
            return False
        finally:
            self.follower.release(channel)
        return True

    @property
    def stale_since_ms(self) -> int | None:
        """Since when (Unix ms) the heads could not be verified; `None`: verified."""
        return self._head_checks.stale_since_ms

    @property
    def verified_ms(self) -> int:
        """When (Unix ms) the last comparison began that found all repaired of the one before."""
        return self._head_checks.verified_ms

    @property
    def slow_count(self) -> int:
        """How many connections are behind because they don't read."""
        return self._hub.slow_count

    def watcher_counts(self) -> dict[str, int]:
        """Return how many connections watch each channel that anybody watches here."""
        return self._hub.watcher_counts()
