"""Redis fails over by its Sentinel, by itself and on command, while nodes use it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import httpx
import pytest

from tests.conftest import migrate_to_head
from tests.faults.cluster import Cluster, running_cluster
from tests.faults.report import tell
from tests.faults.scenario import Plan, Scenario
from tests.faults.violations import Bounds
from tests.processes import Scratch
from tests.realtime.plain_client import PlainClient, plain_client
from tests.sentinels import running_trio
from tests.servers import DATABASE, Binaries, Postgres

FRESH_WITHIN_S = Bounds().staleness_s
"""The promise with its margin for a busy machine."""
USUAL_WITHIN_S = 1.0
DOWN_AFTER_S = 1.0


@pytest.fixture(scope="module")
async def cluster(
    postgres: Postgres, redis_binaries: Binaries, scratch: Scratch
) -> AsyncIterator[Cluster]:
    """Nodes on a PostgreSQL of their own, and on a Redis that a Sentinel watches."""
    async with AsyncExitStack() as stack:
        database = await postgres.start_server()
        stack.push_async_callback(database.stop)
        await database.create_database(DATABASE)
        await migrate_to_head(database.url)
        trio = await stack.enter_async_context(running_trio(redis_binaries, scratch, DOWN_AFTER_S))
        folder = scratch.new_folder("nodes")
        yield await stack.enter_async_context(running_cluster(folder, database, trio, 2))


async def rename(http: httpx.AsyncClient, watcher: PlainClient, is_over: asyncio.Event) -> int:
    """Change a zone ten times a second; each has its usual time, and arrives in time, once."""
    count = 0
    while not is_over.is_set():
        began_s = time.monotonic()
        answer = await http.patch("/zones/A", json={"name": f"name {count}"})
        assert answer.is_success, answer.text
        assert time.monotonic() - began_s < USUAL_WITHIN_S
        count += 1
        async with asyncio.timeout(FRESH_WITHIN_S):
            # The client asserts that no revision is missing or comes twice.
            await watcher.until(lambda w: w.positions["zone:A"][1] == count)  # noqa: B023
        await asyncio.sleep(0.1)
    return count


async def test_nodes_go_where_the_sentinel_sends_them_and_nobody_misses_anything(
    cluster: Cluster,
) -> None:
    """The primary is killed; the replica takes over; the old one comes back as a replica."""
    assert cluster.trio is not None
    writing, watched = (member.process for member in cluster.members)
    is_over = asyncio.Event()
    async with (
        httpx.AsyncClient(base_url=writing.url, trust_env=False, timeout=30) as http,
        asyncio.TaskGroup() as tasks,
    ):
        answer = await http.post("/zones", json={"zone_id": "A", "name": "A"})
        assert answer.is_success
        ws_url = f"ws://127.0.0.1:{watched.port}/ws"
        async with plain_client(ws_url, "zone:A") as watcher:
            renaming = tasks.create_task(rename(http, watcher, is_over))
            await cluster.trio.primary.kill()
            await cluster.trio.until_taken_over()
            assert await cluster.until_ready()
            await cluster.trio.replica.start()
            await asyncio.sleep(1)
            assert await cluster.until_ready()
            is_over.set()
            assert await renaming > 10
    cluster.redis = cluster.trio.primary


async def test_all_promises_hold_while_redis_fails_over_on_command(cluster: Cluster) -> None:
    """Clients of all kinds, whose histories are judged."""
    plan = Plan(11, 6, ["redis failed over"], websockets=4, javascript=0)
    outcome = await Scenario(cluster, plan, None).run()
    assert not outcome.violations, "\n".join(tell(outcome))
    assert outcome.operations > 40
    assert outcome.faults == {"redis failed over": 1}
