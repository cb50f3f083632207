"""Clients lose their connection, and come back to the same node or to another."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import httpx

from tests.clients.screens import MakeScreen, Picture, Screen, until_at
from tests.clients.tcp_proxy import TcpProxy, tcp_proxy
from tests.nodes import NodeProcess

ZONES = ("A", "B")


class Writer:
    """Makes zones and users through a node, and moves them."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def set_up(self) -> None:
        """Make two zones with five users in the first."""
        for zone in ZONES:
            answer = await self._client.post("/zones", json={"zone_id": zone, "name": zone})
            assert answer.status_code == 201, answer.text
        users = [{"global_id": n, "name": f"u{n}", "zone_id": "A"} for n in range(1, 6)]
        answer = await self._client.post("/users/bulk", json={"users": users})
        assert answer.status_code == 201, answer.text

    async def move(self, global_id: int, zone: str) -> None:
        """Move a user."""
        rows = [{"global_id": global_id, "zone_id": zone}]
        answer = await self._client.post("/transfers", json={"transfers": rows})
        assert answer.status_code == 200, answer.text

    async def truth(self) -> dict[str, Picture]:
        """Return the zones as the database has them."""
        pictures = {}
        for zone in ZONES:
            picture = Picture()
            picture.take_snapshot((await self._client.get(f"/zones/{zone}/snapshot")).json())
            pictures[zone] = picture
        return pictures


def writer_at(node: NodeProcess) -> httpx.AsyncClient:
    """Open an HTTP client of a node."""
    return httpx.AsyncClient(base_url=node.url, trust_env=False)


async def assert_equal(screen: Screen, writer: Writer) -> None:
    """Wait until the screen has got there, and compare it; nothing came twice or was missing."""
    truth = await writer.truth()
    pictures = await until_at(screen, {zone: picture.rev for zone, picture in truth.items()})
    assert pictures == truth


async def until_back(proxy: TcpProxy, accepted: int) -> None:
    """Wait until clients were let through again."""
    while proxy.accepted < accepted:  # noqa: ASYNC110 - the proxy has no event.
        await asyncio.sleep(0.01)


async def test_a_lost_connection_is_recovered_on_another_node(
    two_nodes: Sequence[NodeProcess], make_screen: MakeScreen
) -> None:
    """What was missed arrives, as changes and not as a state, from a node never seen before."""
    first, second = two_nodes
    async with writer_at(second) as client, tcp_proxy(first.port) as proxy:
        writer = Writer(client)
        await writer.set_up()
        async with make_screen(proxy.port, ZONES) as screen:
            await assert_equal(screen, writer)
            await writer.move(1, "B")
            await assert_equal(screen, writer)
            assert screen.recoveries == []
            proxy.is_open = False
            proxy.cut()
            for number in range(1, 6):
                await writer.move(number, "B" if number % 2 else "A")
                await writer.move(number, "A")
            proxy.target_port = second.port
            proxy.is_open = True
            await assert_equal(screen, writer)
            await writer.move(2, "B")
            await assert_equal(screen, writer)
            assert screen.recoveries
            assert all(screen.recoveries)


async def test_a_node_that_stops_hands_its_clients_over(
    two_nodes: Sequence[NodeProcess], make_screen: MakeScreen
) -> None:
    """Its clients are told, come back elsewhere, and have lost and repeated nothing."""
    first, second = two_nodes
    async with writer_at(second) as client, tcp_proxy(first.port) as proxy:
        writer = Writer(client)
        await writer.set_up()
        async with make_screen(proxy.port, ZONES) as screen:
            await assert_equal(screen, writer)
            proxy.target_port = second.port
            accepted = proxy.accepted
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(first.stop())
                for number in range(30):
                    await writer.move(number % 5 + 1, ZONES[number % 2])
            await until_back(proxy, accepted + 1)
            await assert_equal(screen, writer)
            assert screen.recoveries
            assert all(screen.recoveries)


async def test_a_killed_node_loses_nobody(
    two_nodes: Sequence[NodeProcess], make_screen: MakeScreen
) -> None:
    """Without any goodbye the clients come back elsewhere and end in the same state."""
    first, second = two_nodes
    async with writer_at(second) as client, tcp_proxy(first.port) as proxy:
        writer = Writer(client)
        await writer.set_up()
        async with make_screen(proxy.port, ZONES) as screen:
            await assert_equal(screen, writer)
            proxy.target_port = second.port
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(first.kill())
                for number in range(30):
                    await writer.move(number % 5 + 1, ZONES[number % 2])
            await assert_equal(screen, writer)
            assert all(screen.recoveries)
