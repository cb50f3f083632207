"""The hub: who watches what, and the fan-out of applied changes to them.

What one tick of the loop brings is joined. A frame is built once for each codec and each
distinct combination of changes, and the same object goes to everybody who is to get it. A
transaction over several channels reaches who watches several of them in one frame: the parts
are awaited for those connections alone. There is no task, queue or `await` per subscriber.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from channels.changes import Change
from channels.ports import Observer
from channels.positions import Position
from channels.replica import Replica
from channels.subscribers import Codec, EndReason, Subscriber
from channels.transactions import split_ready

Watcher = Subscriber[Any]
NEVER_HELD: Final[Mapping[Change, float]] = MappingProxyType({})


class Hub:
    """Subscribers by channel, and the way of a change to them. Nothing here awaits.

    Args:
        replicas: The node's replicas by channel, moved by the follower before `enqueue`.
        observer: Told of each flush.
        call_soon: Runs a function at the end of the present tick of the loop.
        unix_ms: The wall clock, for the delay that is measured.
        monotonic_s: The clock of the bounds.
        released: Told of each channel that a subscriber stops watching, whatever the reason.
        catch_up_max_bytes: Events that bring a subscriber up to date; more, and it is the state.
    """

    def __init__(
        self,
        replicas: Mapping[str, Replica],
        observer: Observer,
        *,
        call_soon: Callable[[Callable[[], None]], object],
        unix_ms: Callable[[], int],
        monotonic_s: Callable[[], float],
        released: Callable[[str], None],
        catch_up_max_bytes: int = 1_048_576,
    ) -> None:
        self._replicas = replicas
        self._observer = observer
        self._call_soon = call_soon
        self._unix_ms = unix_ms
        self._monotonic_s = monotonic_s
        self._released = released
        self._catch_up_max_bytes = catch_up_max_bytes
        self._watchers: dict[str, dict[Watcher, None]] = {}
        self._channels: dict[Watcher, set[str]] = {}
        self._pending: list[Change] = []
        self._flush_is_due = False
        self._held: dict[Watcher, dict[Change, float]] = {}
        self._slow: dict[Watcher, dict[str, Position]] = {}
        self._slow_since_s: dict[Watcher, float] = {}
        self._is_stale = False
        self._told_stale: dict[Watcher, None] = {}

    def __repr__(self) -> str:
        return (
            f"<Hub {len(self._channels)} subscribers on {len(self._watchers)} channels, "
            f"{len(self._held)} held, {len(self._slow)} slow>"
        )

    # Who watches

    def watches(self, subscriber: Watcher, channel: str) -> bool:
        """Tell whether a subscriber watches a channel."""
        return channel in self._channels.get(subscriber, ())

    def channels_of(self, subscriber: Watcher) -> frozenset[str]:
        """Return what a subscriber watches."""
        return frozenset(self._channels.get(subscriber, ()))

    @property
    def slow_count(self) -> int:
        """How many subscribers are behind because they don't read."""
        return len(self._slow)

    def watcher_counts(self) -> dict[str, int]:
        """Return how many subscribers each watched channel has."""
        return {channel: len(watchers) for channel, watchers in self._watchers.items()}

    def settle(self, channels: Iterable[str]) -> None:
        """Send what is pending on these channels, so that who attaches next doesn't get it."""
        touched = set(channels)
        if any(change.channel in touched for change in self._pending):
            self.flush()

    def attach(self, subscriber: Watcher, channel: str) -> None:
        """Let a subscriber have every change after the replica's present position.

        The caller has called `settle`, and told the client that position, in the same step.
        """
        self._watchers.setdefault(channel, {})[subscriber] = None
        self._channels.setdefault(subscriber, set()).add(channel)
        if subscriber in self._slow:
            self._slow[subscriber][channel] = self._replicas[channel].position
        if self._is_stale:
            self._told_stale[subscriber] = None

    def detach(self, subscriber: Watcher, channel: str) -> bool:
        """End a subscription; tell whether there was one."""
        channels = self._channels.get(subscriber)
        if channels is None or channel not in channels:
            return False
        channels.discard(channel)
        watchers = self._watchers[channel]
        del watchers[subscriber]
        if not watchers:
            del self._watchers[channel]
        self._slow.get(subscriber, {}).pop(channel, None)
        if subscriber in self._held:
            held = self._held[subscriber]
            self._held[subscriber] = {c: held[c] for c in held if c.channel != channel}
            self._flush_soon()
        if not channels:
            self._forget(subscriber)
        self._released(channel)
        return True

    def _forget(self, subscriber: Watcher) -> None:
        for table in (self._channels, self._held, self._slow, self._slow_since_s):
            table.pop(subscriber, None)

    def leave(self, subscriber: Watcher) -> None:
        """End all subscriptions of a connection that is gone."""
        for channel in self.channels_of(subscriber):
            self.detach(subscriber, channel)
        self._told_stale.pop(subscriber, None)

    def end(self, channel: str, reason: EndReason) -> None:
        """End a channel for all its watchers, who first get what is pending."""
        self.settle([channel])
        for subscriber in list(self._watchers.get(channel, ())):
            if self.detach(subscriber, channel):
                subscriber.end_channel(channel, reason)

    def tell_staleness(self, since_ms: int | None) -> None:
        """Tell everybody since when the picture is not verified; `None`: it is live.

        Who attaches meanwhile is told by its transport. Who was told and watches nothing just
        now is told, too, that it is live again.
        """
        told = {**dict.fromkeys(self._channels), **self._told_stale}
        self._is_stale = since_ms is not None
        self._told_stale = dict.fromkeys(told) if self._is_stale else {}
        for subscriber in told:
            subscriber.tell_staleness(since_ms)

    # Fan-out

    def enqueue(self, change: Change) -> None:
        """Fan out a change that its replica has just applied, at the end of this tick."""
        if change.channel in self._watchers:
            self._pending.append(change)
            self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._flush_is_due:
            self._flush_is_due = True
            self._call_soon(self._flush_if_due)

    def _flush_if_due(self) -> None:
        if self._flush_is_due:
            self.flush()

    def flush(self) -> None:
        """Write all that is pending or was held and now is complete."""
        self._flush_is_due = False
        changes, self._pending = self._pending, []
        held = list(self._held)
        deliveries = 0
        frames: Frames = {}
        if changes:
            for subscribers, ready, waiting in self._combinations(changes):
                deliveries += self._deliver(subscribers, ready, waiting, frames)
        for subscriber in held:
            deliveries += self._release_held(subscriber, changes, frames)
        if deliveries:
            oldest_ms = min((change.time_ms for change in changes), default=self._unix_ms())
            delay_s = max(0, self._unix_ms() - oldest_ms) / 1000
            self._observer.fanned_out(len(changes), deliveries, delay_s)

    def _combinations(
        self, changes: Sequence[Change]
    ) -> Iterable[tuple[list[Watcher], list[Change], list[Change]]]:
        """Group the watchers of `changes` by which of the concerned channels they share."""
        concerned = {change.channel: None for change in changes}
        for change in changes:
            concerned.update((name, None) for name, _ in change.parts if name in self._watchers)
        if len(concerned) == 1:
            everybody = self._watchers.get(changes[0].channel, {})
            yield [s for s in everybody if s not in self._held], list(changes), []
            return
        masks: dict[Watcher, int] = {}
        for bit, name in enumerate(concerned):
            for subscriber in self._watchers.get(name, ()):
                masks[subscriber] = masks.get(subscriber, 0) | 1 << bit
        groups: dict[int, list[Watcher]] = {}
        for subscriber, mask in masks.items():
            if subscriber not in self._held:
                groups.setdefault(mask, []).append(subscriber)
        for mask, subscribers in groups.items():
            shared = {name for bit, name in enumerate(concerned) if mask >> bit & 1}
            queue = [change for change in changes if change.channel in shared]
            if queue:
                ready, waiting = split_ready(queue, shared, self._replicas)
                yield subscribers, ready, waiting

    def _deliver(
        self,
        subscribers: Iterable[Watcher],
        ready: Sequence[Change],
        waiting: Sequence[Change],
        frames: Frames,
        held_since_s: Mapping[Change, float] = NEVER_HELD,
    ) -> int:
        """Write `ready` to each, or note where it stays behind; hold `waiting` for it."""
        now_s = self._monotonic_s()
        key = tuple(map(id, ready))
        endings = [change.channel for change in ready if change.ends_channel]
        delivered = 0
        for subscriber in subscribers:
            if subscriber in self._slow:
                continue
            if subscriber.congested:
                self._fall_behind(subscriber, [*ready, *waiting])
                continue
            if waiting:
                self._held[subscriber] = {c: held_since_s.get(c, now_s) for c in waiting}
            if ready:
                codec = subscriber.codec
                frame = frames.get((codec, key))
                if frame is None:
                    frame = frames[codec, key] = codec.encode(ready)
                subscriber.deliver(frame)
                delivered += 1
            for channel in endings:
                if self.detach(subscriber, channel):
                    subscriber.end_channel(channel, EndReason.GONE)
        return delivered

    def _release_held(self, subscriber: Watcher, changes: Sequence[Change], frames: Frames) -> int:
        """Try again for a connection that waits for the rest of a transaction."""
        if subscriber not in self._held:
            return 0
        channels = self._channels[subscriber]
        held = self._held.pop(subscriber)
        queue = [*held, *(change for change in changes if change.channel in channels)]
        ready, waiting = split_ready(queue, channels, self._replicas)
        return self._deliver([subscriber], ready, waiting, frames, held)

    # Who is slow

    def _fall_behind(self, subscriber: Watcher, undelivered: Sequence[Change]) -> None:
        positions = {
            channel: self._replicas[channel].position for channel in self._channels[subscriber]
        }
        for change in reversed(undelivered):
            positions[change.channel] = Position(change.epoch, change.rev - 1)
        self._slow[subscriber] = positions
        self._slow_since_s[subscriber] = self._monotonic_s()

    def drained(self, subscriber: Watcher) -> None:
        """Bring up to date who reads again: ordinary changes in one frame, or a new state."""
        if subscriber not in self._slow or subscriber.congested:
            return
        self.flush()
        positions = self._slow.pop(subscriber)
        del self._slow_since_s[subscriber]
        queue: list[Change] = []
        # This frame is nobody else's: many who read again at once must not fill the memory.
        room_bytes = self._catch_up_max_bytes
        for channel, position in positions.items():
            replica = self._replicas[channel]
            same = replica.epoch == position.epoch
            missed = replica.changes_after(position.rev) if same else None
            size_bytes = sum(len(change.events_json) for change in missed or ())
            if missed is None or size_bytes > room_bytes:
                self.detach(subscriber, channel)
                subscriber.end_channel(channel, EndReason.ANEW)
            else:
                room_bytes -= size_bytes
                queue += missed
        if queue:
            watched = self.channels_of(subscriber)
            ready, waiting = split_ready(queue, watched, self._replicas)
            self._deliver([subscriber], ready, waiting, {})

    def sweep(self, *, atomic_wait_s: float, slow_drain_timeout_s: float) -> None:
        """Enforce the bounds: on waiting for the rest of a transaction, and on not reading."""
        now_s = self._monotonic_s()
        for subscriber, held in list(self._held.items()):
            # In the order in which they came: the first waits longest.
            if now_s - next(iter(held.values()), now_s) > atomic_wait_s:
                self._give_up_waiting(subscriber)
        for subscriber, since_s in list(self._slow_since_s.items()):
            if now_s - since_s > slow_drain_timeout_s:
                self.leave(subscriber)
                subscriber.cut()

    def _give_up_waiting(self, subscriber: Watcher) -> None:
        """Let the client resume the channels of an incomplete transaction one by one."""
        held = self._held.pop(subscriber)
        concerned = dict.fromkeys(change.channel for change in held)
        for change in held:
            concerned.update((name, None) for name, _ in change.parts)
        for channel in concerned:
            if self.detach(subscriber, channel):
                subscriber.end_channel(channel, EndReason.RESUME)


Frames = dict[tuple[Codec[Any], tuple[int, ...]], Any]
