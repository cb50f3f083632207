"""Envelopes: what is sent over the bus, byte by byte."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

import msgspec

from channels.changes import Change
from channels.events import decode_events
from channels.names import InvalidChannelError, parse_channel
from channels.ports import BusMessage
from channels.positions import MAX_REV, Position

UNREADABLE: Final = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)
"""What msgspec raises for bytes that are no JSON of the type that is wanted."""
VERSION: Final = 1
"""Raised only when what an older node reads out of an envelope would be wrong. Keys that are added
are no reason: they are ignored by who doesn't know them."""

_Rev = Annotated[int, msgspec.Meta(ge=1, le=MAX_REV)]
_Epoch = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{1,32}$")]


class _Envelope(msgspec.Struct, omit_defaults=True):
    """The JSON object; unknown keys are ignored, so a newer node's envelope is read."""

    # Required keys have no default, so that they are never omitted.
    v: Annotated[int, msgspec.Meta(ge=1)]
    channel: str
    epoch: _Epoch
    rev: _Rev
    tx: Annotated[str, msgspec.Meta(max_length=64)]
    time: Annotated[int, msgspec.Meta(ge=0, le=MAX_REV)]
    parts: tuple[tuple[str, _Rev], ...] = ()
    events: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    trace: str = ""


class MalformedEnvelopeError(ValueError):
    """Bytes on the bus that are no envelope; `reason` quotes nothing of their content."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"malformed envelope: {reason}")
        self.reason = reason


class NewerEnvelopeError(ValueError):
    """An envelope of a release that this one can't read: something happened on the channel."""

    def __init__(self, version: int) -> None:
        super().__init__(f"an envelope of version {version}; this node reads up to {VERSION}")
        self.version = version


def why_unreadable(error: Exception) -> str:
    """Say why bytes are unreadable, without a word of theirs."""
    return "not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)[:200]


class _VersionOnly(msgspec.Struct):
    v: int


_VERSION_DECODER = msgspec.json.Decoder(_VersionOnly)


def _version_of(data: bytes) -> int:
    try:
        return _VERSION_DECODER.decode(data).v
    except UNREADABLE:
        return 0


@dataclass(frozen=True, slots=True)
class EnvelopeLimits:
    """What an envelope may hold; beyond that it tells the position only.

    Attributes:
        max_bytes: The largest envelope that carries its events.
        max_parts: The most channels of a transaction that are named in it.
    """

    max_bytes: int = 65_536
    max_parts: int = 100


class EnvelopeCodec:
    """Writes changes as envelopes and reads them back."""

    def __init__(self, limits: EnvelopeLimits | None = None) -> None:
        self._limits = limits or EnvelopeLimits()
        self._encoder = msgspec.json.Encoder()
        self._decoder = msgspec.json.Decoder(_Envelope)

    def encode(self, change: Change) -> bytes:
        """Write a change; its events are spliced in as they were encoded at the commit.

        An envelope over `max_bytes` omits the events; one of a transaction over more than
        `max_parts` channels omits events and parts.
        """
        wide = len(change.parts) > self._limits.max_parts
        envelope = _Envelope(
            v=VERSION,
            channel=change.channel,
            epoch=change.epoch,
            rev=change.rev,
            tx=change.tx,
            time=change.time_ms,
            parts=() if wide else change.parts,
            trace=change.trace,
        )
        # Events that are too long alone need not be copied to find that out.
        if not wide and len(change.events_json) <= self._limits.max_bytes:
            envelope.events = msgspec.Raw(change.events_json)
            whole = self._encoder.encode(envelope)
            if len(whole) <= self._limits.max_bytes:
                return whole
            envelope.events = msgspec.UNSET
        return self._encoder.encode(envelope)

    def decode(self, data: bytes, expected_channel: str) -> BusMessage:
        """Read an envelope that came on a channel, decoding its events once.

        Events that this version can't read (of a newer node) are left out: the position is
        enough to read the change from the log.

        Raises:
            NewerEnvelopeError: its version is above ours, whatever else it says.
            MalformedEnvelopeError: the bytes are anything else.
        """
        try:
            envelope = self._decoder.decode(data)
            parts = tuple((parse_channel(name), rev) for name, rev in envelope.parts)
        except UNREADABLE as error:
            if (version := _version_of(data)) > VERSION:
                raise NewerEnvelopeError(version) from None
            raise MalformedEnvelopeError(why_unreadable(error)) from None
        except InvalidChannelError:
            if envelope.v > VERSION:
                raise NewerEnvelopeError(envelope.v) from None
            raise MalformedEnvelopeError("a part is of no channel") from None
        if envelope.v > VERSION:
            raise NewerEnvelopeError(envelope.v)
        if envelope.channel != expected_channel:
            raise MalformedEnvelopeError("is of another channel")
        events, events_json = None, None
        if isinstance(envelope.events, msgspec.Raw):
            try:
                events_json = bytes(envelope.events)
                events = decode_events(events_json)
            except UNREADABLE:
                events, events_json = None, None
        position = Position(envelope.epoch, envelope.rev)
        return BusMessage(
            expected_channel,
            position,
            envelope.tx,
            envelope.time,
            parts,
            events,
            events_json,
            envelope.trace,
        )
