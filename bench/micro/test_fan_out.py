"""Fan-out without sockets: what the hub costs beside the kernel, and beside the naive way."""

from __future__ import annotations

import time

from bench.micro.zones import CHANNEL, Benchmark, Sink, changes, state
from channels.hub import Hub
from channels.replica import Replica
from realtime.metrics import Metrics
from realtime.websocket.json_codec import CentrifugeJsonCodec

SUBSCRIBERS = 1_000


def test_32_changes_to_a_thousand_through_the_hub(benchmark: Benchmark) -> None:
    """One frame, handed to each."""
    hub = Hub(
        {CHANNEL: Replica(state(0), recent_max_changes=300)},
        Metrics(),
        call_soon=lambda _: None,
        unix_ms=lambda: 0,
        monotonic_s=time.monotonic,
        released=lambda _: None,
    )
    codec = CentrifugeJsonCodec()
    sinks = [Sink(codec) for _ in range(SUBSCRIBERS)]
    for sink in sinks:
        hub.attach(sink, CHANNEL)
    made = changes()

    def play() -> None:
        for change in made:
            hub.enqueue(change)
        hub.flush()

    benchmark(play)
    assert all(sink.taken_bytes for sink in sinks)


def test_32_changes_to_a_thousand_one_by_one(benchmark: Benchmark) -> None:
    """The naive way: each change encoded for each."""
    codec = CentrifugeJsonCodec()
    sinks = [Sink(codec) for _ in range(SUBSCRIBERS)]
    made = changes()

    def play() -> None:
        for change in made:
            for sink in sinks:
                sink.deliver(codec.encode([change]))

    benchmark(play)
    assert all(sink.taken_bytes for sink in sinks)
