"""An event source that records every event, and comes back with its last id as browsers do."""

from __future__ import annotations

import asyncio
from urllib.parse import urlencode

import msgspec

from channels.positions import Position, parse_vector
from tests.faults.history import Item, Opened, Subscribed
from tests.faults.watchers import CONNECT_TIMEOUT_S, SILENCE_S, ConnectionOverError, OwnWatcher

LINE_MAX_BYTES = 2**24
NOT_FOUND = 404


class Part(msgspec.Struct):
    """What a transaction did to one zone."""

    zone_id: str
    epoch: str
    rev: int
    events: msgspec.Raw


class Changes(msgspec.Struct):
    """A transaction."""

    tx: str
    zones: list[Part]


class State(msgspec.Struct):
    """The head of a state."""

    channel: str
    epoch: str
    rev: int


class SseWatcher(OwnWatcher):
    """Watches zones, or with `wanted=None` all zones there are."""

    make = "sse"

    _last_id = ""
    _given: dict[str, Position]

    async def connect(self) -> None:
        """Watch on one stream; see `OwnWatcher`."""
        if self.wanted is not None and not self.wanted:
            raise ConnectionOverError(NOT_FOUND)
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", self.gate.port, limit=LINE_MAX_BYTES
            )
        try:
            writer.write(self._request())
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
            status = int(head.split(maxsplit=2)[1])
            if status == NOT_FOUND:
                self._drop_zone(await reader.read(LINE_MAX_BYTES))
            if status != 200:
                raise ConnectionOverError(status)
            self._given = {f"zone:{name}": at for name, at in self._vector().items()}
            self.record.frame([Opened(self.gate.node, dict(self._given))])
            await self._listen(reader)
        except asyncio.IncompleteReadError as error:
            raise ConnectionOverError from error
        finally:
            writer.transport.abort()

    def _vector(self) -> dict[str, Position]:
        asked = {name.removeprefix("zone:") for name in self.wanted or ()}
        given = parse_vector(self._last_id) if self._last_id else {}
        return {zone_id: at for zone_id, at in given.items() if zone_id in asked}

    def _request(self) -> bytes:
        names = ["*"] if self.wanted is None else sorted(self.wanted)
        query = urlencode([("zone", name.removeprefix("zone:")) for name in names])
        lines = [f"GET /sse?{query} HTTP/1.1", "Host: node", "Connection: close"]
        if self._last_id:
            lines.append(f"Last-Event-ID: {self._last_id}")
        return "\r\n".join([*lines, "", ""]).encode()

    def _drop_zone(self, body: bytes) -> None:
        """Ask no more for the zone that a refusal names; a browser would stop altogether."""
        start, end = body.find(b"{"), body.rfind(b"}") + 1
        channel = msgspec.json.decode(body[start:end]).get("channel", "") if start >= 0 else ""
        if self.wanted is not None:
            self.wanted.discard(channel)
            self.positions.pop(channel, None)

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        """Take events until the stream ends; chunks are parts of them."""
        fields: dict[str, bytes] = {}
        rest = b""
        while True:
            async with asyncio.timeout(SILENCE_S):
                size = int(await reader.readuntil(b"\r\n"), 16)
                chunk = await reader.readexactly(size + 2)
            if not size:
                raise ConnectionOverError(1001)
            *lines, rest = (rest + chunk[:-2]).split(b"\n")
            for line in lines:
                key, _, value = line.partition(b": ")
                if line:
                    fields[key.decode()] = value
                else:
                    self._dispatch(fields)
                    fields = {}

    def _dispatch(self, fields: dict[str, bytes]) -> None:
        if "id" in fields:
            self._last_id = fields["id"].decode()
        match fields.get("event"):
            case b"snapshot":
                state = msgspec.json.decode(fields["data"], type=State)
                since = self._given.pop(state.channel, None)
                body = fields["data"]
                found = Subscribed(state.channel, state.epoch, state.rev, since, body)
                self.record.frame([found])
            case b"changes":
                self._take_changes(msgspec.json.decode(fields["data"], type=Changes))
            case b"status":
                self.record.frame([self.record.told(msgspec.json.decode(fields["data"]))])
            case _:
                pass

    def _take_changes(self, changes: Changes) -> None:
        items: list[Item] = []
        for part in changes.zones:
            channel = f"zone:{part.zone_id}"
            self._given.pop(channel, None)
            events = bytes(part.events)
            items.append(self.record.published(channel, part.rev, changes.tx, events))
            if b'"type":"zone_deleted"' in events and self.wanted is not None:
                self.wanted.discard(channel)
        self.record.frame(items)
