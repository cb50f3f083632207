"""Ways in which PostgreSQL loses its last commits, and whoever watches while it does."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

from channels.positions import Position, format_vector
from tests.faults.cluster import Cluster
from tests.faults.timeline import Picture, picture_of
from tests.faults.truth import read_tables
from tests.realtime.event_source import EventSource, event_source
from tests.realtime.plain_client import PlainClient, plain_client
from tests.servers import DATABASE, PostgresServer
from tests.standbys import cut_off, remove_copy, start_standby

POLL_S = 0.05
TABLES = (
    "alembic_version",
    "changes",
    "channel_heads",
    "revocations",
    "tickets",
    "users",
    "users_id_seq",
    "zones",
)
"""With the sequence, in the order in which dumps have them."""
PATIENCE_S = 15.0
"""The promise is 2 s from when the database answers; tests wait longer on a busy machine."""


class Way(ABC):
    """A way to an earlier state: `prepare`, then more is written, then `lose`."""

    @abstractmethod
    async def prepare(self, postgres: PostgresServer) -> None:
        """Keep the present state."""

    @abstractmethod
    async def lose(self, postgres: PostgresServer) -> None:
        """Bring it back."""


class BaseBackup(Way):
    """A base backup, put back in place: system identifier, timeline and oids stay."""

    async def prepare(self, postgres: PostgresServer) -> None:
        self._data = await postgres.back_up("backup")

    async def lose(self, postgres: PostgresServer) -> None:
        await postgres.stop()
        await remove_copy(await postgres.put_back(self._data))
        await postgres.start()


class Dump(Way):
    """A dump, restored into a database that is made anew; `lose`: in one transaction."""

    async def prepare(self, postgres: PostgresServer) -> None:
        self._file = postgres.folder / "zonecast.dump"
        await postgres.run("pg_dump", "-Fc", "-f", str(self._file), "-d", postgres.libpq_url)

    async def lose(self, postgres: PostgresServer) -> None:
        await self._empty(postgres)
        await self._restore(postgres, "--single-transaction")

    async def lose_up_to(self, postgres: PostgresServer, table: str) -> None:
        """Bring back the tables, and the rows of all that come before one in the dump."""
        await self._empty(postgres)
        await self._restore(postgres, "--section=pre-data")
        rows = [f"--table={name}" for name in TABLES if name < table]
        await self._restore(postgres, "--data-only", *rows)

    async def restore_rest(self, postgres: PostgresServer, table: str) -> None:
        """Bring back the rows that are missing, and then the keys, as `pg_restore` does."""
        rows = [f"--table={name}" for name in TABLES if name >= table]
        await self._restore(postgres, "--data-only", *rows)
        await self._restore(postgres, "--section=post-data")

    async def _empty(self, postgres: PostgresServer) -> None:
        await postgres.drop_database(DATABASE)
        await postgres.create_database(DATABASE)

    async def _restore(self, postgres: PostgresServer, *what: str) -> None:
        place = ["-d", postgres.libpq_url, str(self._file)]
        await postgres.run("pg_restore", *what, *place)


class Failover(Way):
    """A standby that lacks the last commits, promoted in the place of the killed primary."""

    async def prepare(self, postgres: PostgresServer) -> None:
        self._standby = await start_standby(postgres, "standby")
        await cut_off(self._standby)

    async def lose(self, postgres: PostgresServer) -> None:
        await self._standby.stop()
        await postgres.kill()
        await remove_copy(await postgres.put_back(self._standby.data))
        await postgres.start()
        await postgres.execute("SELECT pg_promote()")


@dataclass
class Onlookers:
    """Who watches a zone, all on one node.

    Attributes:
        channel: Of the zone.
        socket: A WebSocket client.
        stream: An event source.
        states: What the event source was sent whole: epoch, and ids of users.
    """

    channel: str
    socket: PlainClient
    stream: EventSource
    states: list[tuple[str, set[int]]] = field(default_factory=list)

    async def at(self, rev: int) -> None:
        """Wait until the WebSocket client is at a revision."""
        await self.socket.until(lambda client: client.positions[self.channel][1] == rev)

    async def told(self, channel: str, code: int) -> None:
        """Wait, bounded, until the WebSocket client's subscription was ended with a code."""
        async with asyncio.timeout(PATIENCE_S):
            await self.socket.until(lambda client: (channel, code) in client.unsubscribed)

    async def read_stream(self) -> None:
        """Keep the states that the event source is sent, until it ends."""
        while True:
            event = await self.stream.event()
            if event.name == "snapshot":
                ids = {user["id"] for user in event.data["users"]}
                self.states.append((event.data["epoch"], ids))


@dataclass
class World:
    """Nodes on a PostgreSQL that is going to lose commits.

    Attributes:
        cluster: The servers.
        http: A client of each node.
    """

    cluster: Cluster
    http: list[httpx.AsyncClient]

    async def write(self, method: str, path: str, body: Any = None, node: int = 0) -> Any:
        """Write through a node, again for as long as it can't be done."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                with suppress(httpx.TransportError):
                    answer = await self.http[node].request(method, path, json=body)
                    if answer.status_code != 503:
                        assert answer.is_success, answer.text
                        return answer.json() if answer.content else None
                await asyncio.sleep(POLL_S)

    async def truth(self, channel: str) -> tuple[Position, Picture]:
        """Read a zone from the tables."""
        tables = await read_tables(self.cluster.postgres)
        return tables.position(channel), picture_of(tables, channel) or Picture()

    async def until(self, condition: Callable[[], Awaitable[bool]], what: str) -> None:
        """Wait, bounded, until a condition holds."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                # Nodes and tables tell in no other way.
                while not await condition():  # noqa: ASYNC110
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise AssertionError(what) from None

    @asynccontextmanager
    async def onlookers(self, zone_id: str) -> AsyncIterator[list[Onlookers]]:
        """Watch a zone on every node until the body ends."""
        channel = f"zone:{zone_id}"
        async with AsyncExitStack() as stack:
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            found, reading = [], []
            for member in self.cluster.members:
                url = member.process.url
                ws_url = f"ws://127.0.0.1:{member.process.port}/connection/websocket"
                socket = await stack.enter_async_context(plain_client(ws_url, channel))
                stream = await stack.enter_async_context(event_source(url, zone_id))
                found.append(Onlookers(channel, socket, stream))
                reading.append(tasks.create_task(found[-1].read_stream()))
            yield found
            for task in reading:
                task.cancel()

    async def stop_nodes(self) -> None:
        """Stop all nodes."""
        await asyncio.gather(*(member.process.stop() for member in self.cluster.members))

    async def start_nodes(self) -> None:
        """Start all nodes."""
        await asyncio.gather(*(member.process.start() for member in self.cluster.members))


@dataclass
class Known:
    """What clients know of a zone at one moment.

    Attributes:
        zone_id: The zone.
        position: Where it is.
        state_tag: The entity tag of its snapshot.
        dict_tag: The entity tag of the users dict.
    """

    zone_id: str
    position: Position
    state_tag: str
    dict_tag: str

    @property
    def vector(self) -> str:
        """What an event source would send as its last id."""
        return format_vector([(self.zone_id, self.position)])


async def read_known(world: World, zone_id: str) -> Known:
    """Read what clients know, through all nodes, so that all have it at hand."""
    for http in world.http:
        state = await http.get(f"/zones/{zone_id}/snapshot")
        users = await http.get("/users-dict")
    found = state.json()
    position = Position(found["epoch"], found["rev"])
    return Known(zone_id, position, state.headers["etag"], users.headers["etag"])
