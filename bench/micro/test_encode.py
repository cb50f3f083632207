"""Encode: a change for the bus, changes for clients, a zone's state for who comes new."""

from __future__ import annotations

from bench.micro.zones import CHANGES_PER_TICK, CHANNEL, Benchmark, changes, state
from cache.envelope import EnvelopeCodec
from channels.replica import encode_state
from realtime.websocket.json_codec import CentrifugeJsonCodec


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


def test_one_frame_of_what_a_tick_brought(benchmark: Benchmark) -> None:
    """32 changes as the lines of one WebSocket message: made once for all connections."""
    frame = benchmark(CentrifugeJsonCodec().encode, changes())
    assert frame.count(b'"push"') == CHANGES_PER_TICK


def test_the_state_of_a_thousand_users(benchmark: Benchmark) -> None:
    """A snapshot: made once for a revision, and shared."""
    assert benchmark(encode_state, state(1_000)).count(b'"global_id"') == 1_000
