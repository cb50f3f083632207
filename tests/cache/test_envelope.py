"""The wire format of the bus."""

from __future__ import annotations

import json
from dataclasses import replace

import msgspec
import pytest

from cache.envelope import EnvelopeCodec, EnvelopeLimits, MalformedEnvelopeError, NewerEnvelopeError
from channels.changes import Change
from channels.positions import MAX_REV, Position
from tests.cache.nodes import entered, transaction

GOOD = {"v": 1, "channel": "zone:A", "epoch": "0a1b", "rev": 3, "tx": "t", "time": 5, "events": []}


@pytest.fixture
def codec() -> EnvelopeCodec:
    """A codec with the usual limits."""
    return EnvelopeCodec()


def test_an_envelope_is_json_with_the_events_as_they_were_encoded(codec: EnvelopeCodec) -> None:
    """Other programs may read it; the events' bytes are those of the commit."""
    change = Change.of_json(
        "zone:A", Position("0a1b", 3), "t", 5, b'[ {"type": "left", "user_id":1, "version":2} ]'
    )
    data = codec.encode(change)
    assert change.events_json in data
    assert json.loads(data) == GOOD | {"events": [{"type": "left", "user_id": 1, "version": 2}]}


def test_what_was_encoded_is_decoded(codec: EnvelopeCodec) -> None:
    """A round trip changes nothing."""
    change = transaction(MAX_REV, "zone:A", "zones", "unassigned").changes[0]
    message = codec.decode(codec.encode(change), "zone:A")
    assert message.position == change.position
    assert message.parts == change.parts
    assert message.events == change.events
    assert message.events_json == change.events_json


def test_a_trace_goes_along_where_there_is_one(codec: EnvelopeCodec) -> None:
    """Nodes that trace nothing send nothing of it, and take what others send."""
    change = transaction(1, "zone:A").changes[0]
    assert b"trace" not in codec.encode(change)
    assert codec.decode(codec.encode(change), "zone:A").trace == ""
    traced = replace(change, trace="00-" + "a" * 32)
    assert codec.decode(codec.encode(traced), "zone:A").trace == traced.trace


def test_one_of_one_channel_has_no_parts(codec: EnvelopeCodec) -> None:
    """The most frequent transaction is the shortest envelope."""
    data = codec.encode(transaction(1, "zone:A").changes[0])
    assert b"parts" not in data
    assert codec.decode(data, "zone:A").parts == ()


@pytest.mark.parametrize("over", [0, 1])
def test_the_limit_of_bytes_is_exact(over: int) -> None:
    """An envelope of exactly the limit carries its events, one a byte longer tells the position."""
    change = transaction(1, "zone:A", "zone:B", events=(entered(name="x" * 500),)).changes[0]
    size = len(EnvelopeCodec().encode(change))
    codec = EnvelopeCodec(EnvelopeLimits(max_bytes=size - over))
    data = codec.encode(change)
    message = codec.decode(data, "zone:A")
    assert (message.events is None) == (message.events_json is None) == bool(over)
    assert (message.position, message.parts) == (change.position, change.parts)
    assert len(data) <= size - over


@pytest.mark.parametrize(("channels", "wide"), [(100, False), (101, True)])
def test_a_wide_transaction_tells_the_position_only(
    codec: EnvelopeCodec, channels: int, *, wide: bool
) -> None:
    """Over 100 channels neither parts nor events are carried, whatever their size."""
    change = transaction(1, *(f"zone:{i}" for i in range(channels)), events=()).changes[0]
    message = codec.decode(codec.encode(change), "zone:0")
    assert (message.events is None) == wide
    assert message.parts == (() if wide else change.parts)


def test_a_newer_envelope_is_read(codec: EnvelopeCodec) -> None:
    """During an upgrade, nodes read each other's envelopes by the keys that they know."""
    data = json.dumps(GOOD | {"shard": 3, "colours": ["red"]}).encode()
    assert codec.decode(data, "zone:A").position == Position("0a1b", 3)


def test_events_of_a_newer_kind_leave_the_position(codec: EnvelopeCodec) -> None:
    """Who can't read the events still learns that there is something to read in the log."""
    data = json.dumps(GOOD | {"events": [{"type": "teleported"}]}).encode()
    message = codec.decode(data, "zone:A")
    assert (message.events, message.events_json) == (None, None)
    assert message.position == Position("0a1b", 3)


@pytest.mark.parametrize(
    "doctored",
    [
        GOOD | {"v": 2},
        {"v": 2},
        {"v": 2, "channel": "zone:B", "offset": "far"},
        GOOD | {"v": 9, "rev": "x"},
        GOOD | {"v": 2, "parts": [["nowhere", 1]]},
    ],
)
def test_an_envelope_of_a_newer_version_says_only_that(
    codec: EnvelopeCodec, doctored: dict[str, object]
) -> None:
    """Nothing in it may mean what it did, its position included."""
    with pytest.raises(NewerEnvelopeError):
        codec.decode(json.dumps(doctored).encode(), "zone:A")


def test_an_older_envelope_without_what_came_later_is_read(codec: EnvelopeCodec) -> None:
    """Parts and events may be missing; then there is one channel, and the log has the change."""
    data = json.dumps({key: GOOD[key] for key in GOOD if key != "events"}).encode()
    message = codec.decode(data, "zone:A")
    assert (message.parts, message.events) == ((), None)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"{",
        b"\xff\xfe\x00",
        json.dumps(GOOD).encode().replace(b'"tx": "', b'"tx": "\xdd'),
        b"[" * 100_000,
        b'{"v":1,"events":' + b"[" * 100_000,
        *(
            json.dumps(GOOD | change).encode()
            for change in (
                {"v": 0},
                {"v": "1"},
                {"rev": 0},
                {"rev": -1},
                {"rev": MAX_REV + 1},
                {"rev": 1.5},
                {"epoch": ""},
                {"epoch": "XYZ"},
                {"tx": "t" * 65},
                {"time": -1},
                {"parts": [["zone:A", 0]]},
                {"parts": [["nowhere", 1]]},
                {"parts": [["zone:A", 1, 2]]},
                {"channel": "zone:B"},
                {"channel": None},
            )
        ),
        *(
            json.dumps({k: v for k, v in GOOD.items() if k != key}).encode()
            for key in GOOD
            if key not in ("events",)
        ),
    ],
    ids=lambda data: data[:60].decode("latin-1"),
)
def test_garbage_is_refused(codec: EnvelopeCodec, data: bytes) -> None:
    """Whatever else comes over the bus raises one error that quotes nothing of it."""
    with pytest.raises(MalformedEnvelopeError) as caught:
        codec.decode(data, "zone:A")
    assert len(caught.value.reason) <= 200


def test_events_nested_too_deeply_are_refused(codec: EnvelopeCodec) -> None:
    """Attributes too deep for the decoder are one more malformed message, not a crash."""
    deep = b'{"a":' * 5_000 + b"1" + b"}" * 5_000
    user = (
        b'{"id":1,"global_id":2,"name":"x","zone_id":null,"version":1,"attributes":' + deep + b"}"
    )
    events = msgspec.Raw(b'[{"type":"entered","user":' + user + b"}]")
    data = msgspec.json.encode(GOOD | {"events": events})
    with pytest.raises(MalformedEnvelopeError):
        codec.decode(data, "zone:A")
