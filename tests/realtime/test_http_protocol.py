"""The HTTP protocol: nobody holds a connection by saying nothing, or memory by never ending."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from realtime.http_protocol import HEAD_MAX_BYTES
from realtime.settings import Settings
from tests.realtime.conftest import LiveNode, StartNode
from tests.realtime.plain_client import plain_client

HEAD_TIMEOUT_S = 0.3
REQUEST = b"GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n"


@pytest.fixture
async def node(
    sqlite_url: str, start_node: StartNode, make_settings: Callable[..., Settings]
) -> AsyncIterator[LiveNode]:
    """A node that waits shortly for requests, and pings more rarely than that."""
    settings = make_settings(
        database_url=sqlite_url,
        connect_timeout_s=HEAD_TIMEOUT_S,
        ping_interval_s=2 * HEAD_TIMEOUT_S,
        sse_keepalive_interval_s=2 * HEAD_TIMEOUT_S,
    )
    async with start_node(settings) as live:
        yield live


async def connect(node: LiveNode) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection below HTTP."""
    return await asyncio.open_connection("127.0.0.1", int(node.url.rpartition(":")[2]))


@pytest.mark.parametrize("said", [b"", b"GET /zones HT", REQUEST[:-2]], ids=["nothing", "a", "b"])
async def test_who_does_not_finish_a_request_is_cut(node: LiveNode, said: bytes) -> None:
    """After the bound, however much of the head is there."""
    reader, writer = await connect(node)
    writer.write(said)
    async with asyncio.timeout(10):
        assert await reader.read() == b""
    writer.close()


async def test_a_head_in_drops_is_cut_too(node: LiveNode) -> None:
    """A byte more does not begin the wait anew."""
    reader, writer = await connect(node)
    writer.write(b"GET /healthz HTTP/1.1\r\nX: ")
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(10):
            while not reader.at_eof():
                writer.write(b"a")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(1), HEAD_TIMEOUT_S / 10)
    writer.close()


async def test_a_second_request_has_the_same_bound(node: LiveNode) -> None:
    """A connection that was served once is no exception."""
    reader, writer = await connect(node)
    writer.write(REQUEST)
    answer = await reader.readuntil(b"}")
    assert answer.startswith(b"HTTP/1.1 200 ")
    writer.write(REQUEST[:-2])
    async with asyncio.timeout(10):
        assert await reader.read() == b""
    writer.close()


async def test_an_endless_head_is_refused(node: LiveNode) -> None:
    """With 431, long before it fills the memory."""
    reader, writer = await connect(node)
    writer.write(b"GET /healthz HTTP/1.1\r\nX: ")
    for _ in range(HEAD_MAX_BYTES // 8_192 + 2):
        writer.write(b"a" * 8_192)
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n")
    assert b" 431 " in head
    writer.close()


async def test_streams_and_sockets_live_longer_than_the_bound(node: LiveNode) -> None:
    """The bound is for the head: whoever has sent it is served."""
    reader, writer = await connect(node)
    writer.write(b"GET /sse?zone=* HTTP/1.1\r\nHost: node\r\n\r\n")
    async with plain_client(node.ws_url) as client, asyncio.timeout(10):
        await reader.readuntil(b": keep-alive")
        await client.until(lambda client: [{}] in client.frames)
    writer.close()
