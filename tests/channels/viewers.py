"""Viewers: clients that come, go and stall, and check the promises with all that they get."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import pytest

from channels.changes import Change, ChannelState
from channels.events import (
    Changed,
    Entered,
    Left,
    Revoked,
    User,
    Zone,
    ZoneChanged,
    ZoneCreated,
    ZoneDeleted,
)
from channels.feed import Feed, UnknownChannelError
from channels.names import DIRECTORY
from channels.ports import UnavailableError
from channels.positions import Position
from channels.replica import encode_state
from channels.subscribers import EndReason, Start
from tests.channels.world import PlainCodec

RETRY_S = 0.2


@dataclass
class Picture:
    """A channel as somebody holds it, made by other code than the replica's."""

    users: dict[int, User] = field(default_factory=dict)
    zone: Zone | None = None
    zones: dict[str, Zone] = field(default_factory=dict)

    @classmethod
    def of(cls, state: ChannelState | None) -> Picture:
        """Copy a state; of a channel that doesn't exist it is empty."""
        if state is None:
            return cls()
        return cls(dict(state.users), state.zone, dict(state.zones))

    def apply(self, change: Change) -> None:
        """Do what a change says."""
        is_directory = change.channel == DIRECTORY
        for event in change.events:
            if isinstance(event, Entered | Changed):
                self.users[event.user.id] = event.user
            elif isinstance(event, Left):
                del self.users[event.user_id]
            elif isinstance(event, ZoneDeleted):
                self.zone = None
                self.zones.pop(event.zone_id, None)
            elif isinstance(event, Revoked):
                pytest.fail("told on a channel that clients see")
            elif is_directory:
                self.zones[event.zone.zone_id] = event.zone
            else:
                assert isinstance(event, ZoneChanged | ZoneCreated)
                self.zone = event.zone


class Record(Protocol):
    """What really happened; `check` notes each promise that does not hold."""

    def check(self, holds: object, promise: str, *details: object) -> None:
        """Note a broken promise."""

    def check_picture(self, channel: str, position: Position, picture: Picture) -> None:
        """Note a picture that is not the truth at exactly this position."""

    def check_served(self, node: Node, channel: str, position: Position) -> None:
        """Note a node that goes back in time."""

    def part_position(self, change: Change, channel: str, rev: int) -> Position:
        """Return where a part of a change's transaction took another channel."""

    @property
    def moment(self) -> int:
        """How often the truth has changed."""

    def moment_of(self, channel: str, position: Position) -> int:
        """Return the moment at which the channel came to a position."""

    def was_absent_since(self, channel: str, moment: int) -> bool:
        """Tell whether there was no such channel at that moment or later."""

    def was_down_since(self, time_s: float) -> bool:
        """Tell whether the database was down at that time or later."""


class Node(Protocol):
    """Where viewers connect."""

    @property
    def feed(self) -> Feed:
        """What they use of it."""


@dataclass
class Subscription:
    """What a connection holds of a channel."""

    start: Position
    position: Position
    picture: Picture


class Connection:
    """A viewer's connection to one node: a subscriber."""

    def __init__(self, viewer: Viewer, node: Node, record: Record, codec: PlainCodec) -> None:
        self.codec = codec
        self.node = node
        self.congested = False
        self.is_closed = False
        self.refuses = False
        self.asked: dict[str, Position | None] = {}
        self.resumed: dict[str, Picture] = {}
        self.held: dict[str, Subscription] = {}
        self.stale_since_ms: int | None = None
        self._viewer = viewer
        self._record = record

    def __repr__(self) -> str:
        return f"<Connection of {self._viewer.name}>"

    def begin(self, starts: Sequence[Start]) -> bool:
        """Take the reply to a subscribe, or refuse it."""
        if self.is_closed or self.refuses:
            return False
        self._record.check(
            [start.replica.channel for start in starts] == list(self.asked), "all, in order"
        )
        for start in starts:
            self._begin(start)
        return True

    def _begin(self, start: Start) -> None:
        check, channel = self._record.check, start.replica.channel
        since = self.asked[channel]
        check(channel not in self.held, "subscribed once", channel)
        check(start.was_recovering == (since is not None), "knows what was asked")
        if start.changes is None:
            state = start.replica.state()
            picture = Picture.of(state)
            check(start.replica.snapshot() == encode_state(state), "the bytes are of now", channel)
            is_older = since and since.epoch == start.position.epoch
            check(
                not is_older or (since and start.position.rev >= since.rev),
                "a state is never older than the client's position",
                *(channel, since, start.position),
            )
        else:
            picture = self.resumed[channel]
            rev = since.rev if since else -1
            for change in start.changes:
                rev += 1
                follows = (change.epoch, change.rev) == (start.position.epoch, rev)
                check(follows, "a resume never skips", channel, since, change)
                picture.apply(change)
            check(
                since and (since.epoch, rev) == (start.position.epoch, start.position.rev),
                "a resume is complete",
                *(channel, since, start.position),
            )
        self._record.check_picture(channel, start.position, picture)
        self._record.check_served(self.node, channel, start.position)
        self.held[channel] = Subscription(start.position, start.position, picture)

    def deliver(self, frame: tuple[Change, ...]) -> None:
        """Apply a frame, change by change, and see that it is whole."""
        check = self._record.check
        check(not self.is_closed, "nothing after the end")
        check(not self.congested, "nothing more for who does not read")
        for change in frame:
            held = self.held.get(change.channel)
            if held is None:
                check(held, "only what was asked for", change)
                continue
            check(
                (change.epoch, change.rev) == (held.position.epoch, held.position.rev + 1),
                "ordered, gapless, unique",
                *(held.position, change),
            )
            held.position = change.position
            held.picture.apply(change)
            self._record.check_picture(change.channel, held.position, held.picture)
        for change in frame:
            for channel, rev in change.parts:
                self._check_whole(change, channel, rev)

    def _check_whole(self, change: Change, channel: str, rev: int) -> None:
        """A part on a channel that is watched, and in the same history, has come, too."""
        held = self.held.get(channel)
        if held is None:
            return
        part = self._record.part_position(change, channel, rev)
        is_here = held.position.epoch != part.epoch or held.position.rev >= rev
        self._record.check(is_here, "one transaction, one frame", channel, rev, held, change)

    def end_channel(self, channel: str, reason: EndReason) -> None:
        """Do as told: stop, resume, or begin anew."""
        held = self.held.pop(channel, None)
        if held is None:
            self._record.check(held, "only what was begun can end", channel, reason)
            return
        if reason is EndReason.GONE:
            moment = self._record.moment_of(channel, held.start)
            was_absent = self._record.was_absent_since(channel, moment)
            self._record.check(was_absent, "gone is only what was deleted", channel)
            self._viewer.wanted.pop(channel, None)
        self._viewer.retain(channel, held if reason is EndReason.RESUME else None)
        self._viewer.news.set()

    def tell_staleness(self, since_ms: int | None) -> None:
        """Note it."""
        self._record.check(not self.is_closed, "nothing after the end")
        self.stale_since_ms = since_ms

    def drain(self) -> None:
        """Read again, and be brought up to date."""
        self.congested = False
        self.node.feed.drained(self)

    def cut(self) -> None:
        """Lose the connection."""
        self._viewer.disconnect(cancels=True)


class Viewer:
    """A client: what it wants, what it holds, and at most one connection.

    Attributes:
        wanted: The channels that it wants, in order.
        pictures: What it held of channels when their subscriptions were interrupted.
        positions: Where that is.
        is_joining: Whether it subscribes to all channels in one step, not one by one.
        is_quick: Whether it subscribes at once where nothing has to be awaited.
        patience_s: After that long it gives up its next attempt to subscribe.
    """

    def __init__(
        self, name: str, record: Record, codec: PlainCodec, *, is_joining: bool, is_quick: bool
    ) -> None:
        self.name = name
        self.is_joining = is_joining
        self.is_quick = is_quick
        self.wanted: dict[str, None] = {}
        self.pictures: dict[str, Picture] = {}
        self.positions: dict[str, Position] = {}
        self.connection: Connection | None = None
        self.patience_s: float | None = None
        self.news = asyncio.Event()
        self._record = record
        self._codec = codec
        self._work: asyncio.Task[None] | None = None

    def connect(self, node: Node, tasks: asyncio.TaskGroup) -> None:
        """Connect to a node and subscribe to all that is wanted."""
        self.connection = Connection(self, node, self._record, self._codec)
        self._work = tasks.create_task(self._serve(self.connection))

    def disconnect(self, *, cancels: bool) -> None:
        """Leave, keeping the positions; an attempt to subscribe is cancelled or refused."""
        connection, self.connection = self.connection, None
        if connection is None or self._work is None:
            return
        connection.is_closed = True
        for channel, held in connection.held.items():
            self.retain(channel, held)
        connection.held.clear()
        connection.node.feed.leave(connection)
        self.news.set()
        if cancels:
            self._work.cancel()

    def retain(self, channel: str, held: Subscription | None) -> None:
        """Keep what was held of a channel, or forget it."""
        self.positions.pop(channel, None)
        self.pictures.pop(channel, None)
        if held is not None and channel in self.wanted:
            self.positions[channel] = held.position
            self.pictures[channel] = held.picture

    def unsubscribe(self, channel: str) -> None:
        """Want a channel no more; one that is just being subscribed ends after that."""
        self.wanted.pop(channel, None)
        self.retain(channel, None)
        connection = self.connection
        if connection is not None and channel in connection.held:
            del connection.held[channel]
            connection.node.feed.unsubscribe(connection, channel)

    async def _serve(self, connection: Connection) -> None:
        """Subscribe to what is wanted, again and again, until disconnected."""
        while not connection.is_closed:
            due = [channel for channel in self.wanted if channel not in connection.held]
            if not due:
                self.news.clear()
                await self.news.wait()
                continue
            await self._subscribe(connection, due if self.is_joining else due[:1])

    async def _subscribe(self, connection: Connection, channels: list[str]) -> None:
        record, loop = self._record, asyncio.get_running_loop()
        moment, started_s = record.moment, loop.time()
        asked = connection.asked = {c: self.positions.get(c) for c in channels}
        connection.resumed = dict(self.pictures)
        patience_s, self.patience_s = self.patience_s, None
        feed = connection.node.feed
        try:
            async with asyncio.timeout(patience_s):
                if self.is_quick and feed.try_subscribe(connection, asked, connection.begin):
                    await asyncio.sleep(0)
                else:
                    await feed.subscribe(connection, asked, connection.begin)
        except TimeoutError:
            record.check(patience_s is not None, "only our own patience ends")
        except UnknownChannelError as error:
            was_absent = record.was_absent_since(error.channel, moment)
            record.check(was_absent, "unknown is only what does not exist", error.channel)
            self.wanted.pop(error.channel, None)
            self.retain(error.channel, None)
        except UnavailableError:
            record.check(record.was_down_since(started_s), "unavailable only when down")
            await asyncio.sleep(RETRY_S)
        if connection.refuses:
            connection.refuses = False
            for channel in channels:
                self.unsubscribe(channel)
        for channel in channels:
            if channel in connection.held and channel not in self.wanted:
                self.wanted[channel] = None
                self.unsubscribe(channel)
