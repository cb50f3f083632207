"""A proxy before Redis that can swallow what Redis sends to subscribers, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

CHUNK_BYTES = 65_536


class DeafProxy:
    """Passes bytes on to a Redis; both sides think that all is well while it swallows some.

    Attributes:
        port: Where it listens.
        is_deaf: Whether what comes for subscribed connections is swallowed.
        swallowed_bytes: How much that was.
    """

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self.is_deaf = False
        self.swallowed_bytes = 0
        self._target_port = target_port
        self._subscribed: set[asyncio.StreamWriter] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass one connection on until either side ends it."""
        self._writers.add(writer)
        with contextlib.suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
            self._writers.add(far_writer)
            try:
                await asyncio.gather(
                    self._to_redis(reader, far_writer, writer), self._to_node(far_reader, writer)
                )
            finally:
                self._writers.discard(far_writer)
                far_writer.transport.abort()
        self._writers.discard(writer)
        self._subscribed.discard(writer)
        writer.transport.abort()

    async def _to_redis(
        self,
        reader: asyncio.StreamReader,
        far_writer: asyncio.StreamWriter,
        writer: asyncio.StreamWriter,
    ) -> None:
        while data := await reader.read(CHUNK_BYTES):
            if b"SUBSCRIBE" in data:
                self._subscribed.add(writer)
            far_writer.write(data)
            await far_writer.drain()
        raise ConnectionAbortedError

    async def _to_node(
        self, far_reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while data := await far_reader.read(CHUNK_BYTES):
            if self.is_deaf and writer in self._subscribed:
                self.swallowed_bytes += len(data)
                continue
            writer.write(data)
            await writer.drain()
        raise ConnectionAbortedError

    def cut(self) -> None:
        """Drop all connections at once."""
        for writer in list(self._writers):
            writer.transport.abort()


@asynccontextmanager
async def deaf_proxy(target_port: int) -> AsyncIterator[DeafProxy]:
    """Run a proxy until the body ends."""
    proxy = DeafProxy(target_port)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.cut()
