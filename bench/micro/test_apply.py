"""Apply: what each change does to the node's own copy of the zone."""

from __future__ import annotations

from bench.micro.zones import CHANGES_PER_TICK, Benchmark, changes, state
from channels.replica import Replica

USERS = 1_000


def test_32_changes_to_a_zone_of_a_thousand_users(benchmark: Benchmark) -> None:
    """The copy begins anew each time, which is counted, too: its users are not copied."""
    begin, made = state(USERS), changes()
    replica = Replica(begin, recent_max_changes=300)

    def play() -> None:
        replica.reset(begin)
        for change in made:
            replica.apply(change)

    benchmark(play)
    assert replica.rev == CHANGES_PER_TICK


def test_a_state_of_a_thousand_users_after_each_change(benchmark: Benchmark) -> None:
    """What a storm costs while changes go on: each change makes the encoded state old."""
    begin, (change,) = state(USERS), changes(1)
    replica = Replica(begin, recent_max_changes=300)

    def play() -> bytes:
        replica.reset(begin)
        replica.apply(change)
        return replica.snapshot()

    assert b'"rev":1' in benchmark(play)
