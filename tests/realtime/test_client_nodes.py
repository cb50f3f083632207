"""The Python client against real nodes on PostgreSQL and Redis: killed, restarted, renewed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from channels.positions import Position
from db.engine import Database
from db.epochs import renew_epochs
from realtime.client import Changed, Replaced, Watch, WatchOptions, watch
from realtime.configuration import database_config
from tests.clients.tcp_proxy import tcp_proxy
from tests.nodes import NodeProcess, running_nodes
from tests.realtime.conftest import LiveNode, serving, settings_of_test

QUICK = WatchOptions(backoff_max_s=0.3)
ZONES = ("A", "B")


@pytest.fixture
async def nodes(
    postgres_url: str, redis_url: str, tmp_path: Path
) -> AsyncIterator[list[NodeProcess]]:
    """Two nodes with two zones, and a user in A."""
    settings = {"database_url": postgres_url, "redis_url": redis_url}
    async with running_nodes(tmp_path, 2, settings) as running:
        await furnish(running[0])
        yield running


@pytest.fixture
async def live_nodes(postgres_url: str, redis_url: str) -> AsyncIterator[list[LiveNode]]:
    """The same in the test's own loop, for what needs no death: they start at once."""
    settings = settings_of_test(database_url=postgres_url, redis_url=redis_url, pool_size=5)
    async with serving(settings) as first, serving(settings) as second:
        await furnish(first)
        yield [first, second]


def client_of(node: NodeProcess | LiveNode) -> httpx.AsyncClient:
    """Make a client of a node."""
    # Without TLS: to read the certificates takes longer than the requests.
    return httpx.AsyncClient(base_url=node.url, timeout=30, verify=False)  # noqa: S501 - loopback


async def furnish(node: NodeProcess | LiveNode) -> None:
    """Make two zones, and a user in A."""
    async with client_of(node) as http:
        for zone_id in ZONES:
            made = await http.post("/zones", json={"zone_id": zone_id, "name": zone_id})
            assert made.status_code == 201
        user = {"global_id": 1, "name": "Ada", "zone_id": "A"}
        assert (await http.post("/users", json=user)).status_code == 201


async def move(node: NodeProcess | LiveNode, zone_id: str) -> Mapping[str, Position]:
    """Move the user, and return where that took the zones."""
    async with client_of(node) as http:
        (user,) = (await http.get("/users")).json()["users"]
        moved = await http.post(f"/users/{user['id']}/transfer", json={"zone_id": zone_id})
        assert moved.status_code == 200, moved.text
        items = (item.split("=") for item in moved.headers["Zonecast-Positions"].split(", "))
        return {name.removeprefix("zone:"): Position.parse(position) for name, position in items}


async def assert_as_in_the_tables(zones: Watch, url: str) -> None:
    """The zones' users are the rows."""
    engine = create_async_engine(url)
    async with engine.connect() as connection:
        rows = list(await connection.execute(text("SELECT id, zone_id, version FROM users")))
    await engine.dispose()
    seen = {
        (user.id, zone.zone_id, user.version)
        for zone in zones.values()
        for user in zone.users.values()
    }
    assert seen == set(map(tuple, rows))


async def test_a_killed_nodes_watchers_go_on_at_another_node(
    nodes: list[NodeProcess], postgres_url: str
) -> None:
    """From their positions, with each transaction once, also those that they missed."""
    first, second = nodes
    async with tcp_proxy(first.port) as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        async with watch(url, ZONES, options=QUICK) as zones:
            here = zones.node
            assert await zones.wait_for(await move(second, "B"), 10)
            await first.kill()
            proxy.target_port = second.port
            positions: Mapping[str, Position] = {}
            for target in ("A", "B", "A"):
                positions = await move(second, target)
            assert await zones.wait_for(positions, 20)
            assert zones.node != here
            assert (zones.resumed, zones.renewed) == (2, 0)
            revs: dict[str, list[int]] = {zone_id: [] for zone_id in ZONES}
            while any(seen[-1:] != [positions[zone].rev] for zone, seen in revs.items()):
                update = await anext(zones)
                if isinstance(update, Changed):
                    assert sorted(update.zone_ids) == ["A", "B"]
                    for part in update.parts:
                        revs[part.channel.removeprefix("zone:")].append(part.rev)
            for seen in revs.values():
                assert seen == list(range(seen[0], seen[0] + 4))
            await assert_as_in_the_tables(zones, postgres_url)
            for zone_id in ZONES:
                assert await zones.check(zone_id)


async def test_a_node_that_drains_hands_its_watchers_over(
    nodes: list[NodeProcess], postgres_url: str
) -> None:
    """They come back by themselves, and nothing is told twice."""
    first, second = nodes
    async with tcp_proxy(first.port) as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        async with watch(url, ZONES, options=QUICK) as zones:
            proxy.target_port = second.port
            await first.stop()
            positions = await move(second, "B")
            assert await zones.wait_for(positions, 20)
            assert zones.connections == 2
            assert zones.renewed == 0
            await assert_as_in_the_tables(zones, postgres_url)


async def test_renewed_epochs_replace_the_states(
    live_nodes: list[LiveNode], postgres_url: str
) -> None:
    """What was written by hand is then seen, and nothing of before stays."""
    async with watch(live_nodes[0].url, ZONES, options=QUICK) as zones:
        engine = create_async_engine(postgres_url)
        async with engine.begin() as connection:
            await connection.execute(text("UPDATE users SET zone_id = 'B', name = 'Eve'"))
        await engine.dispose()
        await renewed(postgres_url)
        waiting = set(ZONES)
        while waiting:
            update = await anext(zones)
            if isinstance(update, Replaced) and update.reason == "renewed":
                waiting -= set(update.zone_ids)
        await assert_as_in_the_tables(zones, postgres_url)
        assert [user.name for user in zones["B"].users.values()] == ["Eve"]


async def renewed(url: str) -> None:
    """Do what `zonecast resync` does."""
    database = Database(database_config(settings_of_test(database_url=url)))
    try:
        await renew_epochs(database)
    finally:
        await database.close()


async def test_a_minimum_is_never_shown_less_than(live_nodes: list[LiveNode]) -> None:
    """What was written at one node is there at the other's first state."""
    first, second = live_nodes
    async with watch(second.url) as zones:
        for target in ("B", "A", "B", "A"):
            positions = await move(first, target)
            zones.add(target, positions[target])
            assert await zones.wait_for({target: positions[target]}, 10)
            while not isinstance(update := await anext(zones), Replaced):
                pass
            (state,) = update.zones
            assert state.position.covers(positions[target])
            assert len(state.users) == 1
            zones.remove(target)


async def test_no_user_is_ever_seen_in_two_zones_or_in_none_while_the_connection_is_cut(
    live_nodes: list[LiveNode],
) -> None:
    """Whatever is told, the picture is whole by then, over cuts and resumes as well."""
    port = int(live_nodes[0].url.rpartition(":")[2])
    async with tcp_proxy(port) as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        async with watch(url, ZONES, options=QUICK) as zones:

            async def move_on() -> Mapping[str, Position]:
                positions: Mapping[str, Position] = {}
                for number in range(30):
                    positions = await move(live_nodes[1], "BA"[number % 2])
                    if number % 5 == 0:
                        proxy.cut()
                return positions

            async def look_on() -> None:
                async for _ in zones:
                    places.add(sum(len(zone.users) for zone in zones.values()))

            places: set[int] = set()
            async with asyncio.TaskGroup() as tasks:
                looking = tasks.create_task(look_on())
                assert await zones.wait_for(await move_on(), 20)
                looking.cancel()
            assert places == {1}
            assert zones.resumed >= 2
