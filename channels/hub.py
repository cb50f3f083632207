"""The hub: who watches what, and the fan-out of applied changes to them.

What was applied since the last pass is joined and goes out in the next one. A frame is built
once for each codec and each distinct combination of changes, and the same object goes to
everybody who is to get it. A transaction over several channels reaches who watches several of
them in one frame: the parts are awaited for those connections alone. There is no task, queue or
`await` per subscriber here.

A pass over a large crowd is made in pieces, between which anything may happen. So a subscriber
is either *in step*, which means that it has all but what the present pass has yet for it and what
is pending, or it has cursors, which say for each of its channels what it has. Who falls behind,
waits for a part of a transaction, or comes, leaves or is ended in between has cursors, and is
brought up to date by them from what the replicas remember.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from channels.changes import Change
from channels.crowds import Crowd, Watcher, crowds_of
from channels.pace import Pace, PaceConfig
from channels.ports import Observer
from channels.replica import Replica
from channels.subscribers import Codec, EndReason
from channels.transactions import split_ready

Cursors = dict[str, int]
Frames = dict[tuple[Codec[Any], tuple[int, ...]], tuple[Any, Sequence[Change]]]
"""Frames by what is in them; the changes are kept, as their identity is the key."""

NOTHING: Final[Mapping[str, int]] = MappingProxyType({})
UNPACED: Final = PaceConfig(window_s=0)
CLOCK_EVERY_WRITES: Final = 64


def _no_timer(_delay_s: float, _act: Callable[[], None]) -> asyncio.TimerHandle:
    raise RuntimeError("without a window nothing is ever late")


class Hub:
    """Subscribers by channel, and the way of a change to them. Nothing here awaits.

    Args:
        replicas: The node's replicas by channel, moved by the follower before `enqueue`.
        observer: Told of each pass.
        call_soon: Runs a function at the end of the present tick of the loop.
        unix_ms: The wall clock, for the delay that is measured.
        monotonic_s: The clock of the bounds.
        released: Told of each channel that a subscriber stops watching, whatever the reason.
        catch_up_max_bytes: Events that bring a subscriber up to date; more, and it is the state.
        call_later: Runs a function after a time; needed only with a window.
        pace: When passes begin, and how long their pieces are.
    """

    def __init__(  # noqa: PLR0913 - clocks and calls are the loop's, one by one, for tests
        self,
        replicas: Mapping[str, Replica],
        observer: Observer,
        *,
        call_soon: Callable[[Callable[[], None]], object],
        unix_ms: Callable[[], int],
        monotonic_s: Callable[[], float],
        released: Callable[[str], None],
        catch_up_max_bytes: int = 1_048_576,
        call_later: Callable[[float, Callable[[], None]], asyncio.TimerHandle] = _no_timer,
        pace: PaceConfig = UNPACED,
    ) -> None:
        self._replicas = replicas
        self._observer = observer
        self._call_soon = call_soon
        self._unix_ms = unix_ms
        self._monotonic_s = monotonic_s
        self._released = released
        self._catch_up_max_bytes = catch_up_max_bytes
        self._piece_max_writes = pace.piece_max_writes
        self._piece_max_s = pace.piece_max_s
        self._pace = Pace(
            self._begin_pass,
            pace,
            call_soon=call_soon,
            call_later=call_later,
            monotonic_s=monotonic_s,
        )
        self._watchers: dict[str, dict[Watcher, None]] = {}
        self._channels: dict[Watcher, set[str]] = {}
        # What is not in any pass yet, and its first revision on each channel.
        self._pending: list[Change] = []
        self._pending_first: dict[str, int] = {}
        # The present pass: its changes, and who is still to be served, by cursors: `None`.
        self._is_passing = False
        self._passing: Sequence[Change] = ()
        self._passing_first: dict[str, int] = {}
        self._todo: dict[Watcher, Crowd | None] = {}
        self._frames: Frames = {}
        self._writes = 0
        self._pass_began_s = 0.0
        # Who is not in step. A pass is due for those among them that need no news for it.
        self._cursors: dict[Watcher, Cursors] = {}
        self._is_due = False
        self._held: dict[Watcher, dict[Change, float]] = {}
        self._slow_since_s: dict[Watcher, float] = {}
        self._is_stale = False
        self._told_stale: dict[Watcher, None] = {}

    def __repr__(self) -> str:
        return (
            f"<Hub {len(self._channels)} subscribers on {len(self._watchers)} channels, "
            f"{len(self._held)} held, {len(self._slow_since_s)} slow>"
        )

    # Who watches

    def watches(self, subscriber: Watcher, channel: str) -> bool:
        """Tell whether a subscriber watches a channel."""
        return channel in self._channels.get(subscriber, ())

    def channels_of(self, subscriber: Watcher) -> frozenset[str]:
        """Return what a subscriber watches."""
        return frozenset(self._channels.get(subscriber, ()))

    def watchers_of(self, channel: str) -> Sequence[Watcher]:
        """Return who watches a channel, as it is now."""
        return list(self._watchers.get(channel, ()))

    @property
    def slow_count(self) -> int:
        """How many subscribers are behind because they don't read."""
        return len(self._slow_since_s)

    def watcher_count(self, channel: str) -> int:
        """Return how many subscribers a channel has."""
        return len(self._watchers.get(channel, ()))

    def watcher_counts(self) -> dict[str, int]:
        """Return how many subscribers each watched channel has."""
        return {channel: len(watchers) for channel, watchers in self._watchers.items()}

    def attach(self, subscriber: Watcher, channel: str, rev: int | None = None) -> None:
        """Let a subscriber have every change after `rev`, by default the replica's present one.

        The caller has told the client that position in the same step. The cost doesn't depend
        on what is pending, nor on who else watches.
        """
        now_rev = self._replicas[channel].rev
        rev = now_rev if rev is None else rev
        is_in_step = (
            rev == now_rev
            and channel not in self._pending_first
            and subscriber not in self._cursors
            and subscriber not in self._todo
        )
        if not is_in_step:
            self._part(subscriber)[channel] = rev
        self._watchers.setdefault(channel, {})[subscriber] = None
        self._channels.setdefault(subscriber, set()).add(channel)
        self._pace.came()
        if self._is_stale:
            self._told_stale[subscriber] = None

    def detach(self, subscriber: Watcher, channel: str) -> bool:
        """End a subscription; tell whether there was one."""
        channels = self._channels.get(subscriber)
        if channels is None or channel not in channels:
            return False
        if subscriber in self._todo or subscriber in self._cursors:
            # What it has yet to get in this pass would hold changes of this channel.
            self._part(subscriber).pop(channel, None)
        if subscriber in self._held:
            held = self._held[subscriber]
            self._held[subscriber] = {c: held[c] for c in held if c.channel != channel}
        channels.discard(channel)
        watchers = self._watchers[channel]
        del watchers[subscriber]
        if not watchers:
            del self._watchers[channel]
        if not channels:
            self._forget(subscriber)
        self._released(channel)
        return True

    def _forget(self, subscriber: Watcher) -> None:
        self._todo.pop(subscriber, None)
        self._channels.pop(subscriber, None)
        self._cursors.pop(subscriber, None)
        self._held.pop(subscriber, None)
        self._slow_since_s.pop(subscriber, None)

    def leave(self, subscriber: Watcher) -> None:
        """End all subscriptions of a connection that is gone."""
        channels = self.channels_of(subscriber)
        self._todo.pop(subscriber, None)
        for table in (self._cursors, self._held, self._slow_since_s):
            table.pop(subscriber, None)
        for channel in channels:
            self.detach(subscriber, channel)
        self._told_stale.pop(subscriber, None)

    def end(self, channel: str, reason: EndReason) -> None:
        """End a channel for all its watchers, who first get what was applied."""
        for subscriber in list(self._watchers.get(channel, ())):
            is_slow = subscriber in self._slow_since_s or subscriber.congested
            if not is_slow and self._is_owed(subscriber, channel):
                self._part(subscriber)
                self._catch_up(subscriber, self._frames, NOTHING)
            if self.detach(subscriber, channel):
                subscriber.end_channel(channel, reason)

    def _is_owed(self, subscriber: Watcher, channel: str) -> bool:
        cursors = self._cursors.get(subscriber)
        if cursors is not None:
            return cursors[channel] < self._replicas[channel].rev
        in_pass = subscriber in self._todo and channel in self._passing_first
        return in_pass or channel in self._pending_first

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

    # Passes

    def enqueue(self, change: Change) -> None:
        """Fan out a change that its replica has just applied, with the next pass."""
        if change.channel in self._watchers:
            self._pending.append(change)
            self._pending_first.setdefault(change.channel, change.rev)
            self._call_pass()

    def _call_pass(self) -> None:
        if not self._is_passing:
            self._pace.call(len(self._pending))

    def flush(self) -> None:
        """Write all that is pending at once, whatever the pace."""
        while self._is_passing or self._pending or self._is_due:
            self._begin_pass()
            while self._todo:
                self._serve_next(CLOCK_EVERY_WRITES)
            if self._is_passing:
                self._end_pass()

    def _begin_pass(self) -> None:
        if self._is_passing or not (self._pending or self._is_due):
            return
        self._is_passing = True
        self._is_due = False
        self._pass_began_s = self._monotonic_s()
        self._pace.begun()
        self._passing, self._pending = self._pending, []
        self._passing_first, self._pending_first = self._pending_first, {}
        self._todo = (
            crowds_of(self._passing, self._watchers, self._replicas) if self._passing else {}
        )
        for subscriber in self._cursors:
            if subscriber in self._slow_since_s:
                self._todo.pop(subscriber, None)
            else:
                self._todo[subscriber] = None
        self._go_on()

    def _go_on(self) -> None:
        """Serve a piece of the crowd, and let others have the loop before the next one."""
        if not self._is_passing:
            return  # It was flushed meanwhile.
        ends_s = self._monotonic_s() + self._piece_max_s
        left = self._piece_max_writes
        while self._todo and left > 0:
            self._serve_next(min(left, CLOCK_EVERY_WRITES))
            left -= CLOCK_EVERY_WRITES
            if self._monotonic_s() > ends_s:
                break
        if self._todo:
            self._call_soon(self._go_on)
        else:
            self._end_pass()

    def _end_pass(self) -> None:
        changes, writes = self._passing, self._writes
        self._is_passing = False
        self._passing, self._writes = (), 0
        self._passing_first = {}
        self._frames = {}
        self._pace.ended(writes)
        if writes:
            oldest_ms = min((change.time_ms for change in changes), default=self._unix_ms())
            delay_s = max(0, self._unix_ms() - oldest_ms) / 1000
            pass_s = self._monotonic_s() - self._pass_began_s
            self._observer.fanned_out(changes, writes, delay_s, pass_s)
        if self._pending or self._is_due:
            self._call_pass()

    def _serve_next(self, most: int) -> None:
        """Serve up to `most`. This is where a fan-out spends its time: all but one look at each
        subscriber, and one call, is done for whole runs that get the same frame.
        """
        todo = self._todo
        last: Crowd | None = None
        codec: Codec[Any] | None = None
        frame: Any = None
        writes = 0
        for _ in range(min(most, len(todo))):
            if not todo:
                break  # Serving one may have ended others.
            subscriber, crowd = todo.popitem()
            if crowd is None or not crowd.is_plain or subscriber.congested:
                self._serve(subscriber, crowd)
                continue
            if crowd is not last or subscriber.codec is not codec:
                last, codec = crowd, subscriber.codec
                frame = crowd.frame(codec)
            writes += 1
            subscriber.deliver(frame)
        self._writes += writes

    def _serve(self, subscriber: Watcher, crowd: Crowd | None) -> None:
        """Serve who isn't in step, doesn't read, or has more to be done than a write."""
        if crowd is None:
            self._catch_up(subscriber, self._frames, self._pending_first)
        elif subscriber.congested:
            self._fall_behind(subscriber)
        else:
            if crowd.waiting:
                self._hold(subscriber, crowd.waiting)
            if crowd.ready:
                self._writes += 1
                subscriber.deliver(crowd.frame(subscriber.codec))
                self._end_all(subscriber, crowd.endings)

    def _end_all(self, subscriber: Watcher, endings: Sequence[str]) -> None:
        for channel in endings:
            if self.detach(subscriber, channel):
                subscriber.end_channel(channel, EndReason.GONE)

    # Who is not in step

    def _cursors_before(self, subscriber: Watcher, first: Mapping[str, int]) -> Cursors:
        """Say what somebody in step has, who lacks what begins with `first` and is pending."""
        pending, replicas = self._pending_first, self._replicas
        return {
            name: (first.get(name) or pending.get(name) or replicas[name].rev + 1) - 1
            for name in self._channels.get(subscriber, ())
        }

    def _part(self, subscriber: Watcher) -> Cursors:
        """Take somebody out of step, to be caught up with the next pass."""
        cursors = self._cursors.get(subscriber)
        if cursors is None:
            in_pass = self._todo.pop(subscriber, None) is not None
            first = self._passing_first if in_pass else NOTHING
            cursors = self._cursors[subscriber] = self._cursors_before(subscriber, first)
        if subscriber not in self._slow_since_s:
            self._is_due = True
            self._call_pass()
        return cursors

    def _fall_behind(self, subscriber: Watcher) -> None:
        """Note where somebody stays who doesn't read; nothing more is written to it."""
        self._cursors[subscriber] = self._cursors_before(subscriber, self._passing_first)
        self._slow_since_s[subscriber] = self._monotonic_s()

    def _hold(self, subscriber: Watcher, waiting: Sequence[Change]) -> None:
        """Let somebody wait for the rest of a transaction; it gets the rest of this pass."""
        first = {change.channel: change.rev for change in reversed(waiting)}
        now_s = self._monotonic_s()
        self._cursors[subscriber] = self._cursors_before(subscriber, first)
        self._held[subscriber] = dict.fromkeys(waiting, now_s)

    def _catch_up(self, subscriber: Watcher, frames: Frames, limits: Mapping[str, int]) -> None:
        """Send what somebody lacks before `limits`: in one frame, or the state is to be taken.

        Who then has all but what is pending is in step again.
        """
        if subscriber.congested:
            self._slow_since_s.setdefault(subscriber, self._monotonic_s())
            return
        cursors = self._cursors[subscriber]
        queue = self._missed(subscriber, cursors, limits)
        ready, waiting = split_ready(queue, cursors.keys(), cursors)
        for change in reversed(waiting):
            cursors[change.channel] = change.rev - 1
        if waiting:
            held, now_s = self._held.get(subscriber, {}), self._monotonic_s()
            self._held[subscriber] = {c: held.get(c, now_s) for c in waiting}
        else:
            self._held.pop(subscriber, None)
            pending = self._pending_first
            if not pending or all(rev < pending.get(c, rev + 1) for c, rev in cursors.items()):
                self._cursors.pop(subscriber, None)
            else:
                self._is_due = True  # It is ahead of others, until the next pass.
        if ready:
            self._writes += self._is_passing
            subscriber.deliver(_shared_frame(frames, subscriber.codec, ready))
            self._end_all(subscriber, [c.channel for c in ready if c.ends_channel])

    def _missed(
        self, subscriber: Watcher, cursors: Cursors, limits: Mapping[str, int]
    ) -> list[Change]:
        """Move cursors on, and return what is between; end channels where it is too much."""
        queue: list[Change] = []
        # This frame may be nobody else's: many who read again must not fill the memory.
        room_bytes = self._catch_up_max_bytes
        for channel, rev in list(cursors.items()):
            replica = self._replicas[channel]
            last_rev = limits.get(channel, replica.rev + 1) - 1
            if rev >= last_rev:
                continue
            missed = replica.changes_after(rev)
            if missed is not None and last_rev < replica.rev:
                missed = missed[: last_rev - rev]
            size_bytes = sum(len(change.events_json) for change in missed or ())
            if missed is None or size_bytes > room_bytes:
                self.detach(subscriber, channel)
                subscriber.end_channel(channel, EndReason.ANEW)
            else:
                room_bytes -= size_bytes
                queue += missed
                cursors[channel] = last_rev
        return queue

    def drained(self, subscriber: Watcher) -> None:
        """Bring up to date who reads again: ordinary changes in one frame, or a new state."""
        if subscriber not in self._slow_since_s or subscriber.congested:
            return
        del self._slow_since_s[subscriber]
        self._catch_up(subscriber, {}, NOTHING)
        if self._is_due:
            self._call_pass()

    def sweep(self, *, atomic_wait_s: float, slow_drain_timeout_s: float) -> None:
        """Enforce the bounds: on waiting for the rest of a transaction, and on not reading."""
        now_s = self._monotonic_s()
        for subscriber, held in list(self._held.items()):
            if now_s - min(held.values(), default=now_s) > atomic_wait_s:
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


def _shared_frame(frames: Frames, codec: Codec[Any], changes: Sequence[Change]) -> Any:
    key = codec, tuple(map(id, changes))
    known = frames.get(key)
    if known is None:
        known = frames[key] = codec.encode(changes), changes
    return known[0]
