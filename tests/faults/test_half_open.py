"""Connections whose network fell silent: nodes let them go, and their clients resume elsewhere."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from tests.faults.gate import Gate, Target, open_gate
from tests.nodes import NodeProcess
from tests.realtime.event_source import EventSource, event_source
from tests.realtime.plain_client import plain_client
from tests.realtime.raw_socket import RawSocket, raw_socket

FREED_WITHIN_S = 15.0
"""All bounds of the node below together, with a margin for a busy machine."""

STREAM = "GET /sse?zone=A HTTP/1.1\r\nHost: node\r\n\r\n"
USER_BYTES = 10_000
LARGE = 500
"""Users: their state is more than the kernels on the way take."""
SMALL = 20
"""Enough that a client which reads nothing can be sent nothing more."""


@pytest.fixture
async def node(sqlite_url: str, tmp_path: Path) -> AsyncIterator[NodeProcess]:
    """A node that soon asks for signs of life."""
    settings = {
        "database_url": sqlite_url,
        "ping_interval_s": 0.5,
        "pong_timeout_s": 0.5,
        "sse_keepalive_interval_s": 0.5,
        "slow_drain_timeout_s": 2,
        "max_body_bytes": 10_000_000,
    }
    node = NodeProcess(tmp_path, settings)
    await node.start()
    yield node
    await node.stop()


@pytest.fixture
async def http(node: NodeProcess) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the node, whose zone A exists."""
    async with httpx.AsyncClient(base_url=node.url, trust_env=False) as http:
        assert (await http.post("/zones", json={"zone_id": "A", "name": "A"})).is_success
        yield http


@pytest.fixture
async def gate(node: NodeProcess) -> AsyncIterator[Gate]:
    """The network of one client."""
    async with open_gate(lambda: Target("node", node.port)) as gate:
        yield gate


async def fill_zone(http: httpx.AsyncClient, users: int) -> None:
    """Put large users into the zone."""
    attributes = {"note": "x" * USER_BYTES}
    rows = [
        {"global_id": n, "name": "u", "zone_id": "A", "attributes": attributes}
        for n in range(1, users + 1)
    ]
    assert (await http.post("/users/bulk", json={"users": rows})).is_success


async def connections(http: httpx.AsyncClient, transport: str) -> int:
    """Return how many connections the node says that it has."""
    text = (await http.get("/metrics")).text
    found = re.search(
        rf'^zonecast_connections{{transport="{transport}"}} (\d+)', text, re.MULTILINE
    )
    return int(found[1]) if found else 0


async def until_left(http: httpx.AsyncClient, transport: str, count: int) -> None:
    """Wait, bounded, until the node has no more connections than these."""
    async with asyncio.timeout(FREED_WITHIN_S):
        while await connections(http, transport) > count:  # noqa: ASYNC110 - a process has no event
            await asyncio.sleep(0.05)


async def test_a_silent_socket_is_let_go_and_its_client_resumes_on_a_new_one(
    node: NodeProcess, http: httpx.AsyncClient, gate: Gate
) -> None:
    """As a phone that changes networks: the old connection hears nothing of it."""
    async with AsyncExitStack() as stack:
        ws_url = f"ws://127.0.0.1:{gate.port}/ws"
        old = await stack.enter_async_context(plain_client(ws_url, "zone:A"))
        gate.silence()
        for number in range(5):
            await http.patch("/zones/A", json={"name": f"meanwhile {number}"})
        new = await stack.enter_async_context(plain_client(ws_url))
        new.positions, new.zones = dict(old.positions), dict(old.zones)
        reply = await new.subscribe("zone:A", recover=True)
        assert reply["subscribe"]["recovered"]
        assert len(reply["subscribe"]["publications"]) == 5
        await until_left(http, "websocket", 1)
        assert old.closed is None
        await http.patch("/zones/A", json={"name": "after"})
        await new.until(lambda w: w.positions["zone:A"][1] == old.positions["zone:A"][1] + 6)
        gate.drop_silent()
        await old.until_closed()
    assert await connections(http, "sse") == 0


async def test_a_silent_stream_lingers_no_longer_than_its_network_and_disturbs_nobody(
    node: NodeProcess, http: httpx.AsyncClient, gate: Gate
) -> None:
    """Nothing asks for a sign of life there; the client resumes beside the old stream."""
    async with AsyncExitStack() as stack:
        url = f"http://127.0.0.1:{gate.port}"
        old: EventSource = await stack.enter_async_context(event_source(url, "A"))
        await old.next("snapshot")
        gate.silence()
        for number in range(5):
            await http.patch("/zones/A", json={"name": f"meanwhile {number}"})
        source = event_source(url, "A", last_event_id=old.last_id)
        new = await stack.enter_async_context(source)
        for number in range(5):
            (part,) = (await new.next("changes"))["zones"]
            assert part["events"][0]["zone"]["name"] == f"meanwhile {number}"
        gate.drop_silent()
        await until_left(http, "sse", 1)
        await http.patch("/zones/A", json={"name": "after"})
        await new.next("changes")


async def test_a_socket_whose_peer_takes_nothing_more_is_let_go(
    node: NodeProcess, http: httpx.AsyncClient
) -> None:
    """Its close frame could never be sent."""
    await fill_zone(http, LARGE)
    async with raw_socket(node.port, receive_buffer_bytes=4_096) as raw:
        await raw.shake_hands()
        raw.write('{"id":1,"connect":{}}')
        raw.write('{"id":2,"subscribe":{"channel":"zone:A"}}')
        await until_open(http, "websocket")
        await until_left(http, "websocket", 0)
        assert await is_over(raw)


@pytest.mark.parametrize("users", [LARGE, SMALL], ids=["waiting in the node", "in the kernel"])
async def test_a_stream_whose_peer_takes_nothing_more_is_let_go(
    node: NodeProcess, http: httpx.AsyncClient, users: int
) -> None:
    """Also one that the node is done with: only the kernel knows that its bytes went nowhere."""
    await fill_zone(http, users)
    async with raw_socket(node.port, receive_buffer_bytes=4_096) as raw:
        raw.writer.write(STREAM.encode())
        await until_open(http, "sse")
        await until_left(http, "sse", 0)
        assert await is_over(raw)


async def until_open(http: httpx.AsyncClient, transport: str) -> None:
    """Wait until the node has a connection."""
    while not await connections(http, transport):  # noqa: ASYNC110 - a process has no event
        await asyncio.sleep(0.01)


async def is_over(raw: RawSocket) -> bool:
    """Read what is left; tell whether it ended before the whole state."""
    count = 0
    try:
        async with asyncio.timeout(FREED_WITHIN_S):
            while data := await raw.reader.read(65_536):
                count += len(data)
    except ConnectionError:
        pass
    return count < SMALL * USER_BYTES
