"""Redis fails in every way it can: writes go on, and every watcher has each change in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import httpx
import pytest
from redis.asyncio import Redis

from tests.conftest import migrate_to_head
from tests.faults.deaf_proxy import DeafProxy, deaf_proxy
from tests.faults.redis_faults import overrun_subscribers
from tests.faults.violations import Bounds
from tests.nodes import NodeProcess
from tests.processes import Scratch
from tests.realtime.plain_client import PlainClient, plain_client
from tests.servers import (
    DATABASE,
    Binaries,
    Postgres,
    PostgresServer,
    RedisServer,
    start_redis,
)

FRESH_WITHIN_S = Bounds().staleness_s
"""The promise with its margin for a busy machine."""
DEAF_WITHIN_S = 5.0
MARGIN_S = 2.0
MENDED_WITHIN_S = 20.0
REDIS_TIMEOUT_S = 1.0
HERE, THERE = "zone:A", "zone:B"


@dataclass
class Rig:
    """Two nodes: one is written to, the other is watched, and reaches Redis through a proxy.

    Attributes:
        zone: Where the user is.
        revs: The zones' revisions after the last write.
        writes_s: How long each write took.
    """

    postgres: PostgresServer
    redis: RedisServer
    proxy: DeafProxy
    writing: NodeProcess
    watched: NodeProcess
    http: httpx.AsyncClient
    user_id: int = 0
    zone: str = "A"
    revs: dict[str, int] = field(default_factory=dict)
    writes_s: list[float] = field(default_factory=list)

    async def set_up(self) -> None:
        """Make two zones, and a user in the first."""
        for zone in ("A", "B"):
            await self.posted("/zones", {"zone_id": zone, "name": zone})
        row = {"global_id": 1, "name": "Ada", "zone_id": "A"}
        self.user_id = (await self.posted("/users", row)).json()["id"]

    async def posted(self, path: str, body: object) -> httpx.Response:
        """Write, and be sure of it."""
        answer = await self.http.post(path, json=body)
        assert answer.is_success, answer.text
        return answer

    async def move(self) -> None:
        """Move the user to the other zone."""
        self.zone = "B" if self.zone == "A" else "A"
        began_s = time.monotonic()
        answer = await self.posted(f"/users/{self.user_id}/transfer", {"zone_id": self.zone})
        self.writes_s.append(time.monotonic() - began_s)
        for item in answer.headers["Zonecast-Positions"].split(","):
            channel, _, position = item.strip().partition("=")
            self.revs[channel] = int(position.rpartition(":")[2])

    async def moved(self, watcher: PlainClient, count: int, pause_s: float = 0.1) -> None:
        """Move the user several times; the watcher has to have each in time, and once."""
        for _ in range(count):
            await self.move()
            await arrived(watcher, self.revs)
            assert watcher.user_ids(f"zone:{self.zone}") == {self.user_id}
            await asyncio.sleep(pause_s)

    async def until_ready(self) -> None:
        """Wait, bounded, until both nodes are."""
        for node in (self.writing, self.watched):
            await until(node.answers, MENDED_WITHIN_S)

    async def brought_by_the_bus(self, watcher: PlainClient) -> None:
        """See that changes come as fast as before: half a dozen within a moment."""
        began_s = time.monotonic()
        await self.moved(watcher, 10, pause_s=0)
        # By head checks alone it would be half of their interval for each.
        assert time.monotonic() - began_s < 2.0


async def arrived(watcher: PlainClient, revs: dict[str, int]) -> None:
    """Wait for revisions; the client itself asserts that none is missing or comes twice."""
    async with asyncio.timeout(FRESH_WITHIN_S):
        await watcher.until(lambda w: {c: w.positions[c][1] for c in (HERE, THERE)} == revs)


async def until(holds: Callable[[], Awaitable[bool]], within_s: float) -> float:
    """Ask until something holds; return how long it took."""
    began_s = time.monotonic()
    async with asyncio.timeout(within_s):
        # Servers and nodes tell in no other way.
        while not await holds():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return time.monotonic() - began_s


@pytest.fixture(scope="module")
async def rig(postgres: Postgres, redis_binaries: Binaries, scratch: Scratch) -> AsyncIterator[Rig]:
    """Two nodes on a PostgreSQL and a Redis of their own, which may be broken."""
    async with AsyncExitStack() as stack:
        database = await postgres.start_server()
        stack.push_async_callback(database.stop)
        await database.create_database(DATABASE)
        await migrate_to_head(database.url)
        redis = await start_redis(redis_binaries, scratch)
        stack.push_async_callback(redis.stop)
        proxy = await stack.enter_async_context(deaf_proxy(redis.port))
        nodes = []
        for name, url in (("a", redis.url), ("b", f"redis://127.0.0.1:{proxy.port}/0")):
            settings: dict[str, object] = {
                "database_url": database.url,
                "redis_url": url,
                "redis_timeout_s": REDIS_TIMEOUT_S,
                "log_level": "info",
                "pool_size": 5,
            }
            nodes.append(NodeProcess(scratch.new_folder(f"node-{name}"), settings))
            stack.push_async_callback(nodes[-1].stop)
        await asyncio.gather(*(node.start() for node in nodes))
        http = httpx.AsyncClient(base_url=nodes[0].url, trust_env=False, timeout=30)
        await stack.enter_async_context(http)
        rig = Rig(database, redis, proxy, nodes[0], nodes[1], http)
        await rig.set_up()
        yield rig


@asynccontextmanager
async def watching(rig: Rig) -> AsyncIterator[PlainClient]:
    """Watch both zones on the watched node, when all is well, and forget how long writes took."""
    await rig.until_ready()
    async with plain_client(f"ws://127.0.0.1:{rig.watched.port}/ws", HERE, THERE) as watcher:
        await rig.moved(watcher, 2)
        rig.writes_s.clear()
        yield watcher


def logged(node: NodeProcess) -> list[str]:
    """Return what a node logged, but for the line that each request gets."""
    lines = node.log_tail(10_000_000).splitlines()
    return [line for line in lines if '"zonecast.http"' not in line]


async def test_writes_take_their_usual_time_without_redis_and_the_log_stays_short(
    rig: Rig,
) -> None:
    """Thirty of them; watchers have each by the comparison of heads; an outage is one line."""
    async with watching(rig) as watcher:
        before = len(logged(rig.writing))
        await rig.redis.stop()
        try:
            for _ in range(30):
                await rig.move()
                await asyncio.sleep(0.1)
            await arrived(watcher, rig.revs)
            await rig.moved(watcher, 3, pause_s=0.5)
            assert max(rig.writes_s) < REDIS_TIMEOUT_S
            assert not await rig.writing.answers()
            lines = logged(rig.writing)[before:]
        finally:
            await rig.redis.start()
        assert len(lines) < 10, "\n".join(lines)
        assert len([line for line in lines if "cache: Redis does not serve" in line]) == 1
        await rig.until_ready()
        await rig.brought_by_the_bus(watcher)


async def test_a_hung_redis_costs_a_bounded_wait_once_and_not_each_request(rig: Rig) -> None:
    """Twenty writes, and reads of the cached dict on both nodes, while it answers nothing."""
    slow: list[tuple[str, float]] = []

    async def timed(what: str, request: Awaitable[httpx.Response]) -> httpx.Response:
        began_s = time.monotonic()
        answer = await request
        if (took_s := time.monotonic() - began_s) > REDIS_TIMEOUT_S / 2:
            slow.append((what, took_s))
        assert answer.is_success, answer.text
        return answer

    async with (
        watching(rig) as watcher,
        httpx.AsyncClient(base_url=rig.watched.url, trust_env=False, timeout=30) as other,
    ):
        rig.redis.sigstop()
        try:
            for _ in range(20):
                await rig.move()
                users = (await timed("read", rig.http.get("/users-dict"))).json()
                assert users["1"]["zone_id"] == rig.zone
                await timed("read elsewhere", other.get("/users-dict"))
                await asyncio.sleep(0.2)
            await arrived(watcher, rig.revs)
        finally:
            rig.redis.sigcont()
        # One for each node that reads, and one in case.
        assert len(slow) <= 3, slow
        assert max(rig.writes_s) < REDIS_TIMEOUT_S
        await rig.until_ready()
        await rig.brought_by_the_bus(watcher)


async def subscribers_of(redis: RedisServer) -> set[str]:
    """Return the ids of the connections that subscribe."""
    async with Redis(port=redis.port) as admin:
        clients = await admin.client_list(_type="pubsub")
    return {client["id"] for client in clients}


async def test_nobody_misses_anything_when_redis_cuts_its_subscribers(rig: Rig) -> None:
    """Their output buffers are overrun three times while there are writes."""
    async with watching(rig) as watcher, asyncio.TaskGroup() as tasks:
        writing = tasks.create_task(rig.moved(watcher, 30, pause_s=0.05))
        for _ in range(3):
            before = await subscribers_of(rig.redis)
            assert len(before) == 2
            await overrun_subscribers(rig.redis.port)

            async def are_back(before: set[str] = before) -> bool:
                now = await subscribers_of(rig.redis)
                return len(now) == 2 and not now & before

            await until(are_back, MENDED_WITHIN_S)
        await writing
        assert max(rig.writes_s) < REDIS_TIMEOUT_S
        await rig.until_ready()
        await rig.brought_by_the_bus(watcher)


async def test_a_deaf_node_notices_and_tells_clients_only_when_the_database_is_silent_too(
    rig: Rig,
) -> None:
    """By its own heartbeat; while the database answers, clients are live and miss nothing."""
    async with watching(rig) as watcher:
        rig.proxy.is_deaf = True
        try:

            async def says_deaf() -> bool:
                return "the bus is deaf" in await rig.watched.get("/readyz")

            assert await until(says_deaf, MENDED_WITHIN_S) < DEAF_WITHIN_S + MARGIN_S
            assert rig.proxy.swallowed_bytes > 0
            await rig.moved(watcher, 6, pause_s=0.4)
            assert await says_deaf()
            assert watcher.states == []
            rig.postgres.sigstop()
            try:
                async with asyncio.timeout(FRESH_WITHIN_S):
                    await watcher.until(lambda w: len(w.states) == 1)
            finally:
                rig.postgres.sigcont()
            assert watcher.states[0]["state"] == "stale"
            assert 0 < time.time() * 1000 - watcher.states[0]["since"] < 60_000
            async with asyncio.timeout(MENDED_WITHIN_S):
                await watcher.until(lambda w: len(w.states) == 2)
            assert watcher.states[1]["state"] == "live"
            await rig.moved(watcher, 2)
        finally:
            rig.proxy.is_deaf = False
        await rig.until_ready()
        await rig.brought_by_the_bus(watcher)
        assert len(watcher.states) == 2
