"""A gate: the network between a client and the nodes, to be cut, slowed and silenced."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

CHUNK_BYTES = 16_384
RECEIVE_BUFFER_BYTES = 16_384
"""Small, so that a client that doesn't read is soon felt by its node."""


@dataclass(frozen=True, slots=True)
class Target:
    """A node to connect to."""

    name: str
    port: int


@dataclass(slots=True)
class Way:
    """A way through the gate, on which connections share their fate.

    Attributes:
        down: Whether anything gets to the client.
        up: Whether anything gets to the node.
        audible: Whether either side learns that the other has hung up.
        writers: Both ends of its connections.
    """

    down: asyncio.Event = field(default_factory=asyncio.Event)
    up: asyncio.Event = field(default_factory=asyncio.Event)
    audible: asyncio.Event = field(default_factory=asyncio.Event)
    writers: set[asyncio.StreamWriter] = field(default_factory=set)

    def __post_init__(self) -> None:
        for flow in (self.down, self.up, self.audible):
            flow.set()

    def cut(self) -> None:
        """Drop its connections at once."""
        for writer in list(self.writers):
            writer.transport.abort()


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
        self._way = Way()
        self._silent: list[Way] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass one connection on until either side ends it; without a node it is dropped."""
        way = self._way
        way.writers.add(writer)
        with contextlib.suppress(OSError):
            far_reader, far_writer = await self._connect()
            way.writers.add(far_writer)
            try:
                await asyncio.gather(
                    self._pump(reader, far_writer, way, way.up),
                    self._pump(far_reader, writer, way, way.down),
                )
            finally:
                way.writers.discard(far_writer)
                far_writer.transport.abort()
        way.writers.discard(writer)
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
        way: Way,
        flows: asyncio.Event,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                await flows.wait()
                writer.write(data)
                await writer.drain()
        await way.audible.wait()
        raise ConnectionAbortedError

    def hold(self) -> None:
        """Let nothing through to the client any more."""
        self._way.down.clear()

    def release(self) -> None:
        """Let everything through again."""
        self._way.down.set()

    def silence(self) -> None:
        """Let nothing through in either direction, as when a phone leaves a network.

        Nobody is told: both sides have a connection that is half open. New ones work.
        """
        way, self._way = self._way, Way()
        if not way.down.is_set():
            self._way.down.clear()
        for flow in (way.down, way.up, way.audible):
            flow.clear()
        self._silent.append(way)

    def drop_silent(self) -> None:
        """Drop the connections that have fallen silent."""
        for way in self._silent:
            way.cut()
            for flow in (way.down, way.up, way.audible):
                flow.set()
        self._silent.clear()

    def cut(self) -> None:
        """Drop all connections at once."""
        self.drop_silent()
        self._way.cut()


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
