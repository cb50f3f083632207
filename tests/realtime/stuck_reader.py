"""A raw client of an event stream, which reads only when it is told to, and floods for it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

from realtime.sse.stream import SseStream
from tests.realtime.sse_world import SseWorld


class StuckReader:
    """A client whose socket takes next to nothing, until it reads on."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.received = b""

    async def read_until(self, what: bytes) -> None:
        """Read until some bytes came."""
        while what not in self.received:
            await self.read_more()

    async def read_more(self) -> None:
        """Read what comes next."""
        data = await asyncio.get_running_loop().sock_recv(self._sock, 65_536)
        assert data, "the server closed the stream"
        self.received += data

    def half_close(self) -> None:
        """Say that nothing more will be said."""
        self._sock.shutdown(socket.SHUT_WR)

    async def say(self, what: bytes) -> None:
        """Send bytes."""
        await asyncio.get_running_loop().sock_sendall(self._sock, what)

    async def read_until_closed(self) -> None:
        """Read what there is, until the server has closed."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(ConnectionError):
            while data := await loop.sock_recv(self._sock, 65_536):
                self.received += data


@contextlib.asynccontextmanager
async def asking(
    world: SseWorld, query: str, *, version: str = "1.1", more: str = ""
) -> AsyncIterator[StuckReader]:
    """Ask for a stream and read nothing of it; `more` follows the request at once."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        sock.settimeout(0)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, ("127.0.0.1", world.port))
        request = f"GET /sse{query} HTTP/{version}\r\nHost: test\r\n\r\n{more}".encode()
        await loop.sock_sendall(sock, request)
        yield StuckReader(sock)


@contextlib.asynccontextmanager
async def stuck_reader(
    world: SseWorld, query: str, *, version: str = "1.1", more: str = ""
) -> AsyncIterator[StuckReader]:
    """Ask for a stream and read only the head of it."""
    async with asking(world, query, version=version, more=more) as reader:
        await reader.read_until(b"event: status")
        yield reader


def only_stream(world: SseWorld) -> SseStream:
    """Return the node's only stream."""
    (stream,) = world.node.connections._live
    assert isinstance(stream, SseStream)
    return stream


async def flood(world: SseWorld, transactions: int) -> None:
    """Commit transactions of many events each, letting the loop turn."""
    for number in range(transactions):
        zone = "AB"[number % 2]
        world.commit(*((user, zone) for user in range(1, 201)))
        await asyncio.sleep(0)
