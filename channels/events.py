"""Users, zones and the events that change them, exactly as every client sees them.

They hold JSON values and nothing that could lead back to them, so the collector of garbage leaves
them out (`gc=False`): it would look at each user of a large zone, which holds the loop.
"""

from __future__ import annotations

from typing import Any

import msgspec

Attributes = dict[str, Any]


class User(msgspec.Struct, frozen=True, gc=False):
    """A user as seen on the channel of the zone that it is in.

    `version` rises with each committed change and decides where two sources meet, within
    one epoch. `id` and `global_id` are below 2**53.
    """

    id: int
    global_id: int
    name: str
    zone_id: str | None
    attributes: Attributes
    version: int


class Zone(msgspec.Struct, frozen=True, gc=False):
    """A zone without its users."""

    zone_id: str
    name: str
    attributes: Attributes


class Entered(msgspec.Struct, frozen=True, gc=False, tag="entered", tag_field="type"):
    """A user came into the channel's zone, or was created in it."""

    user: User


class Changed(msgspec.Struct, frozen=True, gc=False, tag="changed", tag_field="type"):
    """A user of the channel's zone changed and stayed."""

    user: User


class Left(msgspec.Struct, frozen=True, gc=False, tag="left", tag_field="type"):
    """A user left the channel's zone or was deleted; where to is not told."""

    user_id: int
    version: int


class ZoneCreated(msgspec.Struct, frozen=True, gc=False, tag="zone_created", tag_field="type"):
    """A zone came into being (directory only)."""

    zone: Zone


class ZoneChanged(msgspec.Struct, frozen=True, gc=False, tag="zone_changed", tag_field="type"):
    """A zone's name or attributes changed."""

    zone: Zone


class ZoneDeleted(msgspec.Struct, frozen=True, gc=False, tag="zone_deleted", tag_field="type"):
    """A zone is gone; on its own channel nothing follows."""

    zone_id: str


class Revoked(msgspec.Struct, frozen=True, gc=False, tag="revoked", tag_field="type"):
    """Tokens were taken back (on the nodes' own channel only): those of `sub`, or the one `jti`.

    With `zones` they only lose the zones that match these patterns. `at_ms` is when (Unix ms):
    tokens issued later are good. After `until_ms` none of them can still be alive.
    """

    sub: str | None
    jti: str | None
    zones: tuple[str, ...] | None
    at_ms: int
    until_ms: int


Event = Entered | Changed | Left | ZoneCreated | ZoneChanged | ZoneDeleted | Revoked

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(tuple[Event, ...])


def encode_events(events: tuple[Event, ...]) -> bytes:
    """Encode events as the JSON array in which clients and the change log see them."""
    return _encoder.encode(events)


def decode_events(data: bytes | str) -> tuple[Event, ...]:
    """Decode a JSON array of events.

    Raises:
        msgspec.DecodeError: the text is no such array.
    """
    return _decoder.decode(data)
