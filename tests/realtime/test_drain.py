"""Draining: a node that stops sends its clients away one by one, in bounded time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from realtime.connections import Connections
from realtime.limits import Refusal
from tests.nodes import NodeProcess, running_nodes
from tests.realtime.event_source import StreamEndedError, event_source
from tests.realtime.plain_client import PlainClient, plain_client
from tests.realtime.wire_world import Talker, served, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from realtime.settings import Settings
    from tests.realtime.conftest import LiveNode, StartNode


class Guest:
    """A connection that notes how often it was told."""

    def __init__(self) -> None:
        self.told = 0

    queued_bytes = 0
    congested = False

    def dismiss(self, *, reconnect: bool) -> None:
        """Be sent away."""

    def farewell(self) -> None:
        """Be told."""
        self.told += 1

    def abort(self) -> None:
        """Be dropped."""


def test_everybody_is_told_once_and_who_left_by_himself_not_at_all() -> None:
    """However the farewell is sliced."""
    connections = Connections(10)
    guests = [Guest() for _ in range(5)]
    for guest in guests:
        assert connections.admit(guest) is None
    assert connections.farewell(2) == 3
    assert sum(guest.told for guest in guests) == 2
    early = next(guest for guest in guests if not guest.told)
    connections.remove(early)
    assert connections.farewell(1) == 1
    assert connections.farewell() == 0
    assert connections.farewell() == 0
    assert [guest.told for guest in guests if guest is not early] == [1, 1, 1, 1]
    assert early.told == 0
    assert connections.admit(Guest()) is Refusal.STOPPING


async def test_clients_are_told_one_by_one_and_the_others_are_served_meanwhile() -> None:
    """A change that comes after the first has left still reaches those who are there."""

    async def revisions_until_the_end(talker: Talker) -> list[int]:
        revisions = []
        with contextlib.suppress(ConnectionClosed):
            while line := await talker.line():
                revisions.append(line["push"]["pub"]["offset"])
        assert await talker.closing() == (3001, "shutdown")
        return revisions

    async with (
        served(drain_connections_per_s=2, shutdown_timeout_s=20) as world,
        AsyncExitStack() as stack,
    ):
        talkers = [await stack.enter_async_context(world.talker("zone:A")) for _ in range(3)]
        world.server.handle_exit(signal.SIGTERM, None)
        await until(lambda: len(world.node.connections) == 2)
        world.commit((1, "A"))
        seen = await asyncio.gather(*(revisions_until_the_end(talker) for talker in talkers))
        assert sorted(seen) == [[], [1], [1]]


async def test_many_clients_are_told_within_half_of_the_timeout() -> None:
    """At one a second ten would take ten seconds; half of two is one."""
    async with (
        served(drain_connections_per_s=1, shutdown_timeout_s=2) as world,
        AsyncExitStack() as stack,
    ):
        talkers = [await stack.enter_async_context(world.talker()) for _ in range(10)]
        world.server.handle_exit(signal.SIGTERM, None)
        closings = await asyncio.gather(*(talker.closing() for talker in talkers))
        # Who had not been told by then would have been dropped without a word.
        assert closings == [(3001, "shutdown")] * 10


async def test_a_second_signal_ends_the_drain_at_once() -> None:
    """Nobody waits for the rest of a slow drain; all are told in one go."""
    async with (
        served(drain_connections_per_s=1, shutdown_timeout_s=3_600) as world,
        AsyncExitStack() as stack,
    ):
        talkers = [await stack.enter_async_context(world.talker()) for _ in range(50)]
        world.server.handle_exit(signal.SIGTERM, None)
        await until(lambda: world.node.connections.closing)
        world.server.handle_exit(signal.SIGTERM, None)
        async with asyncio.timeout(10):
            closings = await asyncio.gather(*(talker.closing() for talker in talkers))
    assert {code for code, _ in closings} <= {3001, 1006}


async def test_a_node_that_is_about_to_stop_is_not_ready_but_serves_until_the_delay_is_over(
    sqlite_url: str, start_node: StartNode, make_settings: Callable[..., Settings]
) -> None:
    """A load balancer has the time to notice; keep-alive connections end with their answer."""
    settings = make_settings(database_url=sqlite_url, drain_delay_s=60)
    async with start_node(settings) as live, httpx.AsyncClient(base_url=live.url) as http:
        assert "connection" not in (await http.get("/healthz")).headers
        live.server.handle_exit(signal.SIGTERM, None)
        await until(lambda: live.node.connections.stopping)
        ready = await http.get("/readyz")
        assert (ready.status_code, ready.headers["connection"]) == (503, "close")
        assert "stopping" in ready.text
        answer = await http.post("/zones", json={"zone_id": "A", "name": "A"})
        assert (answer.status_code, answer.headers["connection"]) == (201, "close")
        async with plain_client(live.ws_url, "zone:A") as client:
            await http.patch("/zones/A", json={"name": "B"})
            await client.until(lambda c: c.positions["zone:A"][1] == 1)
            live.server.handle_exit(signal.SIGTERM, None)
            await client.until_closed()


async def test_a_stream_ends_in_order_and_is_told_when_to_come_back(live_node: LiveNode) -> None:
    """What was said before arrives first."""
    async with httpx.AsyncClient(base_url=live_node.url) as http:
        await http.post("/zones", json={"zone_id": "A", "name": "A"})
        async with event_source(live_node.url, "A") as source:
            await source.next("snapshot")
            await http.patch("/zones/A", json={"name": "B"})
            live_node.server.handle_exit(signal.SIGTERM, None)
            assert (await source.next("changes"))["zones"][0]["rev"] == 1
            source.retry_ms = None
            with pytest.raises(StreamEndedError):
                await source.event()
            assert source.retry_ms is not None


@pytest.fixture
async def two_workers(
    postgres_url: str, redis_url: str, tmp_path: Path
) -> AsyncIterator[NodeProcess]:
    """Serve with two workers behind one address."""
    urls = {"database_url": postgres_url, "redis_url": redis_url}
    bounds = {
        "workers": 2,
        "pool_size": 5,
        "shutdown_timeout_s": 30,
        "drain_connections_per_s": 3,
    }
    async with running_nodes(tmp_path, 1, {**urls, **bounds}) as (node,):
        yield node


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_workers_say_goodbye_to_their_clients(
    two_workers: NodeProcess, number: signal.Signals
) -> None:
    """One by one, also after Ctrl-C, which reaches supervisor and workers at the same time."""
    loop = asyncio.get_running_loop()

    async def told(client: PlainClient) -> tuple[int, float]:
        code, _ = await client.until_closed()
        return code, loop.time()

    async with AsyncExitStack() as stack:
        ws_url = f"ws://127.0.0.1:{two_workers.port}/ws"
        clients = [await stack.enter_async_context(plain_client(ws_url)) for _ in range(12)]
        if number == signal.SIGINT:
            os.killpg(two_workers.pid, number)
        else:
            os.kill(two_workers.pid, number)
        async with asyncio.timeout(20):
            ends = await asyncio.gather(*(told(client) for client in clients))
        assert {code for code, _ in ends} == {3001}
        # One of them has six or more: the last is told 1.6 s after the first.
        times_s = sorted(time_s for _, time_s in ends)
        assert times_s[-1] - times_s[0] > 1
    assert await two_workers.wait_exit() == 0


async def test_a_second_signal_to_the_supervisor_ends_its_workers_at_once(
    two_workers: NodeProcess,
) -> None:
    """A client that does not answer the close frame is not waited for."""
    reader, writer = await asyncio.open_connection("127.0.0.1", two_workers.port)
    # A request whose body never comes keeps its worker busy until the bound.
    head = b"POST /zones HTTP/1.1\r\nHost: node\r\ncontent-type: application/json\r\n"
    writer.write(head + b"content-length: 10\r\n\r\n{")
    await writer.drain()
    assert (await two_workers.get("/healthz")).startswith("HTTP/1.1 200")
    os.kill(two_workers.pid, signal.SIGTERM)
    while (await two_workers.get("/healthz")) != "":  # noqa: ASYNC110 - a process has no event
        await asyncio.sleep(0.05)
    os.kill(two_workers.pid, signal.SIGTERM)
    # Half of what one signal would take.
    async with asyncio.timeout(15):
        await reader.read()
        await two_workers.wait_exit()
    writer.close()
