"""A small world for the rules: a truth in memory, a bus that misbehaves on demand, screens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import msgspec

from channels.changes import Change, ChangePage, ChannelState, Transaction
from channels.events import Changed, Entered, Event, Left, User, Zone, ZoneDeleted
from channels.feed import Feed, FeedConfig
from channels.names import DIRECTORY, UNASSIGNED, zone_channel, zone_id_of
from channels.ports import BusListener, BusMessage, BusState, UnavailableError
from channels.positions import Position
from channels.publisher import Publisher
from channels.repairs import FollowerConfig
from channels.replica import encode_state
from channels.subscribers import EndReason, Start


@dataclass
class Head:
    """A channel's head in the truth."""

    epoch: str
    rev: int = 0
    floor: int = 0


class Truth:
    """Users and zones with a change log, as the database keeps them; a `ChangeLog`.

    `down` makes every question fail; `gate` holds questions until it is set.
    """

    def __init__(self, zones: Sequence[str]) -> None:
        self.heads = {name: Head("e1") for name in (DIRECTORY, UNASSIGNED)}
        self.zones: dict[str, Zone] = {}
        self.users: dict[int, User] = {}
        self.rows: dict[tuple[str, int], Change] = {}
        self.down = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked: list[tuple[str, str]] = []
        self._tx = count(1)
        for zone_id in zones:
            self.zones[zone_id] = Zone(zone_id, zone_id, {})
            self.heads[zone_channel(zone_id)] = Head("e1")

    def commit(self, moves: Sequence[tuple[int, str | None]]) -> Transaction:
        """Move users (made when new) in one transaction, and return what was committed."""
        events: dict[str, list[Event]] = {}
        for user_id, zone_id in moves:
            old = self.users.get(user_id)
            version = 1 if old is None else old.version + 1
            user = User(user_id, user_id, f"user {user_id}", zone_id, {}, version)
            self.users[user_id] = user
            if old is not None and old.zone_id == zone_id:
                events.setdefault(zone_channel(zone_id), []).append(Changed(user))
                continue
            if old is not None:
                left = Left(user_id, version)
                events.setdefault(zone_channel(old.zone_id), []).append(left)
            events.setdefault(zone_channel(zone_id), []).append(Entered(user))
        return self._record(events)

    def delete_zone(self, zone_id: str, move_to: str) -> Transaction:
        """Delete a zone and move its users in the same transaction."""
        events: dict[str, list[Event]] = {zone_channel(zone_id): []}
        for user in [u for u in self.users.values() if u.zone_id == zone_id]:
            moved = msgspec.structs.replace(user, zone_id=move_to, version=user.version + 1)
            self.users[user.id] = moved
            events[zone_channel(zone_id)].append(Left(user.id, moved.version))
            events.setdefault(zone_channel(move_to), []).append(Entered(moved))
        del self.zones[zone_id]
        events[zone_channel(zone_id)].append(ZoneDeleted(zone_id))
        events[DIRECTORY] = [ZoneDeleted(zone_id)]
        return self._record(events)

    def _record(self, events: dict[str, list[Event]]) -> Transaction:
        tx = f"t{next(self._tx)}"
        for channel in events:
            self.heads[channel].rev += 1
        parts = tuple((channel, self.heads[channel].rev) for channel in sorted(events))
        changes = tuple(
            Change.of_events(
                channel,
                Position(self.heads[channel].epoch, rev),
                tx,
                0,
                tuple(events[channel]),
                parts if len(parts) > 1 else (),
            )
            for channel, rev in parts
        )
        for change in changes:
            self.rows[change.channel, change.rev] = change
        return Transaction(tx, 0, changes)

    def renew_epochs(self, epoch: str) -> None:
        """Make another history of what is there."""
        for head in self.heads.values():
            head.epoch = epoch
            head.floor = head.rev

    def compact(self, channel: str, floor: int) -> None:
        """Forget changes up to `floor`."""
        self.heads[channel].floor = floor

    def state(self, channel: str) -> ChannelState | None:
        """Return the truth about a channel."""
        head = self.heads.get(channel)
        zone_id = zone_id_of(channel)
        if head is None or (zone_id is not None and zone_id not in self.zones):
            return None
        position = Position(head.epoch, head.rev)
        if channel == DIRECTORY:
            return ChannelState(channel, position, None, {}, dict(self.zones))
        users = {u.id: u for u in self.users.values() if u.zone_id == zone_id}
        zone = None if zone_id is None else self.zones[zone_id]
        return ChannelState(channel, position, zone, users, {})

    async def _question(self, kind: str, channel: str) -> None:
        self.asked.append((kind, channel))
        await asyncio.sleep(0)
        await self.gate.wait()
        if self.down:
            raise UnavailableError("database", "it is down")

    async def read_state(self, channel: str) -> ChannelState | None:
        await self._question("state", channel)
        return self.state(channel)

    async def read_changes(self, channel: str, since_rev: int, limit: int) -> ChangePage | None:
        await self._question("changes", channel)
        head = self.heads.get(channel)
        if head is None:
            return None
        first = max(since_rev, head.floor) + 1
        last = min(head.rev, first + limit - 1)
        changes = tuple(self.rows[channel, rev] for rev in range(first, last + 1))
        return ChangePage(Position(head.epoch, head.rev), head.floor, changes)

    async def read_heads(self, channels: Sequence[str]) -> dict[str, Position]:
        await self._question("heads", ",".join(channels))
        return {
            name: Position(self.heads[name].epoch, self.heads[name].rev)
            for name in channels
            if name in self.heads
        }


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

    async def subscribe(self, channel: str) -> bool:
        self.channels.add(channel)
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
            await asyncio.sleep(0)

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
