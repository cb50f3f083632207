"""A gate: the network between one client and the nodes, which can be cut, and made slow."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

CHUNK_BYTES = 16_384
RECEIVE_BUFFER_BYTES = 16_384
"""Small, so that a client that doesn't read is soon felt by its node."""


@dataclass(frozen=True, slots=True)
class Target:
    """A node to connect to."""

    name: str
    port: int


class Gate:
    """Passes the connections of one client on to nodes.

    Attributes:
        port: Where it listens.
        node: The name of the node that the latest connection went to.
    """

    def __init__(self, choose: Callable[[], Target | None]) -> None:
        self.port = 0
        self.node = ""
        self._choose = choose
        self._flows = asyncio.Event()
        self._flows.set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass one connection on until either side ends it; without a node it is dropped."""
        self._writers.add(writer)
        with contextlib.suppress(OSError):
            far_reader, far_writer = await self._connect()
            self._writers.add(far_writer)
            try:
                await asyncio.gather(
                    self._pump(reader, far_writer, None),
                    self._pump(far_reader, writer, self._flows),
                )
            finally:
                self._writers.discard(far_writer)
                far_writer.transport.abort()
        self._writers.discard(writer)
        writer.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        target = self._choose()
        if target is None:
            raise ConnectionRefusedError
        self.node = target.name
        far = socket.socket()
        far.setblocking(False)  # noqa: FBT003 - the library's signature
        far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        try:
            await asyncio.get_running_loop().sock_connect(far, ("127.0.0.1", target.port))
        except OSError:
            far.close()
            raise
        return await asyncio.open_connection(sock=far, limit=CHUNK_BYTES)

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        flows: asyncio.Event | None,
    ) -> None:
        while data := await reader.read(CHUNK_BYTES):
            if flows is not None:
                await flows.wait()
            writer.write(data)
            await writer.drain()
        raise ConnectionAbortedError

    def hold(self) -> None:
        """Let nothing through to the client any more."""
        self._flows.clear()

    def release(self) -> None:
        """Let everything through again."""
        self._flows.set()

    def cut(self) -> None:
        """Drop all connections at once."""
        for writer in list(self._writers):
            writer.transport.abort()


@asynccontextmanager
async def open_gate(choose: Callable[[], Target | None]) -> AsyncIterator[Gate]:
    """Run a gate until the body ends."""
    gate = Gate(choose)
    server = await asyncio.start_server(gate.serve, "127.0.0.1", 0, limit=CHUNK_BYTES)
    gate.port = server.sockets[0].getsockname()[1]
    try:
        yield gate
    finally:
        server.close()
        gate.release()
        gate.cut()
