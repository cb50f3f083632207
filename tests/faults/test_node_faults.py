"""Nodes that die in the middle of a write, and nodes that are stopped with many clients."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.conftest import fresh_database
from tests.faults.failpoints import AFTER_PUBLISH, BEFORE_PUBLISH
from tests.faults.violations import Bounds
from tests.nodes import NodeProcess, running_nodes
from tests.processes import Scratch
from tests.realtime.event_source import EventSource, event_source
from tests.realtime.plain_client import PlainClient, plain_client
from tests.servers import PostgresServer, RedisServer

FRESH_WITHIN_S = Bounds().staleness_s
"""The promise with its margin for a busy machine."""

CLIENTS = 320
DRAINED_PER_S = 160
SHUTDOWN_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Trio:
    """Two nodes that run, and one to be started by the test."""

    nodes: list[NodeProcess]
    doomed: NodeProcess


@pytest.fixture(scope="module")
async def trio(
    postgres_server: PostgresServer,
    postgres_template: str,
    redis_server: RedisServer,
    scratch: Scratch,
) -> AsyncIterator[Trio]:
    """Nodes on a PostgreSQL and a Redis that nobody breaks."""
    async with fresh_database(postgres_server, postgres_template) as url:
        settings: dict[str, object] = {
            "database_url": url,
            "redis_url": redis_server.url,
            "redis_prefix": "node-faults",
            "pool_size": 5,
            "drain_connections_per_s": DRAINED_PER_S,
            "shutdown_timeout_s": SHUTDOWN_TIMEOUT_S,
        }
        doomed = NodeProcess(scratch.new_folder("doomed"), settings)
        async with running_nodes(scratch.new_folder("nodes"), 2, settings) as nodes:
            yield Trio(nodes, doomed)
            await doomed.stop()


def client_of(node: NodeProcess) -> httpx.AsyncClient:
    """Open an HTTP client of a node."""
    return httpx.AsyncClient(base_url=node.url, trust_env=False)


def ws_url_of(node: NodeProcess) -> str:
    """Return the address of a node's WebSocket."""
    return f"ws://127.0.0.1:{node.port}/ws"


async def set_up(http: httpx.AsyncClient, *zones: str, first_global_id: int) -> list[int]:
    """Make zones and two users in the first; return their ids."""
    for zone in zones:
        await posted(http, "/zones", {"zone_id": zone, "name": zone})
    numbers = (first_global_id, first_global_id + 1)
    rows = [{"global_id": n, "name": f"u{n}", "zone_id": zones[0]} for n in numbers]
    answer = await posted(http, "/users/bulk", {"users": rows})
    return [user["id"] for user in answer.json()["users"]]


async def posted(http: httpx.AsyncClient, path: str, body: Any) -> httpx.Response:
    """Write, and be sure of it."""
    answer = await http.post(path, json=body)
    assert answer.is_success, answer.text
    return answer


async def entered(source: EventSource, zone_id: str) -> list[int]:
    """Read a stream until its next transaction; return the ids of the users who came."""
    changes = await source.next("changes")
    (part,) = [zone for zone in changes["zones"] if zone["zone_id"] == zone_id]
    return [event["user"]["id"] for event in part["events"] if event["type"] == "entered"]


@pytest.mark.parametrize(("failpoint", "number"), [(BEFORE_PUBLISH, 1), (AFTER_PUBLISH, 3)])
async def test_a_write_whose_node_dies_of_it_reaches_the_watchers_of_all_others_once(
    trio: Trio, failpoint: str, number: int
) -> None:
    """Nobody answers the write; by head checks or by the bus, everybody sees it."""
    here, there = f"A{number}", f"B{number}"
    doomed = trio.doomed
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(client_of(trio.nodes[0]))
        ada, bob = await set_up(http, here, there, first_global_id=number)
        doomed.failpoint = failpoint
        await doomed.start()
        sockets: list[PlainClient] = []
        streams: list[EventSource] = []
        for node in trio.nodes:
            watching = plain_client(ws_url_of(node), f"zone:{here}", f"zone:{there}")
            sockets.append(await stack.enter_async_context(watching))
            streams.append(await stack.enter_async_context(event_source(node.url, here, there)))
            for _ in (here, there):
                await streams[-1].next("snapshot")
        async with client_of(doomed) as writer:
            with pytest.raises(httpx.TransportError):
                await writer.post(f"/users/{ada}/transfer", json={"zone_id": there})
        async with asyncio.timeout(FRESH_WITHIN_S):
            for socket in sockets:
                await socket.until(lambda w: w.user_ids(f"zone:{there}") == {ada})
            assert [await entered(stream, there) for stream in streams] == [[ada], [ada]]
        assert await doomed.wait_exit() == -signal.SIGKILL
        doomed.failpoint = ""
        await doomed.start()
        async with client_of(doomed) as writer:
            snapshot = (await writer.get(f"/zones/{there}/snapshot")).json()
            assert [user["id"] for user in snapshot["users"]] == [ada]
            await posted(writer, f"/users/{bob}/transfer", {"zone_id": there})
        # The client asserts that no revision is missing or comes twice.
        for socket in sockets:
            await socket.until(lambda w: w.user_ids(f"zone:{there}") == {ada, bob})
        assert [await entered(stream, there) for stream in streams] == [[bob], [bob]]
    await doomed.stop()


@dataclass(slots=True)
class Wanderer:
    """A client that resumes on another node as soon as its own sends it away.

    Attributes:
        told_s: When that was.
        told_rev: How far it was by then.
    """

    told_s: float = 0.0
    told_rev: int = 0

    async def run(
        self, ready: asyncio.Barrier, urls: tuple[str, str], last: asyncio.Future[int]
    ) -> None:
        """Watch until the last revision, which is known only once nobody writes any more."""
        async with plain_client(urls[0], "zone:moving") as client:
            await ready.wait()
            assert await client.until_closed() == (3001, "shutdown")
        self.told_s = asyncio.get_running_loop().time()
        self.told_rev = client.positions["zone:moving"][1]
        async with plain_client(urls[1]) as second:
            second.positions, second.zones = client.positions, client.zones
            reply = await second.subscribe("zone:moving", recover=True)
            # What it missed, not the state; the client asserts that nothing is missing or double.
            assert reply["subscribe"]["recovered"]
            rev = await last
            await second.until(lambda w: w.positions["zone:moving"][1] == rev)


async def rename(http: httpx.AsyncClient, is_over: asyncio.Event) -> int:
    """Change the zone ten times a second until it is over; return its last revision."""
    rev = 0
    while not is_over.is_set():
        answer = await http.patch("/zones/moving", json={"name": f"name {rev}"})
        positions = dict(
            item.strip().split("=") for item in answer.headers["Zonecast-Positions"].split(",")
        )
        rev = int(positions["zone:moving"].rpartition(":")[2])
        await asyncio.sleep(0.1)
    return rev


async def test_a_node_with_many_clients_hands_them_over_one_by_one_while_there_are_writes(
    trio: Trio,
) -> None:
    """All of them arrive at the other node, spread and in bounded time, with every change once."""
    leaving, staying = trio.nodes
    wanderers = [Wanderer() for _ in range(CLIENTS)]
    ready, is_over = asyncio.Barrier(CLIENTS + 1), asyncio.Event()
    last: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    async with client_of(staying) as http, asyncio.TaskGroup() as tasks:
        await posted(http, "/zones", {"zone_id": "moving", "name": "moving"})
        urls = (ws_url_of(leaving), ws_url_of(staying))
        for wanderer in wanderers:
            tasks.create_task(wanderer.run(ready, urls, last))
        await ready.wait()
        writing = tasks.create_task(rename(http, is_over))
        began_s = asyncio.get_running_loop().time()
        await leaving.stop()
        stopped_s = asyncio.get_running_loop().time()
        await asyncio.sleep(0.2)
        is_over.set()
        last.set_result(await writing)
    told_s = sorted(wanderer.told_s for wanderer in wanderers)
    # At once it would be no time at all.
    assert told_s[-1] - told_s[0] > CLIENTS / DRAINED_PER_S / 2
    assert stopped_s - began_s < SHUTDOWN_TIMEOUT_S
    # Who was told later was served meanwhile.
    revisions = {wanderer.told_rev for wanderer in wanderers}
    assert len(revisions) > 3
    await leaving.start()
