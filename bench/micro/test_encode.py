"""Encode: a change for the bus, changes for clients, a zone's state for who comes new."""

from __future__ import annotations

from typing import Final

import msgspec
import pytest

from bench.micro.zones import CHANGES_PER_TICK, CHANNEL, Benchmark, changes, state
from cache.envelope import EnvelopeCodec
from channels.replica import encode_state
from realtime.websocket.centrifuge_codec import CentrifugeCodec
from realtime.websocket.json_codec import JSON
from realtime.websocket.protobuf_codec import PROTOBUF
from realtime.websocket.protobuf_fields import delimited
from realtime.websocket.protobuf_shapes import COMMAND

RESUMED: Final = {"channel": "zone:F1-Z1", "recover": True, "epoch": "c7890079205903b4"}
SAYS: Final = [
    {"id": 1, "connect": {}},
    *({"id": number, "subscribe": {**RESUMED, "offset": number}} for number in range(2, 22)),
]
SAID: Final[dict[CentrifugeCodec, bytes]] = {
    JSON: b"\n".join(map(msgspec.json.encode, SAYS)),
    PROTOBUF: b"".join(delimited(COMMAND.write(command)) for command in SAYS),
}


def test_a_change_for_the_bus(benchmark: Benchmark) -> None:
    """The envelope of one change, its events already encoded."""
    (change,) = changes(1)
    assert b'"changed"' in benchmark(EnvelopeCodec().encode, change)


def test_a_change_from_the_bus(benchmark: Benchmark) -> None:
    """The envelope read back, its events decoded."""
    codec = EnvelopeCodec()
    (change,) = changes(1)
    message = benchmark(codec.decode, codec.encode(change), CHANNEL)
    assert message.position.rev == 1


@pytest.mark.parametrize("codec", [JSON, PROTOBUF], ids=["json", "protobuf"])
def test_one_frame_of_what_a_tick_brought(benchmark: Benchmark, codec: CentrifugeCodec) -> None:
    """32 changes as one WebSocket message: made once for all connections that speak the same."""
    frame = benchmark(codec.encode, changes())
    assert frame.count(b'"tx"') == CHANGES_PER_TICK


@pytest.mark.parametrize("codec", [JSON, PROTOBUF], ids=["json", "protobuf"])
def test_what_a_client_says_that_comes_back(benchmark: Benchmark, codec: CentrifugeCodec) -> None:
    """`connect` and 20 resumed subscriptions in one message, read for each client."""
    assert len(benchmark(codec.decode_commands, SAID[codec], 100)) == 21


def test_the_state_of_a_thousand_users(benchmark: Benchmark) -> None:
    """A snapshot: made once for a revision, and shared."""
    assert benchmark(encode_state, state(1_000)).count(b'"global_id"') == 1_000
