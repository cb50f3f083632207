"""The state of a bus, decided by heartbeats."""

from __future__ import annotations

import pytest

from cache.health import BusHealth
from channels.ports import BusState


class Clock:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Bench:
    """A health with its clock and what it told."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.told: list[BusState] = []
        self.health = BusHealth(
            interval_s=1,
            deaf_after_s=3,
            clock_s=self.clock,
            on_change=lambda state, _reason: self.told.append(state),
        )
        self.health.connected()

    def state(self) -> BusState:
        return self.health.state


@pytest.fixture
def bench() -> Bench:
    """A bus just connected."""
    return Bench()


def test_a_bus_is_live_when_it_hears_itself(bench: Bench) -> None:
    """A connection alone proves nothing."""
    heartbeat = bench.health.next_heartbeat()
    assert bench.state() is BusState.DOWN
    bench.health.hear(heartbeat)
    assert bench.state() is BusState.LIVE
    assert bench.told == [BusState.LIVE]


def test_a_bus_that_never_was_live_is_told_once(bench: Bench) -> None:
    """Who starts while it is down reads so in the log, and not at each attempt."""
    bench.health.fail(BusState.DOWN, "refused")
    bench.health.fail(BusState.DOWN, "refused")
    assert bench.told == [BusState.DOWN]


def test_a_heartbeat_from_before_a_failure_heals_nothing(bench: Bench) -> None:
    """Only one sent after the failure shows that it is over."""
    early = bench.health.next_heartbeat()
    bench.health.fail(BusState.DOWN, "test")
    bench.health.hear(early)
    assert bench.state() is BusState.DOWN
    bench.health.hear(bench.health.next_heartbeat())
    assert bench.state() is BusState.LIVE


def test_a_heartbeat_of_an_earlier_connection_heals_nothing(bench: Bench) -> None:
    """What a hung server delivers late says nothing of the new connection's publications."""
    early = bench.health.next_heartbeat()
    bench.health.connected()
    bench.health.hear(early)
    assert bench.state() is BusState.DOWN


@pytest.mark.parametrize("payload", [b"", b"1", b":1", b"feed:1", b"feed:x", b"\xff:1"])
def test_foreign_heartbeats_count_for_nothing(bench: Bench, payload: bytes) -> None:
    """Nor do those of a node restarted under the same name."""
    bench.health.next_heartbeat()
    bench.health.hear(payload)
    bench.health.hear(Bench().health.next_heartbeat())
    assert bench.state() is BusState.DOWN


def test_silence_is_counted_from_the_last_heartbeat_heard(bench: Bench) -> None:
    """Heard at 100, the next one of 101 is missing: deaf at 103."""
    bench.health.hear(bench.health.next_heartbeat())
    bench.clock.now_s = 101
    bench.health.next_heartbeat()
    bench.clock.now_s = 102.5
    bench.health.next_heartbeat()
    assert bench.health.deaf_in_s() == pytest.approx(0.5)
    bench.clock.now_s = 103
    assert bench.health.deaf_in_s() <= 0


def test_a_process_that_slept_is_not_deaf(bench: Bench) -> None:
    """Who sent no heartbeats couldn't hear any: the silence counts from the next one on."""
    bench.health.hear(bench.health.next_heartbeat())
    bench.clock.now_s = 1_000
    assert bench.health.deaf_in_s() > 0
    bench.health.next_heartbeat()
    assert bench.health.deaf_in_s() == pytest.approx(2)


def test_each_state_is_told_once(bench: Bench) -> None:
    """Failure upon failure is one line in the log."""
    bench.health.hear(bench.health.next_heartbeat())
    for _ in range(3):
        bench.health.fail(BusState.DEAF, "test")
    bench.health.fail(BusState.DOWN, "test")
    bench.health.hear(bench.health.next_heartbeat())
    assert bench.told == [BusState.LIVE, BusState.DEAF, BusState.DOWN, BusState.LIVE]
    assert bench.health.times_live == 2
