"""A WebSocket client below the libraries: it sends and reads exactly what a test says."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass

from websockets.frames import Close, Frame, Opcode

from tests.realtime.encodings import Encoding, Json

HANDSHAKE = (
    "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
)


@dataclass
class RawSocket:
    """An open socket; while nobody reads, a small buffer fills and the server notices."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def shake_hands(self, path: str = "/ws", headers: str = "") -> bytes:
        """Send the handshake and return the head of the answer."""
        self.writer.write(HANDSHAKE.format(path=path, headers=headers).encode())
        return await self.reader.readuntil(b"\r\n\r\n")

    def write(self, text: str) -> None:
        """Send a text frame."""
        self.write_frame(Frame(Opcode.TEXT, text.encode()))

    def write_frame(self, frame: Frame) -> None:
        """Send a frame."""
        self.writer.write(frame.serialize(mask=True))

    def say(self, encoding: Encoding, message: str | bytes) -> None:
        """Send a message of an encoding, as `Encoding.write` makes it, or its pong."""
        payload = message.encode() if isinstance(message, str) else message
        self.write_frame(Frame(encoding.opcode, payload))

    async def hear(self, encoding: Encoding) -> list[Json]:
        """Read the next message of an encoding that isn't a ping."""
        while True:
            opcode, payload = await self.read_frame()
            if opcode is encoding.opcode:
                found = encoding.read(payload.decode() if opcode is Opcode.TEXT else payload)
                if found != [{}]:
                    return found

    async def read_frame(self) -> tuple[Opcode, bytes]:
        """Read one frame of the server.

        Raises:
            asyncio.IncompleteReadError, ConnectionError: the connection ended before.
        """
        first, second = await self.reader.readexactly(2)
        length = second & 0x7F
        if length == 126:
            length = int.from_bytes(await self.reader.readexactly(2))
        elif length == 127:
            length = int.from_bytes(await self.reader.readexactly(8))
        return Opcode(first & 0x0F), await self.reader.readexactly(length)

    async def read_text(self) -> str:
        """Read the next text that isn't a ping."""
        while True:
            opcode, payload = await self.read_frame()
            if opcode is Opcode.TEXT and payload != b"{}":
                return payload.decode()

    async def read_close(self) -> tuple[int, str]:
        """Read until the server's close frame."""
        while True:
            opcode, payload = await self.read_frame()
            if opcode is Opcode.CLOSE:
                close = Close.parse(payload)
                return close.code, close.reason

    async def read_to_end(self) -> bool:
        """Read until the connection is gone; tell whether it was reset."""
        try:
            while await self.reader.read(65_536):
                pass
        except ConnectionError:
            return True
        return False


@contextlib.asynccontextmanager
async def raw_socket(port: int, *, receive_buffer_bytes: int = 0) -> AsyncIterator[RawSocket]:
    """Open a socket and reset it at the end."""
    sock = socket.socket()
    if receive_buffer_bytes:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    sock.settimeout(0)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=16_384)
    try:
        yield RawSocket(reader, writer)
    finally:
        writer.transport.abort()
