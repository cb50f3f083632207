"""A crowd: cheap clients of one zone that read, or don't, as they are told, and count."""

from __future__ import annotations

import asyncio
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final, cast

import msgspec
from websockets.frames import Frame, Opcode

from tests.realtime.raw_socket import HANDSHAKE

SMALL_BUFFER_BYTES: Final = 16_384
"""Of the kernel, for clients that are to be felt soon when they don't read."""
RETRY_S: Final = 0.1
ANEW: Final = 2502
FIRST_COMMANDS: Final = 2


def no_matter(_rev: int) -> None:
    """Take notice of a change, and do nothing."""


class Reader(asyncio.Protocol, ABC):
    """A client of one zone that comes back, with its position, whenever its connection ends.

    Args:
        port: The node's.
        zone_id: The zone.
        changed: Told the revision of each change.

    Attributes:
        rev: Where it is; -1 while it has neither a state nor a position.
        states: How many states it was given.
        changes: How many changes it was given.
        faults: How many changes were not the next ones.
        ends: How many of its connections ended.
        anew: How often it was told to take the state anew.
        goodbyes: How many close frames it got.
        moved: Set at each message.
    """

    def __init__(self, port: int, zone_id: str, changed: Callable[[int], None] = no_matter) -> None:
        self.rev = -1
        self.states = self.changes = self.faults = 0
        self.ends = self.anew = self.goodbyes = 0
        self.moved = asyncio.Event()
        self._port = port
        self._zone_id = zone_id
        self._changed = changed
        self._buffer = bytearray()
        self._is_held = False
        self._is_slow = False
        self._is_answered = False
        self._lost = asyncio.Event()
        self._transport: asyncio.Transport | None = None

    async def run(self, *, slow: bool = False) -> None:
        """Watch until cancelled.

        Args:
            slow: Whether the kernel holds little for it while it doesn't read.
        """
        self._is_slow = slow
        try:
            while True:
                self._lost.clear()
                await self._connect()
                await self._lost.wait()
                self.ends += 1
                await asyncio.sleep(RETRY_S)
        finally:
            self.cut()

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        sock.setblocking(False)  # noqa: FBT003 - the library's signature
        if self._is_slow:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
        try:
            await loop.sock_connect(sock, ("127.0.0.1", self._port))
        except OSError:
            sock.close()
            self._lost.set()
            return
        await loop.create_connection(lambda: self, sock=sock)

    def hold(self) -> None:
        """Stop reading."""
        self._is_held = True
        if self._transport is not None and self._is_answered:
            self._pause(self._transport)

    def _pause(self, transport: asyncio.Transport) -> None:
        if not transport.is_closing():
            transport.pause_reading()

    def release(self) -> None:
        """Read on."""
        self._is_held = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def cut(self) -> None:
        """Drop the connection."""
        if self._transport is not None:
            self._transport.abort()

    def say(self, data: bytes) -> None:
        """Write bytes."""
        assert self._transport is not None
        self._transport.write(data)

    # What the loop tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the zone."""
        self._transport = cast("asyncio.Transport", transport)
        self._buffer.clear()
        self._is_answered = False
        self.open()

    def connection_lost(self, exc: Exception | None) -> None:
        """Learn that the connection is gone."""
        self._lost.set()
        self.moved.set()

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        self._buffer += data
        if not self._is_answered:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            self._is_answered = True
            del self._buffer[: end + 4]
            self.begin()
            if self._is_held and self._transport is not None:
                self._pause(self._transport)
        self.take(self._buffer)
        self.moved.set()

    def got_state(self, rev: int) -> None:
        """Note a state."""
        self.states += 1
        self.rev = rev

    def got_change(self, rev: int) -> None:
        """Note a change, and whether it was the next one."""
        self.changes += 1
        self.faults += rev != self.rev + 1
        self.rev = rev
        self._changed(rev)

    @abstractmethod
    def open(self) -> None:
        """Send the request."""

    @abstractmethod
    def begin(self) -> None:
        """Say what follows the answer's head."""

    @abstractmethod
    def take(self, buffer: bytearray) -> None:
        """Take whole messages out of the buffer."""


class _Publication(msgspec.Struct):
    offset: int


class _Reply(msgspec.Struct):
    epoch: str
    offset: int = 0
    recovered: bool = False
    publications: list[_Publication] = msgspec.field(default_factory=list)


class _Code(msgspec.Struct):
    code: int


class _Push(msgspec.Struct):
    pub: _Publication | None = None
    unsubscribe: _Code | None = None


class _Line(msgspec.Struct):
    id: int = 0
    subscribe: _Reply | None = None
    push: _Push | None = None


_lines: Final = msgspec.json.Decoder(_Line)


def text_of_client(text: str) -> bytes:
    """Make a frame as clients send it."""
    return Frame(Opcode.TEXT, text.encode()).serialize(mask=True)


_PONG: Final = text_of_client("{}")


class WebSocketReader(Reader):
    """A client of the WebSocket protocol."""

    _epoch = ""
    _next_id = FIRST_COMMANDS

    def open(self) -> None:
        """Shake hands."""
        self.say(HANDSHAKE.format(path="/ws", headers="").encode())

    def begin(self) -> None:
        """Connect and subscribe."""
        self.say(text_of_client('{"id":1,"connect":{}}'))
        self.subscribe()

    def subscribe(self) -> None:
        """Subscribe from where it is."""
        request = f'"channel":"zone:{self._zone_id}"'
        if self.rev >= 0:
            request += f',"recover":true,"epoch":"{self._epoch}","offset":{self.rev}'
        self.say(text_of_client(f'{{"id":{self._next_id},"subscribe":{{{request}}}}}'))
        self._next_id += 1

    def take(self, buffer: bytearray) -> None:
        """Take whole frames."""
        at = 0
        while len(buffer) - at >= 2:
            first, length = buffer[at], buffer[at + 1] & 0x7F
            begin = at + 2
            if length >= 126:
                wide = 2 if length == 126 else 8
                length = int.from_bytes(buffer[begin : begin + wide])
                begin += wide
            if len(buffer) < begin + length:
                break
            at = begin + length
            self.goodbyes += first & 0x0F == Opcode.CLOSE
            if first & 0x0F == Opcode.TEXT:
                self._take_text(bytes(buffer[begin:at]))
        del buffer[:at]

    def _take_text(self, text: bytes) -> None:
        if text == b"{}":
            self.say(_PONG)
            return
        for line in _lines.decode_lines(text):
            if line.subscribe is not None:
                self._take_reply(line.subscribe)
            elif line.push is not None and line.push.pub is not None:
                self.got_change(line.push.pub.offset)
            elif line.push is not None and line.push.unsubscribe is not None:
                if line.push.unsubscribe.code == ANEW:
                    self.anew += 1
                    self.rev = -1
                self.subscribe()

    def _take_reply(self, reply: _Reply) -> None:
        self._epoch = reply.epoch
        if reply.recovered:
            for publication in reply.publications:
                self.got_change(publication.offset)
        else:
            self.got_state(reply.offset)


class SseReader(Reader):
    """A client of an event stream."""

    _last_id = b""
    _rest = b""

    def open(self) -> None:
        """Ask for the stream."""
        head = f"GET /sse?zone={self._zone_id} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        if self._last_id:
            head += f"Last-Event-ID: {self._last_id.decode()}\r\n"
        self.say(f"{head}\r\n".encode())

    def begin(self) -> None:
        """Begin with an empty line."""
        self._rest = b""

    def take(self, buffer: bytearray) -> None:
        """Take whole chunks, which hold parts of events."""
        at = 0
        while (end := buffer.find(b"\r\n", at)) >= 0:
            begin, size = end + 2, int(buffer[at:end], 16)
            if len(buffer) < begin + size + 2:
                break
            at = begin + size + 2
            *lines, self._rest = (self._rest + buffer[begin : begin + size]).split(b"\n")
            for line in lines:
                self._take_line(line)
        del buffer[:at]

    def _take_line(self, line: bytes) -> None:
        if line.startswith(b"id: "):
            self._last_id = line[4:]
        elif line == b"event: changes":
            self.got_change(int(self._last_id.rpartition(b":")[2]))
        elif line == b"event: snapshot":
            self.anew += self.states > 0
            self.got_state(int(self._last_id.rpartition(b":")[2]))
