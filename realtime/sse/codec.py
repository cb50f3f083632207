"""Server-sent events as bytes: encoded once for all streams, ids included where they agree."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import msgspec
from sse_starlette.event import ServerSentEvent

from channels.changes import Change
from channels.events import Event
from channels.names import DIRECTORY, zone_id_of
from channels.positions import Position

_encoder = msgspec.json.Encoder()


class SharedBytes:
    """A piece of many streams: as it is, and as a chunk of HTTP/1.1 (RFC 9112, section 7.1)."""

    __slots__ = ("chunk", "plain")

    def __init__(self, plain: bytes) -> None:
        self.plain = plain
        self.chunk = b"%x\r\n%b\r\n" % (len(plain), plain) if plain else b""


KEEP_ALIVE: Final = SharedBytes(ServerSentEvent(comment="keep-alive", sep="\n").encode())


@dataclass(frozen=True, slots=True)
class SseTransaction:
    """One transaction as it goes to every stream that watches the same of its zones.

    Attributes:
        body: The `changes` event without `id:`, ending in an empty line; empty when the
            transaction touched only the directory.
        marks: The `zone_id` and the `zone_id=epoch:rev` of each zone after it.
        directory: What it did to the directory, for streams of all zones.
    """

    body: bytes
    marks: tuple[tuple[str, str], ...]
    directory: tuple[Event, ...]


class SseFrame:
    """Whole transactions, and what they are for the streams that get them.

    Attributes:
        transactions: In order.
        directory: What they did to the directory.
    """

    __slots__ = ("_by_id", "_without_ids", "directory", "transactions")

    def __init__(self, transactions: Sequence[SseTransaction]) -> None:
        self.transactions = tuple(transactions)
        self.directory = tuple(event for one in self.transactions for event in one.directory)
        self._without_ids: SharedBytes | None = None
        self._by_id: dict[bytes, tuple[SharedBytes, PositionVector]] = {}

    def without_ids(self) -> SharedBytes:
        """Return it for streams that have no ids."""
        if self._without_ids is None:
            self._without_ids = SharedBytes(b"".join(one.body for one in self.transactions))
        return self._without_ids

    def after(self, vector: PositionVector) -> tuple[SharedBytes, PositionVector]:
        """Return it for streams that have sent what `vector` says, and what it says then.

        Streams that agree get the same objects, so that the next frame finds them the sooner.
        """
        found = self._by_id.get(vector.id_line)
        if found is None:
            found = self._by_id[vector.id_line] = self._write(vector.marks)
        return found

    def _write(self, marks: Mapping[str, str]) -> tuple[SharedBytes, PositionVector]:
        parts: list[bytes] = []
        vector = PositionVector(marks)
        for one in self.transactions:
            if one.body:
                vector = vector.take(one.marks)
                parts += (vector.id_line, one.body)
        return SharedBytes(b"".join(parts)), vector


class SseCodec:
    """Encodes transactions as `changes` events. One instance serves all streams of a node."""

    def encode(self, changes: Sequence[Change]) -> SseFrame:
        """Encode transactions whose changes stand side by side, in order."""
        transactions: list[SseTransaction] = []
        parts: list[Change] = []
        for change in changes:
            if parts and parts[-1].tx != change.tx:
                transactions.append(_encode_transaction(parts))
                parts = []
            parts.append(change)
        if parts:
            transactions.append(_encode_transaction(parts))
        return SseFrame(transactions)


def _encode_transaction(parts: Iterable[Change]) -> SseTransaction:
    zones: list[bytes] = []
    marks: list[tuple[str, str]] = []
    directory: tuple[Event, ...] = ()
    tx = ""
    for change in parts:
        tx = change.tx
        zone_id = zone_id_of(change.channel)
        if zone_id is not None:
            marks.append((zone_id, _mark(zone_id, change.epoch, change.rev)))
            # Neither zone ids nor epochs hold anything that JSON escapes.
            zones.append(
                b'{"zone_id":"%b","epoch":"%b","rev":%d,"events":%b}'
                % (zone_id.encode(), change.epoch.encode(), change.rev, change.events_json)
            )
        elif change.channel == DIRECTORY:
            directory += change.events
    if not zones:
        return SseTransaction(b"", (), directory)
    data = b'{"tx":%b,"zones":[%b]}' % (_encoder.encode(tx), b",".join(zones))
    return SseTransaction(event("changes", data), tuple(marks), directory)


def _mark(zone_id: str, epoch: str, rev: int) -> str:
    """Write one zone's item of the event id."""
    return f"{zone_id}={epoch}:{rev}"


def event(name: str, data: bytes) -> bytes:
    """Write an event without `id:`; `data` is JSON in one line.

    As sse-starlette's `ServerSentEvent` writes it, which a test compares, but without turning
    megabytes into text and back.
    """
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data)


def status(*, since_ms: int | None, zone_ids: Iterable[str] | None = None) -> bytes:
    """Write a `status` event: whether the picture is verified, and since when it is not.

    Args:
        since_ms: Unix milliseconds since when it is stale; `None`: it is live.
        zone_ids: All zones there are, for streams of all zones.
    """
    body: dict[str, object] = {
        "state": "live" if since_ms is None else "stale",
        "since": since_ms,
    }
    if zone_ids is not None:
        body["zones"] = sorted(zone_ids)
    return event("status", _encoder.encode(body))


def retry(delay_ms: int) -> bytes:
    """Write how long a client that lost the stream waits before it comes back.

    Up to half as long again, so that the clients of a lost node don't all come at once.
    """
    spread = random.uniform(1, 1.5)  # noqa: S311 - no secret.
    return ServerSentEvent(retry=round(delay_ms * spread), sep="\n").encode()


def dismissal(code: int, reason: str) -> bytes:
    """Write a `disconnect` event: why the server ends the stream, as a WebSocket is told."""
    return event("disconnect", _encoder.encode({"code": code, "reason": reason}))


_NO_MARKS: Final[Mapping[str, str]] = MappingProxyType({})


class PositionVector:
    """The positions that streams have sent: what their event ids say. Immutable, so shared."""

    __slots__ = ("id_line", "marks")

    def __init__(self, marks: Mapping[str, str] = _NO_MARKS) -> None:
        self.marks = marks
        self.id_line = f"id: {','.join(marks.values())}\n".encode()

    def take(self, marks: Iterable[tuple[str, str]]) -> PositionVector:
        """Return it moved on by a transaction's marks."""
        return PositionVector({**self.marks, **dict(marks)})

    def set(self, zone_id: str, position: Position) -> PositionVector:
        """Return it with a zone at a position."""
        mark = _mark(zone_id, position.epoch, position.rev)
        return PositionVector({**self.marks, zone_id: mark})

    def discard(self, zone_id: str) -> PositionVector:
        """Return it without a zone."""
        return PositionVector({name: self.marks[name] for name in self.marks if name != zone_id})

    def get(self, zone_id: str | None) -> Position | None:
        """Return where a zone is, `None` when nothing of it was sent."""
        written = self.marks.get(zone_id or "")
        return None if written is None else Position.parse(written.partition("=")[2])

    def write(self, frame: SseFrame) -> tuple[SharedBytes, PositionVector]:
        """Return what streams are told of a frame, and where they are then."""
        return frame.after(self)


class SilentVector(PositionVector):
    """The positions of one stream of all zones, which are too many for ids; changed in place."""

    __slots__ = ("_own",)

    def __init__(self) -> None:
        super().__init__()
        self._own: dict[str, str] = {}
        self.marks = self._own
        self.id_line = b""

    def take(self, marks: Iterable[tuple[str, str]]) -> SilentVector:
        """Move on by a transaction's marks."""
        self._own.update(marks)
        return self

    def set(self, zone_id: str, position: Position) -> SilentVector:
        """Begin a zone at a position."""
        self._own[zone_id] = _mark(zone_id, position.epoch, position.rev)
        return self

    def discard(self, zone_id: str) -> SilentVector:
        """Forget a zone."""
        self._own.pop(zone_id, None)
        return self

    def write(self, frame: SseFrame) -> tuple[SharedBytes, PositionVector]:
        """Move on by a frame, and return what is told of it."""
        for one in frame.transactions:
            self._own.update(one.marks)
        return frame.without_ids(), self


NOTHING_SENT: Final = PositionVector()
