"""A plain client of the WebSocket protocol, without any SDK, that records every frame."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from channels.positions import Position
from tests.faults.history import (
    Item,
    Opened,
    Published,
    Refused,
    Subscribed,
    Unsubscribed,
)
from tests.faults.watchers import CONNECT_TIMEOUT_S, SILENCE_S, ConnectionOverError, OwnWatcher

TICK_S = 0.25
RETRY_S = 0.2
GONE, ANEW = 2000, 2502
INTERNAL, UNKNOWN = 100, 102


class Change(msgspec.Struct):
    """The data of a publication."""

    tx: str
    events: msgspec.Raw


class Publication(msgspec.Struct):
    """A publication."""

    data: Change
    offset: int


class SubscribeReply(msgspec.Struct):
    """What a subscribe command is answered with."""

    epoch: str
    offset: int = 0
    recovered: bool = False
    publications: list[Publication] = msgspec.field(default_factory=list)
    data: msgspec.Raw = msgspec.Raw()


class Problem(msgspec.Struct):
    """An error, or the code of an unsubscribe push."""

    code: int


class Message(msgspec.Struct):
    """A message to everybody."""

    data: dict[str, Any]


class Push(msgspec.Struct):
    """A push."""

    channel: str = ""
    pub: Publication | None = None
    unsubscribe: Problem | None = None
    message: Message | None = None


class Line(msgspec.Struct):
    """A line of a message: a reply, a push, or a ping."""

    id: int = 0
    connect: dict[str, Any] | None = None
    subscribe: SubscribeReply | None = None
    unsubscribe: dict[str, Any] | None = None
    push: Push | None = None
    error: Problem | None = None


_lines = msgspec.json.Decoder(Line)


class WebSocketWatcher(OwnWatcher):
    """Watches channels, resumes each from its position, and may change what it watches."""

    make = "websocket"
    can_change = True

    async def connect(self) -> None:
        """Watch on one connection; see `OwnWatcher`."""
        url = f"ws://127.0.0.1:{self.gate.port}/connection/websocket"
        options: dict[str, Any] = {"proxy": None, "compression": None, "ping_interval": None}
        try:
            async with connect(
                url, open_timeout=CONNECT_TIMEOUT_S, close_timeout=0.2, max_size=2**26, **options
            ) as socket:
                await _Connection(self, socket).run()
        except ConnectionClosed as error:
            raise ConnectionOverError(error.rcvd.code if error.rcvd else 1006) from error
        except WebSocketException as error:
            raise ConnectionOverError from error


class _Connection:
    """One connection: which commands are under way, and which subscriptions it has."""

    def __init__(self, watcher: WebSocketWatcher, socket: ClientConnection) -> None:
        self._watcher = watcher
        self._socket = socket
        self._next_id = 1
        self._asked: dict[int, tuple[str, Position | None, float]] = {}
        self._subscribed: set[str] = set()
        self._retry_at_s: dict[str, float] = {}
        self._anew: set[str] = set()
        self._is_open = False

    async def run(self) -> None:
        """Converse until the connection ends."""
        loop = asyncio.get_running_loop()
        await self._send({"connect": {}})
        heard_s = loop.time()
        while True:
            try:
                async with asyncio.timeout(TICK_S):
                    message = await self._socket.recv(decode=False)
            except TimeoutError:
                if loop.time() - heard_s > SILENCE_S:
                    raise
            else:
                heard_s = loop.time()
                await self._take(message)
            if self._is_open:
                await self._ask(loop.time())

    async def _send(self, *commands: dict[str, Any]) -> None:
        lines = []
        for command in commands:
            lines.append(msgspec.json.encode({"id": self._next_id, **command}).decode())
            self._next_id += 1
        await self._socket.send("\n".join(lines))

    async def _ask(self, now_s: float) -> None:
        """Subscribe to what is wanted, all at once or one by one, and leave what is not."""
        wanted = self._watcher.wanted or set()
        busy = {channel for channel, _, _ in self._asked.values()}
        missing = sorted(wanted - self._subscribed - busy)
        due = [name for name in missing if self._retry_at_s.get(name, 0) <= now_s]
        commands: list[dict[str, Any]] = []
        for channel in due:
            since = self._watcher.positions.get(channel)
            request: dict[str, Any] = {"channel": channel}
            if channel in self._anew:
                self._anew.discard(channel)
                since = None
            if since is not None:
                request |= {"recover": True, "epoch": since.epoch, "offset": since.rev}
            self._asked[self._next_id + len(commands)] = (channel, since, now_s)
            commands.append({"subscribe": request})
        for channel in sorted(self._subscribed - wanted - busy):
            self._asked[self._next_id + len(commands)] = (channel, None, now_s)
            commands.append({"unsubscribe": {"channel": channel}})
        if commands and self._watcher.random.random() < 0.5:
            await self._send(*commands)
        else:
            for command in commands:
                await self._send(command)

    async def _take(self, message: bytes) -> None:
        items: list[Item] = []
        for line in _lines.decode_lines(message):
            if line.push is not None:
                items += self._take_push(line.push)
            elif line.id:
                items += self._take_reply(line)
            else:
                await self._socket.send("{}")
        self._watcher.record.frame(items)

    def _take_push(self, push: Push) -> list[Item]:
        if push.pub is not None:
            return [self._published(push.channel, push.pub)]
        if push.unsubscribe is not None:
            self._subscribed.discard(push.channel)
            if push.unsubscribe.code == GONE:
                self._drop(push.channel)
            elif push.unsubscribe.code == ANEW:
                self._anew.add(push.channel)
            return [Unsubscribed(push.channel, push.unsubscribe.code)]
        if push.message is not None:
            return [self._watcher.record.told(push.message.data)]
        return []

    def _published(self, channel: str, publication: Publication) -> Published:
        data = publication.data
        record = self._watcher.record
        return record.published(channel, publication.offset, data.tx, bytes(data.events))

    def _take_reply(self, line: Line) -> list[Item]:
        if line.connect is not None:
            self._is_open = True
            return [Opened(self._watcher.gate.node)]
        channel, since, asked_s = self._asked.pop(line.id)
        if line.error is not None:
            if line.error.code == UNKNOWN:
                self._drop(channel)
            self._retry_at_s[channel] = asyncio.get_running_loop().time() + RETRY_S
            return [Refused(channel, line.error.code, asked_s)]
        if line.subscribe is None:
            self._subscribed.discard(channel)
            return [Unsubscribed(channel, 0)]
        self._subscribed.add(channel)
        reply = line.subscribe
        missed = tuple(self._published(channel, publication) for publication in reply.publications)
        state = None if reply.recovered else bytes(reply.data)
        return [Subscribed(channel, reply.epoch, reply.offset, since, state, missed)]

    def _drop(self, channel: str) -> None:
        if self._watcher.wanted is not None:
            self._watcher.wanted.discard(channel)
        self._watcher.positions.pop(channel, None)
