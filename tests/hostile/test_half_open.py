"""Clients that begin and don't go on: each is cut at its deadline, and nothing of it is left."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from realtime.http_protocol import BoundedHttpProtocol
from tests.realtime.conftest import LiveNode, serving, settings_of_test
from tests.realtime.raw_socket import HANDSHAKE, raw_socket
from tests.realtime.wire_world import served, until

CROWD = 2_000
HALF_A_HANDSHAKE = HANDSHAKE.format(path="/ws", headers="").encode()[:-2]


@asynccontextmanager
async def node(sqlite_url: str, **given: Any) -> AsyncIterator[tuple[LiveNode, int]]:
    """Serve a node with short deadlines, and yield its port, too."""
    settings = settings_of_test(database_url=sqlite_url, **given)
    async with serving(settings) as live:
        yield live, int(live.url.rpartition(":")[2])


async def open_half(port: int, stack: AsyncExitStack) -> None:
    """Connect, and send all of a handshake but its end."""
    client = stack.enter_context(socket.socket())
    client.settimeout(0)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, ("127.0.0.1", port))
    with contextlib.suppress(ConnectionError):
        await loop.sock_sendall(client, HALF_A_HANDSHAKE)


async def test_two_thousand_half_open_handshakes_leave_the_node_serving() -> None:
    """Others are served meanwhile; at the deadline all are gone, with all they held."""
    async with served(connect_timeout_s=2) as world, AsyncExitStack() as stack:
        most = 0
        for number in range(CROWD):
            await open_half(world.port, stack)
            most = max(most, len(world.protocols))
            if number % 500 == 0:
                async with world.talker("zone:A") as talker:
                    world.commit((number + 1, "A"))
                    assert (await talker.line())["push"]["channel"] == "zone:A"
        assert most > CROWD / 10
        await until(lambda: not world.protocols)
        async with world.talker("zone:A"):
            pass
        # The last ones are let go in the next turns of the loop.
        await asyncio.sleep(0.05)
        gc.collect()
        left = [found for found in gc.get_objects() if isinstance(found, BoundedHttpProtocol)]
        assert len(left) <= 2


async def test_a_handshake_sent_byte_by_byte_is_cut_at_the_deadline() -> None:
    """A byte more does not begin the wait anew."""
    async with served(connect_timeout_s=0.3) as world, raw_socket(world.port) as raw:
        began_s = asyncio.get_running_loop().time()
        with contextlib.suppress(ConnectionError):
            for byte in HALF_A_HANDSHAKE:
                raw.writer.write(bytes((byte,)))
                await raw.writer.drain()
                await asyncio.sleep(0.02)
                if not world.protocols:
                    break
        await until(lambda: not world.protocols)
        assert asyncio.get_running_loop().time() - began_s < 5


async def test_who_shakes_hands_and_then_sends_frames_without_connect_is_cut() -> None:
    """The deadline of the first command holds however busy the connection is below it."""
    async with served(connect_timeout_s=0.3) as world, raw_socket(world.port) as raw:
        assert (await raw.shake_hands()).startswith(b"HTTP/1.1 101 Switching Protocols")
        ping = bytes((0x89, 0x80, 0, 0, 0, 0))

        async def busy() -> None:
            while True:
                raw.writer.write(ping)
                await asyncio.sleep(0.01)

        async with asyncio.TaskGroup() as tasks:
            pinging = tasks.create_task(busy())
            assert await raw.read_close() == (3502, "stale")
            pinging.cancel()
        await world.until_alone()


async def test_a_command_that_comes_in_drops_does_not_put_the_deadline_off() -> None:
    """Half a frame is no command."""
    async with served(connect_timeout_s=0.3) as world, raw_socket(world.port) as raw:
        await raw.shake_hands()
        raw.writer.write(bytes((0x81, 0xFE, 0x10, 0x00, 0, 0, 0, 0)) + b"{" * 100)
        assert await raw.read_close() == (3502, "stale")
        await world.until_alone()


@pytest.mark.parametrize("framing", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
async def test_a_body_that_does_not_come_is_answered_with_408(
    sqlite_url: str, framing: str
) -> None:
    """At the bound of requests, in whatever drops it comes."""
    async with node(sqlite_url, request_timeout_s=0.5) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"POST /zones HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{framing}\r\n"
        writer.write(f"{head}\r\n".encode())

        async def drip() -> None:
            while True:
                writer.write(b"1\r\n \r\n" if "chunked" in framing else b" ")
                await asyncio.sleep(0.02)

        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            dripping = tasks.create_task(drip())
            status = await reader.readline()
            dripping.cancel()
        assert b" 408 " in status
        writer.transport.abort()


async def test_requests_whose_answers_nobody_reads_are_not_answered_into_memory(
    sqlite_url: str,
) -> None:
    """Of two hundred in a row, those whose answers would pile up wait."""
    async with (
        node(sqlite_url) as (live, port),
        raw_socket(port, receive_buffer_bytes=4_096) as raw,
    ):
        request = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
        raw.writer.write(request * 200)
        connections: set[Any] = live.server.server_state.connections
        await until(lambda: bool(connections))
        (protocol,) = connections
        for _ in range(20):
            await asyncio.sleep(0.02)
            assert protocol.transport.get_write_buffer_size() < 2_000_000
