"""The feed: where transports come to watch channels, and HTTP to read them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from channels.admission import NO_MINIMA, Admission, Reply
from channels.changes import Change, ChangePage, ChannelState
from channels.digest import DigestAt, digest_in_pieces, digest_state
from channels.encoded_users import EncodedUsers
from channels.follower import Follower, UnknownChannelError
from channels.head_checks import HeadChecks
from channels.hub import Hub
from channels.minima import Minima
from channels.names import DIRECTORY
from channels.pace import PaceConfig
from channels.ports import Bus, ChangeLog, Observer
from channels.positions import Position
from channels.repairs import FollowerConfig
from channels.replica import Replica, encode_state
from channels.subscribers import EndReason, Subscriber

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
    pace: PaceConfig = field(default_factory=PaceConfig)


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
            call_later=loop.call_later,
            pace=config.pace,
            unix_ms=unix_ms,
            monotonic_s=loop.time,
            released=self.follower.release,
            catch_up_max_bytes=config.catch_up_max_bytes,
        )
        self._admission = Admission(
            self.follower,
            self._hub,
            self.minima,
            resume_max_changes=config.following.resume_max_changes,
            resume_max_bytes=config.resume_max_bytes,
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
        """Let a subscriber watch channels: see `Admission.subscribe`."""
        await self._admission.subscribe(subscriber, wanted, reply, minima)

    def try_subscribe(
        self, subscriber: Subscriber[Any], wanted: Mapping[str, Position | None], reply: Reply
    ) -> bool:
        """Do the same if nothing has to be awaited: see `Admission.try_subscribe`."""
        return self._admission.try_subscribe(subscriber, wanted, reply)

    def prepare(self, channels: Iterable[str]) -> list[str]:
        """Begin to read those of some channels that are not at hand, which are wanted soon.

        Never awaits or raises. Returns those to be given to `release`, once they were wanted.
        """
        return self.follower.prepare(channels)

    def release(self, channels: Iterable[str]) -> None:
        """Take back what `prepare` returned."""
        for channel in channels:
            self.follower.release(channel)

    def unsubscribe(self, subscriber: Subscriber[Any], channel: str) -> None:
        """End one subscription; unknown ones are ignored. Never awaits."""
        self._hub.detach(subscriber, channel)

    def leave(self, subscriber: Subscriber[Any]) -> None:
        """End all subscriptions of a connection that is gone. Never awaits."""
        self._hub.leave(subscriber)

    def drained(self, subscriber: Subscriber[Any]) -> None:
        """Bring a connection up to date that is no longer congested. Never awaits."""
        self._hub.drained(subscriber)

    def watches(self, subscriber: Subscriber[Any], channel: str) -> bool:
        """Tell whether a connection watches a channel."""
        return self._hub.watches(subscriber, channel)

    def channels_of(self, subscriber: Subscriber[Any]) -> frozenset[str]:
        """Return what a connection watches."""
        return self._hub.channels_of(subscriber)

    def watchers_of(self, channel: str) -> Sequence[Subscriber[Any]]:
        """Return which connections watch a channel here, as it is now."""
        return self._hub.watchers_of(channel)

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
        return await self.read_snapshot(channel)

    async def read_snapshot(self, channel: str) -> Snapshot:
        """Return the database's own state, whatever this node holds. Raises as `snapshot`."""
        state = await self._read_state(channel)
        if channel == DIRECTORY:
            return Snapshot(state.position, encode_state(state))
        encoded = await EncodedUsers.in_pieces(state)
        return Snapshot(state.position, encoded.body(state))

    async def _read_state(self, channel: str) -> ChannelState:
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
        return await self.read_digest(channel)

    async def read_digest(self, channel: str) -> DigestAt:
        """Return the digest of the database's own state. Raises as `snapshot`."""
        state = await self._read_state(channel)
        digest = digest_state(state) if channel == DIRECTORY else await digest_in_pieces(state)
        return DigestAt(channel, state.position, digest, from_replica=False)

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

    def watcher_count(self, channel: str) -> int:
        """Return how many connections watch a channel here."""
        return self._hub.watcher_count(channel)

    def watcher_counts(self) -> dict[str, int]:
        """Return how many connections watch each channel that anybody watches here."""
        return self._hub.watcher_counts()
