"""Server-sent events as bytes: encoded once for all streams, but for the `id:` of each."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from channels.changes import Change
from channels.events import Event
from channels.names import DIRECTORY, zone_id_of
from channels.positions import Position

_encoder = msgspec.json.Encoder()

KEEP_ALIVE: Final = b": keep-alive\n\n"


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


SseFrame = tuple[SseTransaction, ...]


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
        return tuple(transactions)


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
    """Write an event without `id:`; `data` is JSON in one line."""
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
    return b"retry: %d\n\n" % round(delay_ms * spread)


class PositionVector:
    """The positions that a stream has sent: what its event ids say."""

    def __init__(self) -> None:
        self._marks: dict[str, str] = {}

    def take(self, marks: Iterable[tuple[str, str]]) -> None:
        """Move on by a transaction's marks."""
        self._marks.update(marks)

    def set(self, zone_id: str, position: Position) -> None:
        """Begin a zone at a position."""
        self._marks[zone_id] = _mark(zone_id, position.epoch, position.rev)

    def discard(self, zone_id: str) -> None:
        """Forget a zone."""
        self._marks.pop(zone_id, None)

    def get(self, zone_id: str | None) -> Position | None:
        """Return where a zone is, `None` when nothing of it was sent."""
        written = self._marks.get(zone_id or "")
        return None if written is None else Position.parse(written.partition("=")[2])

    def id_line(self) -> bytes:
        """Write the line that goes before an event."""
        return f"id: {','.join(self._marks.values())}\n".encode()
