"""The follower: keeps this node's replicas at the database's heads, by the bus or without it.

The bus is only fast. What it loses, doubles, delays or reorders is noticed by revision and
read from the change log; that the last message was lost, which leaves no gap to see, is
noticed by comparing heads with the database (`channels.head_checks`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping

from channels.changes import Change
from channels.followed import Followed
from channels.loads import Loads
from channels.ports import Bus, BusMessage, ChangeLog, Observer
from channels.positions import Position
from channels.repairs import FollowerConfig, Repairs
from channels.replica import Replica
from channels.subscribers import EndReason


class UnknownChannelError(Exception):
    """There is no such channel: the zone was never made, or is gone."""

    def __init__(self, channel: str) -> None:
        super().__init__(f"no such channel: {channel}")
        self.channel = channel


class Follower:
    """Followed channels and their replicas; the bus's listener.

    Args:
        log: The truth.
        bus: The fast path.
        observer: Told of repairs.
        config: The bounds.
        tasks: Owns loads and repairs; ending it ends them.
        applied: Told of each change right after its replica applied it. Never raises.
        ended: Told, before a replica is read anew or dropped, why its watchers must go.
    """

    def __init__(
        self,
        log: ChangeLog,
        bus: Bus,
        observer: Observer,
        config: FollowerConfig,
        *,
        tasks: asyncio.TaskGroup,
        applied: Callable[[Change], None],
        ended: Callable[[str, EndReason], None],
    ) -> None:
        self._bus = bus
        self._observer = observer
        self._config = config
        self._tell_applied = applied
        self._followed: dict[str, Followed] = {}
        self._replicas: dict[str, Replica] = {}
        self.repairs = Repairs(
            log,
            observer,
            config,
            tasks=tasks,
            applied=self._applied,
            ended=ended,
            taken=self._taken,
        )
        self._loads = Loads(
            log, bus, tasks=tasks, slots=self.repairs.slots, take=self.repairs.take_loaded
        )
        self.verify_wanted = asyncio.Event()

    @property
    def replicas(self) -> Mapping[str, Replica]:
        """The replicas that were read, by channel."""
        return self._replicas

    @property
    def followed_count(self) -> int:
        """How many channels this node follows."""
        return len(self._followed)

    def current(self, channel: str) -> Replica | None:
        """Return the replica of a followed, existing channel."""
        followed = self._followed.get(channel)
        return None if followed is None or followed.is_gone else followed.replica

    # Who keeps a channel followed

    async def acquire(self, channel: str) -> Followed:
        """Follow a channel until `release`; the first to ask makes it read.

        Cancel-safe: a load under way goes on for the others who wait for it.

        Raises:
            UnknownChannelError: there is no such channel.
            UnavailableError: the database can't be asked.
        """
        (followed,) = await self.acquire_all((channel,))
        if not followed.is_there:
            self.release(channel)
            raise UnknownChannelError(channel)
        return followed

    async def acquire_all(self, channels: Collection[str]) -> list[Followed]:
        """Follow channels until each is released, all or none; they are read together.

        One may be gone again when the last is read. Cancel-safe. Raises as `acquire`.
        """
        wanted = [self._hold(channel) for channel in channels]
        try:
            absent = [followed for followed in wanted if not followed.is_there]
            # A read may have asked before the zone was made, which our caller knows of.
            early = {followed for followed in absent if followed.loading is not None}
            unknown = await self._loads.load(absent)
            again = [followed for followed in unknown if followed in early]
            missed = await self._loads.load([each for each in again if not each.is_there])
            lost = [each for each in unknown if each not in early or each in missed]
        except BaseException:
            self._release_all(channels)
            raise
        if lost:
            self._release_all(channels)
            raise UnknownChannelError(lost[0].channel)
        return wanted

    def _release_all(self, channels: Iterable[str]) -> None:
        for channel in channels:
            self.release(channel)

    def prepare(self, channels: Iterable[str]) -> list[str]:
        """Hold those of some channels that are not at hand, and begin to read them together.

        Whoever acquires one of them soon waits less for it. Never awaits.

        Returns:
            Those to be released, whatever becomes of them.
        """
        wanted = [self._hold(channel) for channel in channels if self.at_hand(channel) is None]
        self._loads.begin(wanted)
        return [followed.channel for followed in wanted]

    def _hold(self, channel: str) -> Followed:
        followed = self._followed.get(channel)
        if followed is None:
            limit = self._config.resume_max_changes
            followed = self._followed[channel] = Followed(channel, waiting_max_changes=limit)
        self.hold(followed)
        return followed

    def at_hand(self, channel: str) -> Followed | None:
        """Return a channel whose replica is live, so that `hold` is all that `acquire` does."""
        followed = self._followed.get(channel)
        return followed if followed is not None and followed.is_there else None

    def hold(self, followed: Followed) -> None:
        """Keep a channel followed until `release`."""
        followed.references += 1
        if followed.linger is not None:
            followed.linger.cancel()
            followed.linger = None

    def release(self, channel: str) -> None:
        """Take back one `acquire`; the last one ends the following, after a while."""
        followed = self._followed[channel]
        followed.references -= 1
        if followed.references:
            return
        if followed.replica is None or followed.is_gone:
            self._forget(followed)
        else:
            loop = asyncio.get_running_loop()
            followed.linger = loop.call_later(self._config.linger_s, self._forget, followed)

    def _forget(self, followed: Followed) -> None:
        followed.stop_timers()
        if self._followed.get(followed.channel) is followed and not followed.references:
            followed.is_forgotten = True
            del self._followed[followed.channel]
            self._replicas.pop(followed.channel, None)
            self._bus.unsubscribe(followed.channel)

    def _taken(self, followed: Followed) -> None:
        if followed.replica is not None:
            self._replicas[followed.channel] = followed.replica

    # The bus's listener

    def on_message(self, message: BusMessage) -> None:
        """Apply a change that follows, keep one that is early, ignore one that is old."""
        followed = self._followed.get(message.channel)
        if followed is None:
            return
        change = None
        if message.events is not None and message.events_json is not None:
            change = Change(
                message.channel,
                message.position.epoch,
                message.position.rev,
                message.tx,
                message.time_ms,
                message.events,
                message.events_json,
                message.parts,
                message.trace,
            )
        self._offer(followed, message.position, change)

    def on_gap(self) -> None:
        """Compare all heads at once: anything may have been missed."""
        self.verify_wanted.set()

    def offer(self, change: Change) -> None:
        """Take a change that this node itself committed."""
        followed = self._followed.get(change.channel)
        if followed is not None:
            self._offer(followed, change.position, change)

    def _offer(self, followed: Followed, position: Position, change: Change | None) -> None:
        replica = followed.replica
        if replica is None:
            # The state is being read: what comes meanwhile is applied after it.
            followed.known_rev = max(followed.known_rev, position.rev)
            if change is not None:
                followed.keep(change)
        elif position.epoch != replica.epoch:
            # Only the database can tell which of the two histories is the present one.
            self.verify_wanted.set()
        elif position.rev <= replica.rev:
            self._observer.duplicate(followed.channel)
        else:
            followed.known_rev = max(followed.known_rev, position.rev)
            if change is not None:
                followed.keep(change)
                followed.apply_waiting(self._applied)
            if followed.is_behind and change is None and position.rev == replica.rev + 1:
                self.repairs.begin_soon(followed, "oversize", 0)
            elif followed.is_behind:
                self.repairs.begin_soon(followed, "gap", self._config.gap_wait_s)

    def _applied(self, change: Change) -> None:
        followed = self._followed[change.channel]
        if change.ends_channel:
            followed.is_gone = True
        self._tell_applied(change)
        followed.wake()
        for channel, rev in change.parts:
            # A part whose own message is lost is missed after the same wait as any other.
            other = self._followed.get(channel)
            if other is not None and other.replica is not None and other.replica.rev < rev:
                other.known_rev = max(other.known_rev, rev)
                self.repairs.begin_soon(other, "gap", self._config.gap_wait_s)

    def note_head(
        self, channel: str, seen: Position, head: Position | None, asked_s: float
    ) -> bool:
        """Compare a head with the replica, as `Repairs.note_head`, if it is still followed.

        Returns:
            Whether the replica has come to where the comparison before this one saw the head.
        """
        followed = self._followed.get(channel)
        if followed is None:
            return True
        has_reached = followed.compared is None or followed.has_reached(*followed.compared)
        followed.compared = seen, head
        self.repairs.note_head(followed, seen, head, asked_s)
        return has_reached

    def positions(self) -> list[tuple[str, Position]]:
        """Return where each replica is, for the comparison with the database."""
        return [(channel, replica.position) for channel, replica in self._replicas.items()]

    async def reach(self, followed: Followed, position: Position, timeout_s: float) -> bool:
        """Wait until the replica covers `position`; tell whether it does. Cancel-safe."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while followed.replica is not None and not followed.is_gone:
                    if followed.replica.position.covers(position):
                        return True
                    if followed.replica.epoch != position.epoch:
                        return False
                    await followed.moved()
        return False
