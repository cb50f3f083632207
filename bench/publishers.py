"""Publishers: where the changes come from, the same text for us and for the peers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import asyncpg

from cache.client import Connector, RedisConfig
from cache.invalidation import Invalidation
from cache.redis_bus import RedisBus
from channels.changes import Change, Transaction
from channels.events import Changed, User
from channels.names import zone_channel
from channels.ports import Bus, BusMessage
from channels.positions import Position
from db.engine import Database, DatabaseConfig
from db.head_reader import HeadReader
from realtime.app import owning_tasks
from realtime.websocket.json_codec import encode_publication

HEADS_TIMEOUT_S: Final = 5.0
LIVE_TIMEOUT_S: Final = 10.0

# One statement, one commit: the head, the user and the change log agree at every moment.
_COMMIT: Final = """
    WITH moved AS (UPDATE channel_heads SET rev = rev + $3 WHERE channel = $1),
         changed AS (UPDATE users SET version = version + $3, attributes = $4::text::json
                     WHERE id = $2)
    INSERT INTO changes (channel, rev, tx_id, at, span, events)
    SELECT $1, c.rev, c.tx, $5, 1, c.events::json
    FROM unnest($6::bigint[], $7::text[], $8::text[]) AS c(rev, tx, events)"""


class Publisher(Protocol):
    """Makes changes and sends them to all subscribers of one zone.

    Attributes:
        sent_ns: When the last ones were handed over, `CLOCK_MONOTONIC`.
    """

    sent_ns: int

    async def publish(self, count: int) -> None:
        """Send so many changes, one transaction each, at once."""


@dataclass(slots=True)
class ZoneChanges:
    """Makes the changes of one zone: always the same user, with the time in its attributes.

    Attributes:
        channel: The zone's.
        user: As it is after the last change.
        position: After the last change.
        pad_bytes: How much longer each change is than it need be.
    """

    channel: str
    user: User
    position: Position
    pad_bytes: int = 0

    def next(self, count: int) -> list[Change]:
        """Make the next changes; the revisions go on from the position."""
        made = []
        for _ in range(count):
            attributes: dict[str, Any] = {"t": time.monotonic_ns()}
            if self.pad_bytes:
                attributes["pad"] = "x" * self.pad_bytes
            user = self.user
            self.user = User(
                user.id, user.global_id, user.name, user.zone_id, attributes, user.version + 1
            )
            self.position = Position(self.position.epoch, self.position.rev + 1)
            tx = f"{self.position.rev:016x}"
            now_ms = time.time_ns() // 1_000_000
            events = (Changed(self.user),)
            made.append(Change.of_events(self.channel, self.position, tx, now_ms, events))
        return made


def pushed_line(change: Change) -> bytes:
    """Write a change as our WebSocket clients get it: what peers are given to send."""
    return b'{"push":{"channel":"%b","pub":%b}}' % (
        change.channel.encode("ascii"),
        encode_publication(change),
    )


class BusPublisher:
    """A writing node without its HTTP API: commits a block of changes, then publishes it.

    The block is one commit, so that neither the database nor this process bounds what the
    measured node gets; each change is still a revision, a row and an envelope of its own, and
    what the measured node compares with the database every half second is true.

    Attributes:
        sent_ns: Right after the commit, before the bus is asked.
    """

    def __init__(self, connection: Any, bus: Bus, changes: ZoneChanges) -> None:
        self._connection = connection
        self._bus = bus
        self.changes = changes
        self.sent_ns = 0

    async def publish(self, count: int) -> None:
        """Commit and publish so many changes; raises what the database and the bus raise."""
        changes = self.changes.next(count)
        await self._commit(changes)
        self.sent_ns = time.monotonic_ns()
        await self._bus.publish([Transaction(c.tx, c.time_ms, (c,)) for c in changes])

    async def _commit(self, changes: Sequence[Change]) -> None:
        user = self.changes.user
        await self._connection.execute(
            _COMMIT,
            self.changes.channel,
            user.id,
            len(changes),
            json.dumps(user.attributes),
            datetime.now(UTC),
            [change.rev for change in changes],
            [change.tx for change in changes],
            [change.events_json.decode() for change in changes],
        )


class _NoListener:
    """Subscribes to nothing, so hears nothing."""

    def on_message(self, message: BusMessage) -> None:
        """Not reached."""

    def on_gap(self) -> None:
        """Nothing was to come."""


@asynccontextmanager
async def bus_publisher(
    database_url: str, redis_url: str, zone_id: str, pad_bytes: int = 0
) -> AsyncIterator[BusPublisher]:
    """Open a publisher for a zone that has a user; `pad_bytes` as in `ZoneChanges`."""
    database = Database(DatabaseConfig(database_url))
    heads = HeadReader(database, HEADS_TIMEOUT_S)
    connection = await asyncpg.connect(database_url.replace("+asyncpg", ""))
    bus = RedisBus(Connector(RedisConfig(redis_url)), "bench-writer", Invalidation())
    try:
        channel = zone_channel(zone_id)
        position = (await heads.read_heads([channel]))[channel]
        row = await connection.fetchrow(
            "SELECT id, global_id, name, version FROM users WHERE zone_id = $1 ORDER BY id", zone_id
        )
        user = User(row["id"], row["global_id"], row["name"], zone_id, {}, row["version"])
        async with owning_tasks() as tasks:
            tasks.create_task(bus.run(_NoListener()))
            async with asyncio.timeout(LIVE_TIMEOUT_S):
                await bus.wait_live()
            yield BusPublisher(connection, bus, ZoneChanges(channel, user, position, pad_bytes))
    finally:
        await connection.close()
        await heads.close()
        await database.close()


def changes_of_nobody() -> ZoneChanges:
    """Make changes for peers, which keep no zone: as long as ours."""
    user = User(1, 1, "User 1", "bench", {}, 1)
    return ZoneChanges(zone_channel("bench"), user, Position("0123456789abcdef", 0))


class LinePublisher:
    """Writes changes as lines to a peer's input, a block in one piece."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._changes = changes_of_nobody()
        self.sent_ns = 0

    async def publish(self, count: int) -> None:
        """Send so many lines."""
        lines = [pushed_line(change) + b"\n" for change in self._changes.next(count)]
        self.sent_ns = time.monotonic_ns()
        self._writer.write(b"".join(lines))
        await self._writer.drain()


class PostPublisher:
    """Posts changes to a peer over HTTP, a block of requests in one piece."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._path = path.encode()
        self._changes = changes_of_nobody()
        self.sent_ns = 0

    async def publish(self, count: int) -> None:
        """Post so many changes, and wait for the answers."""
        requests = []
        for change in self._changes.next(count):
            line = pushed_line(change)
            requests.append(
                b"POST %b HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (self._path, len(line), line)
            )
        self.sent_ns = time.monotonic_ns()
        self._writer.write(b"".join(requests))
        for _ in range(count):
            head = await self._reader.readuntil(b"\r\n\r\n")
            length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
            await self._reader.readexactly(int(length or b"0"))


@asynccontextmanager
async def line_publisher(port: int) -> AsyncIterator[LinePublisher]:
    """Connect to a peer's input."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield LinePublisher(writer)
    finally:
        writer.close()


@asynccontextmanager
async def post_publisher(port: int, path: str) -> AsyncIterator[PostPublisher]:
    """Connect to a peer's HTTP."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield PostPublisher(reader, writer, path)
    finally:
        writer.close()
