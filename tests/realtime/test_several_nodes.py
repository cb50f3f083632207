"""Several nodes on one PostgreSQL and one Redis: what one commits, the watchers of all see."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from channels.digest import digest_users
from tests.realtime.conftest import LiveNode, serving
from tests.realtime.plain_client import PlainClient, plain_client

if TYPE_CHECKING:
    from realtime.settings import Settings
    from tests.servers import RedisServer


@dataclass
class Cluster:
    """Nodes with an HTTP client each."""

    nodes: list[LiveNode]
    http: list[httpx.AsyncClient]

    async def make(self, *zones: str, users: int) -> list[int]:
        """Make zones, and users in the first of them; return their ids."""
        for zone in zones:
            answer = await self.http[0].post("/zones", json={"zone_id": zone, "name": zone})
            assert answer.status_code == 201, answer.text
        rows = [{"global_id": n, "name": f"u{n}", "zone_id": zones[0]} for n in range(1, users + 1)]
        answer = await self.http[0].post("/users/bulk", json={"users": rows})
        assert answer.status_code == 201, answer.text
        return [user["id"] for user in answer.json()["users"]]

    async def move(self, node: int, user_id: int, zone: str | None) -> httpx.Response:
        """Move a user through one of the nodes."""
        answer = await self.http[node].post(f"/users/{user_id}/transfer", json={"zone_id": zone})
        assert answer.status_code == 200, answer.text
        return answer


async def started(stack: AsyncExitStack, count: int, settings: Settings) -> Cluster:
    """Start nodes that share database and Redis."""
    nodes = [await stack.enter_async_context(serving(settings)) for _ in range(count)]
    http = [await stack.enter_async_context(httpx.AsyncClient(base_url=live.url)) for live in nodes]
    return Cluster(nodes, http)


@pytest.fixture
async def cluster(
    postgres_url: str, redis_url: str, make_settings: Callable[..., Settings]
) -> AsyncIterator[Cluster]:
    """Three nodes."""
    settings = make_settings(database_url=postgres_url, redis_url=redis_url, pool_size=5)
    async with AsyncExitStack() as stack:
        yield await started(stack, 3, settings)


async def test_a_write_on_one_node_is_seen_by_watchers_of_all(cluster: Cluster) -> None:
    """Three nodes, three watchers, one commit each."""
    ids = await cluster.make("A", "B", users=3)
    async with AsyncExitStack() as stack:
        watchers = [
            await stack.enter_async_context(plain_client(live.ws_url, "zone:A", "zone:B"))
            for live in cluster.nodes
        ]
        for node, user_id in enumerate(ids):
            await cluster.move(node, user_id, "B")
        for watcher in watchers:
            await watcher.until(lambda w: w.user_ids("zone:B") == set(ids))
            assert watcher.user_ids("zone:A") == set()
        answers = [await http.get("/zones/B/snapshot") for http in cluster.http]
        digest = digest_users((user_id, 2) for user_id in ids)
        assert {answer.json()["digest"] for answer in answers} == {digest}


async def test_the_bus_brings_changes_without_a_read_of_the_database(cluster: Cluster) -> None:
    """In steady state no node repairs from the log."""
    ids = await cluster.make("A", "B", users=1)
    async with plain_client(cluster.nodes[2].ws_url, "zone:A", "zone:B") as watcher:
        for step in range(50):
            await cluster.move(0, ids[0], "B" if step % 2 == 0 else "A")
        await watcher.until(lambda w: w.positions["zone:B"][1] == 50)
        metrics = (await cluster.http[2].get("/metrics")).text
    repairs = [line for line in metrics.splitlines() if line.startswith("zonecast_repairs_total")]
    assert not [line for line in repairs if not line.endswith(" 0.0")], repairs


async def test_a_transaction_over_two_zones_is_one_frame_on_every_node(cluster: Cluster) -> None:
    """Nobody who watches both sees a moving user in both or in neither."""
    ids = await cluster.make("A", "B", users=2)
    async with AsyncExitStack() as stack:
        watchers = [
            await stack.enter_async_context(plain_client(live.ws_url, "zone:A", "zone:B"))
            for live in cluster.nodes
        ]
        for step in range(30):
            await cluster.move(step % 3, ids[0], "B" if step % 2 == 0 else "A")
        for watcher in watchers:
            await watcher.until(lambda w: w.positions["zone:B"][1] == 30)
            for frame in watcher.frames:
                assert whole_transactions(frame)


def whole_transactions(frame: list[dict[str, Any]]) -> bool:
    """Every transaction in a frame has both of its parts in it."""
    parts: dict[str, set[str]] = {}
    for line in frame:
        if "pub" in line.get("push", {}):
            push = line["push"]
            parts.setdefault(push["pub"]["data"]["tx"], set()).add(push["channel"])
    return all(channels == {"zone:A", "zone:B"} for channels in parts.values())


async def test_a_client_resumes_on_another_node(cluster: Cluster) -> None:
    """The position is the database's, not the node's."""
    ids = await cluster.make("A", "B", users=3)
    async with plain_client(cluster.nodes[0].ws_url, "zone:A") as first:
        before = (first.positions["zone:A"], dict(first.zones["zone:A"]))
    for user_id in ids[:2]:
        await cluster.move(1, user_id, "B")
    async with plain_client(cluster.nodes[2].ws_url) as second:
        second.positions["zone:A"], second.zones["zone:A"] = before
        reply = await second.subscribe("zone:A", recover=True)
        assert reply["subscribe"]["recovered"] is True
        assert len(reply["subscribe"]["publications"]) == 2
        assert second.user_ids("zone:A") == {ids[2]}


async def test_a_large_batch_reaches_all_nodes_whole(cluster: Cluster) -> None:
    """A change over the size of a bus message travels as a position and is read from the log."""
    ids = await cluster.make("A", "B", users=1000)
    moves = [{"user_id": user_id, "zone_id": "B"} for user_id in ids]
    async with AsyncExitStack() as stack:
        watchers = [
            await stack.enter_async_context(plain_client(live.ws_url, "zone:A", "zone:B"))
            for live in cluster.nodes
        ]
        answer = await cluster.http[0].post("/transfers", json={"transfers": moves})
        assert answer.status_code == 200, answer.text
        for watcher in watchers:
            await watcher.until(lambda w: w.user_ids("zone:B") == set(ids))
            assert watcher.user_ids("zone:A") == set()
            assert all(whole_transactions(frame) for frame in watcher.frames)


async def test_a_read_with_min_sees_the_write_on_every_node(cluster: Cluster) -> None:
    """The positions that a write answers are good for reads anywhere."""
    ids = await cluster.make("A", "B", users=1)
    for step in range(20):
        answer = await cluster.move(step % 3, ids[0], "B" if step % 2 == 0 else "A")
        positions = dict(
            item.strip().split("=") for item in answer.headers["Zonecast-Positions"].split(",")
        )
        there = "B" if step % 2 == 0 else "A"
        for http in cluster.http:
            snapshot = await http.get(
                f"/zones/{there}/snapshot", params={"min": positions[f"zone:{there}"]}
            )
            assert [user["id"] for user in snapshot.json()["users"]] == ids


async def test_a_subscribe_with_min_sees_the_write_on_every_node(cluster: Cluster) -> None:
    """The header of a write's response, as it is, and nothing older is told on any node."""
    ids = await cluster.make("A", "B", users=1)
    async with AsyncExitStack() as stack:
        for live in cluster.nodes:  # Replicas that may lag.
            await stack.enter_async_context(plain_client(live.ws_url, "zone:A", "zone:B"))
        others = [
            await stack.enter_async_context(plain_client(live.ws_url)) for live in cluster.nodes
        ]
        for step in range(12):
            there = "BA"[step % 2]
            answer = await cluster.move(step % 3, ids[0], there)
            data = {"min": answer.headers["Zonecast-Positions"]}
            for other in others:
                request = {"channel": f"zone:{there}", "data": data}
                reply = await other.ask(subscribe=request)
                assert [user["id"] for user in reply["subscribe"]["data"]["users"]] == ids
                await other.ask(unsubscribe={"channel": f"zone:{there}"})


async def test_with_redis_gone_writes_succeed_and_changes_still_arrive(
    postgres_url: str, own_redis: RedisServer, make_settings: Callable[..., Settings]
) -> None:
    """Head checks bring what the bus can't; when Redis is back, nothing is lost or doubled."""
    settings = make_settings(database_url=postgres_url, redis_url=own_redis.url, pool_size=5)
    async with AsyncExitStack() as stack:
        cluster = await started(stack, 2, settings)
        ids = await cluster.make("A", "B", users=1)
        watcher: PlainClient = await stack.enter_async_context(
            plain_client(cluster.nodes[1].ws_url, "zone:A", "zone:B")
        )
        await own_redis.stop()
        for step in range(5):
            await cluster.move(0, ids[0], "B" if step % 2 == 0 else "A")
        await watcher.until(lambda w: w.positions["zone:B"][1] == 5)
        ready = await cluster.http[1].get("/readyz")
        assert ready.status_code == 503
        await own_redis.start()
        while (await cluster.http[1].get("/readyz")).status_code != 200:  # noqa: ASYNC110 - polled
            await asyncio.sleep(0.02)
        for step in range(5, 9):
            await cluster.move(0, ids[0], "B" if step % 2 == 0 else "A")
        await watcher.until(lambda w: w.positions["zone:B"][1] == 9)
        assert watcher.user_ids("zone:B") == set(ids)
        assert watcher.user_ids("zone:A") == set()


async def test_a_node_starts_and_serves_while_redis_is_down(
    postgres_url: str, own_redis: RedisServer, make_settings: Callable[..., Settings]
) -> None:
    """The fast path is no condition; readiness tells."""
    await own_redis.stop()
    settings = make_settings(database_url=postgres_url, redis_url=own_redis.url, pool_size=5)
    async with AsyncExitStack() as stack:
        cluster = await started(stack, 1, settings)
        ids = await cluster.make("A", "B", users=1)
        async with plain_client(cluster.nodes[0].ws_url, "zone:A", "zone:B") as watcher:
            await cluster.move(0, ids[0], "B")
            await watcher.until(lambda w: w.user_ids("zone:B") == set(ids))
        ready = await cluster.http[0].get("/readyz")
        assert ready.status_code == 503
        assert "bus" in ready.text
