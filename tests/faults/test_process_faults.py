"""A node whose process or machine runs out of something, or whose clock jumps, serves on."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

from db.engine import Database, DatabaseConfig
from tests.db.replay import assert_log_makes_tables
from tests.faults.failpoints import BACK, CLOCK, FEW_DESCRIPTORS, FORTH, JUMP_S, MAX_DESCRIPTORS
from tests.nodes import NodeProcess
from tests.realtime.conftest import serving, settings_of_test
from tests.realtime.event_source import EventSource, event_source
from tests.realtime.plain_client import PlainClient, plain_client
from tests.realtime.raw_socket import raw_socket

FREE_S = 12.0
EXHAUSTED = "no file descriptors left"
UNLIMITED = resource.RLIM_INFINITY


@pytest.fixture
async def solo(sqlite_url: str, tmp_path: Path) -> AsyncIterator[NodeProcess]:
    """A node on SQLite, not started yet."""
    settings = {
        "database_url": sqlite_url,
        "head_check_interval_s": 0.1,
        "ping_interval_s": 0.5,
        "pong_timeout_s": 3,
        "retention_interval_s": 0.2,
        "retention_max_age_s": JUMP_S / 2,
        "pool_size": 5,
        "max_overflow": 0,
    }
    node = NodeProcess(tmp_path, settings)
    yield node
    await node.stop()


class Watched:
    """A node with the zone A, a writer, and a watcher of each kind."""

    def __init__(self, http: httpx.AsyncClient, socket: PlainClient, stream: EventSource) -> None:
        self.http = http
        self.socket = socket
        self.stream = stream

    async def write(self, name: str) -> None:
        """Change the zone, and have both watchers see exactly that."""
        rev = self.socket.positions["zone:A"][1] + 1
        answer = await self.http.patch("/zones/A", json={"name": name})
        assert answer.status_code == 200, answer.text
        await self.socket.until(lambda w: w.positions["zone:A"][1] == rev)
        (part,) = (await self.stream.next("changes"))["zones"]
        assert (part["rev"], part["events"][0]["zone"]["name"]) == (rev, name)


@asynccontextmanager
async def watched(url: str) -> AsyncIterator[Watched]:
    """Make the zone A on a node, and watch it."""
    async with AsyncExitStack() as stack:
        client = httpx.AsyncClient(base_url=url, trust_env=False)
        http = await stack.enter_async_context(client)
        assert (await http.post("/zones", json={"zone_id": "A", "name": "A"})).is_success
        ws_url = url.replace("http:", "ws:") + "/ws"
        socket = await stack.enter_async_context(plain_client(ws_url, "zone:A"))
        stream = await stack.enter_async_context(event_source(url, "A"))
        await stream.next("snapshot")
        yield Watched(http, socket, stream)


async def until_logged(node: NodeProcess, line: str) -> None:
    """Wait until a node's log ends with something."""
    while line not in node.log_tail():  # noqa: ASYNC110 - a file has no event
        await asyncio.sleep(0.05)


# File descriptors


async def test_a_node_without_descriptors_says_so_once_serves_its_clients_and_recovers(
    solo: NodeProcess,
) -> None:
    """Nobody else can connect meanwhile; whoever is connected notices nothing."""
    await solo.start()
    async with watched(solo.url) as world, AsyncExitStack() as stack:
        await world.write("before")
        limit = len(await asyncio.to_thread(os.listdir, f"/proc/{solo.pid}/fd")) + 20
        _, hard = resource.prlimit(solo.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(solo.pid, resource.RLIMIT_NOFILE, (limit, hard))
        for _ in range(40):
            await stack.enter_async_context(raw_socket(solo.port))
        async with asyncio.timeout(FREE_S):
            await until_logged(solo, EXHAUSTED)
        assert await solo.get("/healthz") == ""
        for number in range(20):
            await world.write(f"meanwhile {number}")
        await stack.aclose()
        async with asyncio.timeout(FREE_S):
            while not await solo.answers():  # noqa: ASYNC110 - a process has no event
                await asyncio.sleep(0.05)
            await until_logged(solo, "file descriptors are free again")
        await world.write("after")
        assert world.socket.states == []
    assert solo.log_tail(100_000).count(EXHAUSTED) == 1


async def test_a_node_takes_no_more_clients_than_it_has_descriptors_for(
    solo: NodeProcess,
) -> None:
    """One too many gets an answer, and all others can still use the service."""
    solo.failpoint = FEW_DESCRIPTORS
    await solo.start()
    async with AsyncExitStack() as stack:
        taken = 0
        for _ in range(MAX_DESCRIPTORS):
            client = await stack.enter_async_context(raw_socket(solo.port))
            head = await client.shake_hands()
            if b"101" not in head:
                break
            taken += 1
        assert b"503" in head
        # The pool's five and a hundred for everything else are kept.
        assert taken == MAX_DESCRIPTORS - 5 - 100
        assert await solo.answers()


# The clock


async def test_a_jumping_clock_harms_nobody(solo: NodeProcess, sqlite_url: str) -> None:
    """Hours forth and back: changes arrive, nobody is cut, and nothing is stale."""
    solo.failpoint = CLOCK
    await solo.start()
    async with watched(solo.url) as world:
        await world.write("at first")
        told_ms = [last_time_ms(world.socket)]
        for jump in (FORTH, FORTH, BACK, BACK, BACK, FORTH):
            os.kill(solo.pid, jump)
            # Some pings, head checks and passes of the retention go by.
            for number in range(3):
                await asyncio.sleep(0.2)
                await world.write(f"{jump} {number}")
            told_ms.append(last_time_ms(world.socket))
            assert await solo.answers(), await solo.get("/readyz")
        jumps = [round((b - a) / JUMP_S / 1000) for a, b in pairwise(told_ms)]
        assert jumps == [1, 1, -1, -1, -1, 1]
        assert world.socket.states == []
    # By its age, what was written before the clock jumped forth is kept no longer.
    assert await floor_of(sqlite_url, "zone:A") >= 1


async def floor_of(sqlite_url: str, channel: str) -> int:
    """Return up to which revision a channel's log was pruned."""
    database = Database(DatabaseConfig(url=sqlite_url))
    try:
        async with database.snapshot() as connection:
            query = text("SELECT floor FROM channel_heads WHERE channel = :channel")
            return int((await connection.execute(query, {"channel": channel})).scalar_one())
    finally:
        await database.close()


def last_time_ms(client: PlainClient) -> int:
    """Return when the last change happened, as its client was told."""
    publications = [
        line["push"]["pub"]
        for frame in client.frames
        for line in frame
        if "pub" in line.get("push", {})
    ]
    return int(publications[-1]["time"])


# The disk


async def test_a_full_disk_refuses_writes_and_nothing_else(
    solo: NodeProcess, sqlite_url: str
) -> None:
    """The file can't grow: each write is refused and leaves nothing, until there is room."""
    await solo.start()
    async with watched(solo.url) as world:
        await fill(world, lambda: limit_growth(solo))
        resource.prlimit(solo.pid, resource.RLIMIT_FSIZE, (UNLIMITED, UNLIMITED))
        await world.write("there is room")
        assert world.socket.states == []
    await solo.stop()
    assert "SQLITE_IOERR_WRITE" in solo.log_tail(100_000)
    await assert_whole(sqlite_url)


async def limit_growth(node: NodeProcess) -> None:
    """Let a node's files grow by no more than a few pages."""

    def sizes() -> list[int]:
        return [path.stat().st_size for path in node.folder.iterdir()]

    largest = max(await asyncio.to_thread(sizes))
    resource.prlimit(node.pid, resource.RLIMIT_FSIZE, (largest + 20_000, UNLIMITED))


async def test_a_database_that_may_not_grow_refuses_writes_and_nothing_else(
    sqlite_url: str,
) -> None:
    """The same when SQLite itself finds no room, which it calls a full disk."""
    async with serving(settings_of_test(database_url=sqlite_url)) as live:

        async def limit_pages(more: int) -> None:
            async with live.node.database.engine.connect() as connection:
                count = (await connection.execute(text("PRAGMA page_count"))).scalar_one()
                await connection.execute(text(f"PRAGMA max_page_count = {count + more}"))

        async with watched(live.url) as world:
            await fill(world, lambda: limit_pages(2))
            await limit_pages(100_000)
            await world.write("there is room")
    await assert_whole(sqlite_url)


async def fill(world: Watched, limit: Callable[[], Awaitable[None]]) -> None:
    """Write until there is no room, and on, while reads and watchers are served."""
    await world.write("before")
    await limit()
    statuses = []
    for number in range(1, 31):
        user = {"global_id": number, "name": "x" * 200, "zone_id": "A"}
        user["attributes"] = {"note": "x" * 5_000}
        answer = await world.http.post("/users", json=user)
        statuses.append(answer.status_code)
        if answer.status_code != 201:
            assert answer.status_code == 503, answer.text
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.headers["retry-after"]
            listed = await world.http.get(f"/users?global_id={number}")
            assert listed.status_code == 200
    assert statuses[-1] == 503, "it was never full"
    done = {n for n, status in enumerate(statuses, 1) if status == 201}
    snapshot = (await world.http.get("/zones/A/snapshot")).json()
    assert {user["global_id"] for user in snapshot["users"]} == done
    await world.socket.until(lambda w: len(w.zones["zone:A"]) == len(done))
    for _ in done:
        await world.stream.next("changes")


async def assert_whole(sqlite_url: str) -> None:
    """Insist that tables and log of a file agree, and that SQLite finds no damage."""
    database = Database(DatabaseConfig(url=sqlite_url))
    try:
        await assert_log_makes_tables(database)
        async with database.snapshot() as connection:
            assert (await connection.execute(text("PRAGMA integrity_check"))).scalars().all() == [
                "ok"
            ]
    finally:
        await database.close()
