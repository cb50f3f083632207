"""A small world for the rules: a truth in memory, a bus that misbehaves on demand, screens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from channels.changes import Change, Transaction
from channels.events import Changed, Entered, Left, User
from channels.feed import Feed, FeedConfig
from channels.ports import BusListener, BusMessage, BusState
from channels.positions import Position
from channels.publisher import Publisher
from channels.repairs import FollowerConfig
from channels.replica import encode_state
from channels.subscribers import EndReason, Start
from tests.channels.truth import Truth

__all__ = ["NullObserver", "PlainCodec", "Screen", "Truth", "WildBus", "World", "in_world"]


class WildBus:
    """A bus that delivers only what the test tells it to."""

    def __init__(self) -> None:
        self.state = BusState.LIVE
        self.channels: set[str] = set()
        self.published: list[Change] = []
        self.listener: BusListener | None = None
        self.delivers = True

    async def run(self, listener: BusListener) -> None:
        self.listener = listener
        await asyncio.Event().wait()

    async def subscribe(self, *channels: str) -> bool:
        self.channels.update(channels)
        await asyncio.sleep(0)
        return True

    def unsubscribe(self, channel: str) -> None:
        self.channels.discard(channel)

    async def publish(self, transactions: Sequence[Transaction]) -> None:
        for transaction in transactions:
            self.published += transaction.changes
            if self.delivers:
                for change in transaction.changes:
                    self.bring(change)

    def bring(self, change: Change, *, oversize: bool = False) -> None:
        """Deliver one change to whoever is registered for its channel."""
        if self.listener is not None and change.channel in self.channels:
            self.listener.on_message(
                BusMessage(
                    change.channel,
                    change.position,
                    change.tx,
                    change.time_ms,
                    () if oversize else change.parts,
                    None if oversize else change.events,
                    None if oversize else change.events_json,
                )
            )


class NullObserver:
    """Counts what it is told, by name."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args: self.told.append((name, *args))

    def count(self, *prefix: Any) -> int:
        """Count what was told with this beginning."""
        return sum(1 for entry in self.told if entry[: len(prefix)] == prefix)


class PlainCodec:
    """Frames are the tuples of changes themselves."""

    def __init__(self) -> None:
        self.encoded = 0

    def encode(self, changes: Sequence[Change]) -> tuple[Change, ...]:
        self.encoded += 1
        return tuple(changes)


@dataclass(eq=False)
class Screen:
    """A subscriber that materialises what it gets and checks the promises while it does."""

    codec: PlainCodec = field(default_factory=PlainCodec)
    congested: bool = False
    users: dict[str, dict[int, User]] = field(default_factory=dict)
    positions: dict[str, Position] = field(default_factory=dict)
    frames: list[tuple[Change, ...]] = field(default_factory=list)
    ended: list[tuple[str, EndReason]] = field(default_factory=list)
    staleness: list[int | None] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)
    was_cut: bool = False
    woken: asyncio.Event = field(default_factory=asyncio.Event)

    def begin(self, starts: Sequence[Start]) -> bool:
        """Take the reply to a subscribe."""
        for start in starts:
            channel = start.replica.channel
            self.starts.append(start)
            if start.changes is None:
                self.users[channel] = dict(start.replica.users)
            else:
                for change in start.changes:
                    self._apply(change)
            self.positions[channel] = start.position
        return True

    def deliver(self, frame: tuple[Change, ...]) -> None:
        self.frames.append(frame)
        for change in frame:
            position = self.positions[change.channel]
            assert change.epoch == position.epoch
            assert change.rev == position.rev + 1, "ordered, gapless and unique"
            self.positions[change.channel] = change.position
            self._apply(change)
        self.woken.set()

    def _apply(self, change: Change) -> None:
        users = self.users[change.channel]
        for event in change.events:
            match event:
                case Entered(user) | Changed(user):
                    users[user.id] = user
                case Left(user_id):
                    users.pop(user_id, None)

    def end_channel(self, channel: str, reason: EndReason) -> None:
        self.ended.append((channel, reason))
        if reason is not EndReason.RESUME:
            del self.positions[channel]
        self.woken.set()

    def tell_staleness(self, since_ms: int | None) -> None:
        self.staleness.append(since_ms)
        self.woken.set()

    def cut(self) -> None:
        self.was_cut = True
        self.woken.set()

    async def until(self, condition: Callable[[Screen], bool]) -> None:
        """Wait, bounded by the test's own timeout, until a condition holds."""
        while not condition(self):
            self.woken.clear()
            await self.woken.wait()


@dataclass
class World:
    """A running feed with its truth and bus."""

    truth: Truth
    bus: WildBus
    feed: Feed
    publisher: Publisher
    observer: NullObserver

    def commit(self, *moves: tuple[int, str | None], publish: bool = True) -> Transaction:
        """Commit moves on another node, and let the bus bring them unless told otherwise."""
        transaction = self.truth.commit(moves)
        if publish:
            for change in transaction.changes:
                self.bus.bring(change)
        return transaction

    async def watch(
        self, *channels: str, screen: Screen | None = None, since: Position | None = None
    ) -> Screen:
        """Subscribe a screen to channels in one step."""
        screen = screen or Screen()
        await self.feed.subscribe(screen, dict.fromkeys(channels, since), screen.begin)
        return screen

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let the loop turn, bounded by the test's own timeout, until a condition holds."""
        while not condition():  # noqa: ASYNC110 - what is awaited has no event of its own
            await asyncio.sleep(0.001)

    def assert_equal(self, screen: Screen) -> None:
        """The screen shows exactly the truth."""
        for channel, position in screen.positions.items():
            state = self.truth.state(channel)
            assert state is not None
            assert screen.users[channel] == state.users
            assert position == state.position

    def assert_replica(self, channel: str) -> None:
        """This node's replica is exactly the truth."""
        replica, state = self.feed.current(channel), self.truth.state(channel)
        assert replica is not None
        assert state is not None
        assert replica.snapshot() == encode_state(state)


class _StopWorldError(Exception):
    """Ends the group that owns everything that runs."""


def _stop() -> None:
    raise _StopWorldError


async def in_world(
    scene: Callable[[World], Awaitable[None]],
    *,
    zones: Sequence[str] = ("A", "B", "C"),
    config: FeedConfig | None = None,
) -> None:
    """Play a scene in a fresh, running world, and end everything that runs."""
    truth, bus, observer = Truth(zones), WildBus(), NullObserver()
    quick = FeedConfig(
        following=FollowerConfig(gap_wait_s=0.01, linger_s=0.01), head_check_interval_s=0.1
    )
    try:
        async with asyncio.TaskGroup() as tasks:
            feed = Feed(truth, bus, observer, config or quick, tasks)
            publisher = Publisher(
                bus, observer, offer=feed.follower.offer, outbox_max_transactions=100
            )
            for work in (bus.run(feed.follower), feed.run(), publisher.run()):
                tasks.create_task(work)
            await asyncio.sleep(0)
            await scene(World(truth, bus, feed, publisher, observer))
            _stop()
    except* _StopWorldError:
        pass
