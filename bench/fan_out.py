"""Fan-out inside the process: one shared frame per tick against a frame for each subscriber."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from channels.changes import Change, ChannelState
from channels.events import Changed, User
from channels.hub import Hub
from channels.positions import Position
from channels.replica import Replica
from channels.subscribers import EndReason
from realtime.centrifuge_codec import CentrifugeJsonCodec
from realtime.metrics import Metrics

SUBSCRIBERS = 1_000
CHANGES_PER_TICK = 32
ROUNDS = 5


class _Sink:
    """A connection that takes frames and forgets them."""

    congested = False

    def __init__(self, codec: CentrifugeJsonCodec) -> None:
        self.codec = codec
        self.taken = 0

    def deliver(self, frame: bytes) -> None:
        self.taken += len(frame)

    def end_channel(self, channel: str, reason: EndReason) -> None:
        """Not reached: the zone stays."""

    def tell_staleness(self, since_ms: int | None) -> None:
        """Not reached: nothing is stale."""

    def cut(self) -> None:
        """Not reached: nobody is slow."""


def _changes() -> list[Change]:
    user = User(1, 1, "Ada", "A", {}, 2)
    return [
        Change.of_events("zone:A", Position("e", rev), f"t{rev}", 0, (Changed(user),))
        for rev in range(1, CHANGES_PER_TICK + 1)
    ]


def _deliveries_per_cpu_s(play: Callable[[], None]) -> float:
    rates = []
    for _ in range(ROUNDS):
        began_s, count = time.process_time(), 0
        while time.process_time() - began_s < 0.3:
            play()
            count += SUBSCRIBERS * CHANGES_PER_TICK
        rates.append(count / (time.process_time() - began_s))
    return statistics.median(rates)


def _through_hub(changes: Sequence[Change]) -> Callable[[], None]:
    state = ChannelState("zone:A", Position("e", 0), None, {}, {})
    replicas = {"zone:A": Replica(state, recent_max_changes=300)}
    hub = Hub(
        replicas,
        Metrics(),
        call_soon=lambda _: None,
        unix_ms=lambda: 0,
        monotonic_s=time.monotonic,
        released=lambda _: None,
    )
    codec = CentrifugeJsonCodec()
    for _ in range(SUBSCRIBERS):
        hub.attach(_Sink(codec), "zone:A")

    def play() -> None:
        for change in changes:
            hub.enqueue(change)
        hub.flush()

    return play


def _one_by_one(changes: Sequence[Change]) -> Callable[[], None]:
    codec = CentrifugeJsonCodec()
    sinks = [_Sink(codec) for _ in range(SUBSCRIBERS)]

    def play() -> None:
        for change in changes:
            for sink in sinks:
                sink.deliver(codec.encode([change]))

    return play


def fan_out() -> dict[str, Any]:
    """Measure deliveries per CPU second, without sockets, in one run."""
    changes = _changes()
    ours = _deliveries_per_cpu_s(_through_hub(changes))
    naive = _deliveries_per_cpu_s(_one_by_one(changes))
    return {
        "what": "deliveries/CPU s to 1,000 subscribers, 32 a tick, no sockets",
        "value": ours,
        "unit": "deliveries per CPU second",
        "peer": "a frame encoded for each subscriber",
        "peer_value": naive,
        "ratio": ours / naive,
        "runs": ROUNDS,
    }
