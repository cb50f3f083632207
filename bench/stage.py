"""The stage of a measurement: PostgreSQL, Redis, our nodes, peers, and where each runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg
import httpx

from bench.crowd import CrowdPlan
from bench.machine import Cores, MissingError, family
from bench.publishers import BusPublisher, Publisher, bus_publisher
from db.migrate import upgrade
from tests.nodes import NodeProcess
from tests.processes import Scratch, ServerProcess
from tests.servers import (
    DATABASE,
    Postgres,
    PostgresServer,
    RedisServer,
    find_postgres,
    find_redis,
    start_redis,
)

ZONE: Final = "bench"
USERS: Final = 10
HTTP_TIMEOUT_S: Final = 60.0
ALONE_TIMEOUT_S: Final = 20.0
ALONE_POLL_S: Final = 0.05
_OTHERS: Final = """SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
    AND backend_type = 'client backend' AND pid <> pg_backend_pid()"""
_BULK_ROWS: Final = 1_000
CONNECT: Final = '{"id":1,"connect":{}}'
SUBSCRIBE: Final = '{"id":2,"subscribe":{"channel":"zone:%s"}}'
SUBSCRIBED: Final = '"subscribe":{'
SNAPSHOT: Final = "event: snapshot"


class PinnedNode(NodeProcess):
    """A node on the server's core alone."""

    def __init__(self, folder: Path, settings: Mapping[str, object], cores: Cores) -> None:
        super().__init__(folder, settings)
        self._prefix = cores.prefix

    def command(self) -> list[str]:
        """Run it with `taskset`."""
        return [*self._prefix, *super().command()]


@dataclass
class Ground:
    """What peers need: a core, and room.

    Attributes:
        cores: Who runs where.
        folder: For programs and data; removed at the end.
    """

    cores: Cores
    scratch: Scratch

    @property
    def folder(self) -> Path:
        """Where compiled programs are."""
        return self.scratch.folder

    def new_folder(self, name: str) -> Path:
        """Make a folder for one server."""
        return self.scratch.new_folder(name)


@dataclass
class Stage(Ground):
    """Servers that live as long as a measurement; nodes and peers live for one repetition.

    Attributes:
        postgres: With the schema.
        redis: Empty.
    """

    postgres: PostgresServer
    redis: RedisServer

    @property
    def urls(self) -> dict[str, str]:
        """The settings that a node needs to be one of these servers' nodes."""
        return {"database_url": self.postgres.url, "redis_url": self.redis.url}

    @asynccontextmanager
    async def node(self, **others: object) -> AsyncIterator[PinnedNode]:
        """Run a node with default settings, but for `others`."""
        # As by default: other tests run nodes that say less.
        settings = {"log_level": "info", **self.urls, **others}
        node = PinnedNode(self.new_folder("node"), settings, self.cores)
        async with running(node):
            yield node

    @asynccontextmanager
    async def nodes(self, count: int) -> AsyncIterator[list[PinnedNode]]:
        """Run several."""
        async with AsyncExitStack() as stack:
            yield [await stack.enter_async_context(self.node()) for _ in range(count)]

    async def fill(self, node: NodeProcess, zones: Mapping[str, int]) -> None:
        """Make zones with so many users each, over HTTP; those that are there stay."""
        async with httpx.AsyncClient(base_url=node.url, timeout=HTTP_TIMEOUT_S) as http:
            first = int((await http.get("/users/count")).raise_for_status().json()["count"])
            rows: list[dict[str, Any]] = []
            for zone_id, count in zones.items():
                made = await http.post("/zones", json={"zone_id": zone_id, "name": zone_id})
                if made.status_code == httpx.codes.CONFLICT:
                    continue
                made.raise_for_status()
                for _ in range(count):
                    number = first + len(rows) + 1
                    name = f"User {number}"
                    rows.append({"global_id": number, "name": name, "zone_id": zone_id})
            for begin in range(0, len(rows), _BULK_ROWS):
                batch = {"users": rows[begin : begin + _BULK_ROWS]}
                (await http.post("/users/bulk", json=batch)).raise_for_status()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """Open a connection to the database."""
        connection = await asyncpg.connect(self.postgres.libpq_url)
        try:
            yield connection
        finally:
            await connection.close()

    async def wait_alone(self, connection: Any) -> None:
        """Wait until this connection is the only one: then all others have told what they did.

        PostgreSQL's statistics of a connection may be ten seconds late, until it ends. Bounded.
        """
        async with asyncio.timeout(ALONE_TIMEOUT_S):
            # The server tells nobody when a connection has ended.
            while await connection.fetchval(_OTHERS):  # noqa: ASYNC110
                await asyncio.sleep(ALONE_POLL_S)

    def publisher(self, pad_bytes: int = 0) -> AbstractAsyncContextManager[BusPublisher]:
        """Open a publisher that commits changes of `ZONE` and sends them over the bus."""
        return bus_publisher(self.postgres.url, self.redis.url, ZONE, pad_bytes)


@asynccontextmanager
async def raised() -> AsyncIterator[Stage]:
    """Start PostgreSQL and Redis off the server's core.

    Raises:
        MissingError: one of them is not here.
    """
    postgres_binaries, redis_binaries = find_postgres(), find_redis()
    if postgres_binaries is None or redis_binaries is None:
        raise MissingError("needs PostgreSQL and Redis: `python3 dev.py test` installs them")
    cores = Cores.of_machine()
    scratch = await asyncio.to_thread(Scratch)
    try:
        async with AsyncExitStack() as stack:
            stack.enter_context(cores.left_to_server())
            postgres = await Postgres(postgres_binaries, scratch).start_server()
            stack.push_async_callback(postgres.stop)
            redis = await start_redis(redis_binaries, scratch)
            stack.push_async_callback(redis.stop)
            await postgres.create_database(DATABASE)
            await upgrade(postgres.url)
            yield Stage(cores, scratch, postgres, redis)
    finally:
        await asyncio.to_thread(scratch.close)


@asynccontextmanager
async def running(server: ServerProcess) -> AsyncIterator[None]:
    """Run a server inside the block; raises `ServerStartError`."""
    await server.start()
    try:
        yield
    finally:
        await server.kill()


@dataclass(frozen=True, slots=True)
class Side:
    """One server that takes part, ready for its crowd.

    Attributes:
        pids: Its processes.
        crowd: How subscribers come to it.
        publisher: Where its changes come from.
    """

    pids: Sequence[int]
    crowd: CrowdPlan
    publisher: Publisher


Opening = Callable[[Stage], AbstractAsyncContextManager[Side]]
"""Starts a server for one repetition."""


@asynccontextmanager
async def ours(
    stage: Stage, *, is_sse: bool = False, pad_bytes: int = 0, **settings: object
) -> AsyncIterator[Side]:
    """Run one node of ours with a zone, and default settings but for those that are given."""
    async with stage.node(**settings) as node:
        await stage.fill(node, {ZONE: USERS})
        async with stage.publisher(pad_bytes=pad_bytes) as publisher:
            yield Side(family(node.pid), our_crowd(node.port, is_sse=is_sse), publisher)


def our_crowd(port: int, zone_id: str = ZONE, *, is_sse: bool = False) -> CrowdPlan:
    """Plan subscribers of a zone as SDKs come: connect, and subscribe when that is answered."""
    if is_sse:
        return CrowdPlan(port, f"/sse?zone={zone_id}", is_sse=True, ready=SNAPSHOT)
    sends = (CONNECT, SUBSCRIBE % zone_id)
    return CrowdPlan(port, "/connection/websocket", sends=sends, ready=SUBSCRIBED)
