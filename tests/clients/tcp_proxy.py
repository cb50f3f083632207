"""A TCP proxy of a few lines, so that a test can cut a client's connection and move it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class TcpProxy:
    """Passes bytes on to a port of this machine.

    Attributes:
        port: Where it listens.
        target_port: Where new connections go.
        is_open: Whether new connections are passed on; else they are dropped at once.
        lets_sockets_through: Whether WebSockets are passed on; else their handshake is dropped.
        accepted: How many connections were passed on.
    """

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.is_open = True
        self.lets_sockets_through = True
        self.port = 0
        self.accepted = 0
        self._writers: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass one connection on until either side ends it."""
        if not self.is_open:
            writer.transport.abort()
            return
        begin = b""
        if not self.lets_sockets_through:
            begin = await reader.read(65_536)
            if b"upgrade: websocket" in begin.lower():
                writer.transport.abort()
                return
        self.accepted += 1
        with contextlib.suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
            self._writers |= {writer, far_writer}
            try:
                far_writer.write(begin)
                await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))
            finally:
                self._writers -= {writer, far_writer}
                far_writer.transport.abort()
        writer.transport.abort()

    def cut(self) -> None:
        """Drop all connections at once."""
        for writer in self._writers:
            writer.transport.abort()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass bytes on until there are no more; then the other way has to end, too."""
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    raise ConnectionAbortedError


@asynccontextmanager
async def tcp_proxy(target_port: int) -> AsyncIterator[TcpProxy]:
    """Run a proxy until the body ends."""
    proxy = TcpProxy(target_port)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.cut()
