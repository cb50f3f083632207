"""The whole trace of a building, replayed at full speed and followed by clients of every make."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from channels.digest import digest_users
from realtime.trace import Reading, Trace
from tests.clients.screens import (
    Picture,
    Screen,
    event_stream,
    javascript_sdk,
    own_client,
    python_sdk,
    served_module,
    until_at,
)
from tests.clients.tcp_proxy import TcpProxy, tcp_proxy
from tests.nodes import NodeProcess

CUT_INTERVAL_S = 1.5


def zones_of(path: Path) -> list[str]:
    """Return all zones of a trace."""
    return sorted({item.zone_id for item in Trace(path) if isinstance(item, Reading)})


def last_seen(path: Path) -> dict[str, str]:
    """Return in which zone each badge is at the end."""
    return {item.badge: item.zone_id for item in Trace(path) if isinstance(item, Reading)}


async def replay(path: Path, url: str, window_s: int) -> str:
    """Run the command at full speed and return what it printed."""
    program = "from realtime.command import main; main()"
    options = ["--url", url, "--speed", "max", "--batch-window", str(window_s), "--strict"]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, "replay", str(path), *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    printed, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return printed.decode()


@asynccontextmanager
async def all_screens(
    nodes: list[NodeProcess], zones: Iterable[str], node_program: Path
) -> AsyncIterator[tuple[dict[str, Screen], list[TcpProxy]]]:
    """Open a screen of each make, spread over the nodes, each behind a proxy."""
    makes = {
        "javascript": javascript_sdk(node_program),
        "python": python_sdk,
        "own": own_client,
        "sse": event_stream,
        "module": served_module(node_program),
        "module by sse": served_module(node_program, transport="sse"),
    }
    async with AsyncExitStack() as stack:
        screens, proxies = {}, []
        for number, (name, make) in enumerate(makes.items()):
            target = nodes[number % len(nodes)].port
            proxy = await stack.enter_async_context(tcp_proxy(target))
            proxies.append(proxy)
            screens[name] = await stack.enter_async_context(make(proxy.port, list(zones)))
        yield screens, proxies


async def cut_again_and_again(proxies: list[TcpProxy], replaying: asyncio.Task[str]) -> None:
    """Cut one connection after the other for as long as the replay runs."""
    number = 0
    while not replaying.done():
        await asyncio.wait([replaying], timeout=CUT_INTERVAL_S)
        proxies[number % len(proxies)].cut()
        number += 1


async def read_database(
    url: str, node: NodeProcess, zones: list[str]
) -> tuple[dict[str, Picture], dict[str, str]]:
    """Return each zone, and the zone of each badge, as the tables have them."""
    pictures = {}
    async with httpx.AsyncClient(base_url=node.url, trust_env=False) as client:
        for zone in zones:
            body = (await client.get(f"/zones/{zone}/snapshot")).json()
            pictures[zone] = Picture(body["epoch"], body["rev"])
    places = {}
    engine = create_async_engine(url)
    async with engine.connect() as connection:
        rows = await connection.execute(text("SELECT id, name, zone_id, version FROM users"))
        for user_id, name, zone_id, version in rows:
            places[name] = zone_id
            pictures[zone_id].users[user_id] = version
    await engine.dispose()
    return pictures, places


async def replay_and_compare(
    nodes: list[NodeProcess], url: str, trace: Path, node_program: Path, window_s: int
) -> None:
    """Replay the trace into the first node and compare everybody's zones with the tables."""
    zones = await asyncio.to_thread(zones_of, trace)
    async with httpx.AsyncClient(base_url=nodes[0].url, trust_env=False) as client:
        for zone in zones:
            answer = await client.post("/zones", json={"zone_id": zone, "name": zone})
            assert answer.status_code == 201, answer.text
    async with all_screens(nodes, zones, node_program) as (screens, proxies):
        async with asyncio.TaskGroup() as tasks:
            replaying = tasks.create_task(replay(trace, nodes[0].url, window_s))
            tasks.create_task(cut_again_and_again(proxies, replaying))
        print(replaying.result())  # noqa: T201 - shown with `-s`, and when the test fails.
        assert f"{len(zones)} of {len(zones)} watched zones equal" in replaying.result()
        truth, places = await read_database(url, nodes[-1], zones)
        assert places == await asyncio.to_thread(last_seen, trace)
        revs = {zone: picture.rev for zone, picture in truth.items()}
        for name, screen in screens.items():
            pictures = await until_at(screen, revs)
            assert pictures == truth, name
            digests = {zone: digest_users(p.users.items()) for zone, p in pictures.items()}
            assert digests == {zone: digest_users(p.users.items()) for zone, p in truth.items()}
            assert screen.recoveries, f"{name} never lost its connection"


@pytest.mark.timeout(240)
async def test_three_nodes_and_all_clients_end_equal_to_the_database(
    three_nodes: list[NodeProcess], postgres_url: str, trace: Path, node: Path
) -> None:
    """PostgreSQL and Redis; connections are cut all the time, and no change is lost or doubled."""
    await replay_and_compare(three_nodes, postgres_url, trace, node, window_s=600)


@pytest.mark.timeout(240)
async def test_an_embedded_node_and_all_clients_end_equal_to_the_database(
    embedded_node: list[NodeProcess], sqlite_url: str, trace: Path, node: Path
) -> None:
    """SQLite and no servers, the same trace, the same end."""
    await replay_and_compare(embedded_node, sqlite_url, trace, node, window_s=600)
