"""Nodes as real processes on what production has: a Redis Cluster, and PgBouncer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.clusters import RedisCluster, running_cluster
from tests.nodes import NodeProcess, running_nodes
from tests.poolers import PgBouncer, find_pgbouncer, running_pgbouncer
from tests.processes import Scratch
from tests.realtime.command_line import zonecast
from tests.realtime.plain_client import plain_client
from tests.servers import Binaries, PostgresServer

WRITERS = 24


@pytest.fixture
async def redis_cluster(redis_binaries: Binaries, scratch: Scratch) -> AsyncIterator[RedisCluster]:
    """Three masters of the test's own."""
    async with running_cluster(redis_binaries, scratch) as cluster:
        yield cluster


@pytest.fixture
async def pooler(own_postgres: PostgresServer, scratch: Scratch) -> AsyncIterator[PgBouncer]:
    """A PgBouncer in front of a PostgreSQL of the test's own."""
    program = find_pgbouncer()
    if program is None:
        pytest.skip("requires PgBouncer: install pgbouncer")
    async with running_pgbouncer(program, scratch, own_postgres) as pooler:
        yield pooler


@pytest.fixture
async def clustered(
    redis_cluster: RedisCluster, postgres_url: str, tmp_path: Path
) -> AsyncIterator[list[NodeProcess]]:
    """Two nodes over the cluster."""
    settings = {"database_url": postgres_url, "redis_url": redis_cluster.url, "pool_size": 5}
    async with running_nodes(tmp_path, 2, settings) as nodes:
        yield nodes


@pytest.fixture
async def pooled(
    pooler: PgBouncer, own_postgres: PostgresServer, redis_url: str, tmp_path: Path
) -> AsyncIterator[list[NodeProcess]]:
    """Two nodes behind PgBouncer."""
    settings = {
        "database_url": pooler.url_of(),
        "database_direct_url": own_postgres.url,
        "redis_url": redis_url,
        "pool_size": 10,
    }
    async with running_nodes(tmp_path, 2, settings) as nodes:
        yield nodes


def socket_url(node: NodeProcess) -> str:
    """Return where a node's WebSockets are."""
    return node.url.replace("http://", "ws://") + "/connection/websocket"


async def make(http: httpx.AsyncClient, zones: list[str], users: int) -> list[int]:
    """Make zones, and users in the first of them; return their ids."""
    for zone in zones:
        answer = await http.post("/zones", json={"zone_id": zone, "name": zone})
        assert answer.status_code == 201, answer.text
    rows = [{"global_id": n, "name": f"u{n}", "zone_id": zones[0]} for n in range(1, users + 1)]
    answer = await http.post("/users/bulk", json={"users": rows})
    assert answer.status_code == 201, answer.text
    return [user["id"] for user in answer.json()["users"]]


async def repairs(http: httpx.AsyncClient) -> list[str]:
    """Return the lines of a node's metrics that tell of repairs from the log."""
    lines = (await http.get("/metrics")).text.splitlines()
    return [
        line
        for line in lines
        if line.startswith("zonecast_repairs_total") and not line.endswith(" 0.0")
    ]


async def test_a_cluster_brings_changes_to_the_watchers_of_another_node(
    redis_cluster: RedisCluster, clustered: list[NodeProcess]
) -> None:
    """By the bus, as no node reads the log; and on after a slot has moved."""
    writer, reader = clustered
    async with (
        httpx.AsyncClient(base_url=writer.url, timeout=10) as http,
        httpx.AsyncClient(base_url=reader.url, timeout=10) as other,
    ):
        ids = await make(http, ["A", "B", "C"], users=1)
        async with plain_client(socket_url(reader), "zone:A", "zone:B", "zone:C") as watcher:
            path = f"/users/{ids[0]}/transfer"
            for step in range(60):
                answer = await http.post(path, json={"zone_id": "BCA"[step % 3]})
                assert answer.status_code == 200, answer.text
            await watcher.until(lambda w: w.positions["zone:C"][1] >= 40)
            await watcher.until(lambda w: w.user_ids("zone:A") == set(ids))
            assert await repairs(other) == []
            source = await redis_cluster.owner_of("zonecast:c:zone:A")
            target = next(s for s in redis_cluster.servers if s is not source)
            await redis_cluster.move_slot("zonecast:c:zone:A", target)
            for zone in ("B", "A", "C"):
                answer = await http.post(path, json={"zone_id": zone})
                assert answer.status_code == 200, answer.text
            await watcher.until(lambda w: w.user_ids("zone:C") == set(ids))
            await watcher.until(lambda w: w.user_ids("zone:A") == set())
        users = [(await client.get("/users-dict")).json() for client in (http, other)]
        assert users[0] == users[1]
        assert users[0]["1"]["zone_id"] == "C"


async def test_nodes_behind_pgbouncer_converge_through_its_restart(
    pooler: PgBouncer, pooled: list[NodeProcess]
) -> None:
    """24 writers at once on two nodes; who watches ends with what the database has."""
    async with (
        httpx.AsyncClient(base_url=pooled[0].url, timeout=30) as one,
        httpx.AsyncClient(base_url=pooled[1].url, timeout=30) as other,
    ):
        ids = await make(one, ["A", "B"], users=WRITERS)

        async def write(http: httpx.AsyncClient, user_id: int) -> None:
            for step in range(10):
                answer = await http.post(
                    f"/users/{user_id}/transfer", json={"zone_id": "BA"[step % 2]}
                )
                # While PgBouncer is away: what it may say, and nothing else.
                assert answer.status_code in {200, 409, 503}, answer.text
                if answer.status_code == 503:
                    await asyncio.sleep(0.1)

        async with plain_client(socket_url(pooled[1]), "zone:A", "zone:B") as watcher:
            async with asyncio.TaskGroup() as group:
                for number, user_id in enumerate(ids):
                    group.create_task(write((one, other)[number % 2], user_id))
                await watcher.until(lambda w: w.positions["zone:B"][1] >= 30)
                await pooler.kill()
                await pooler.start()
            for user_id in ids[::2]:
                answer = await other.post(f"/users/{user_id}/transfer", json={"zone_id": "A"})
                assert answer.status_code == 200, answer.text
            for user_id in ids[1::2]:
                answer = await one.post(f"/users/{user_id}/transfer", json={"zone_id": "B"})
                assert answer.status_code == 200, answer.text
            await watcher.until(lambda w: w.user_ids("zone:A") == set(ids[::2]))
            await watcher.until(lambda w: w.user_ids("zone:B") == set(ids[1::2]))


async def test_a_pooler_without_the_direct_address_stops_the_start(
    pooler: PgBouncer, redis_url: str
) -> None:
    """With one line that says which setting is missing."""
    code, _, errors = await asyncio.to_thread(
        zonecast, "serve", "--port", "0", database_url=pooler.url_of(), redis_url=redis_url
    )
    assert code == 1
    lines = [line for line in errors.splitlines() if "pooler" in line]
    assert len(lines) == 1, errors
    assert "ZONECAST_DATABASE_DIRECT_URL" in lines[0]
    assert "Traceback" not in errors


async def test_a_direct_address_of_another_database_stops_the_start(
    pooler: PgBouncer, postgres_url: str, redis_url: str
) -> None:
    """Locks and head checks of another database would be worse than none."""
    settings = {"database_url": pooler.url_of(), "database_direct_url": postgres_url}
    code, _, errors = await asyncio.to_thread(
        zonecast, "serve", "--port", "0", redis_url=redis_url, **settings
    )
    assert code == 1
    assert "ZONECAST_DATABASE_DIRECT_URL is another database" in errors
    assert "Traceback" not in errors
