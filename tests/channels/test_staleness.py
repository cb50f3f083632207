"""Staleness: told when the picture is not verified, whatever the wall clock does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from channels.feed import FeedConfig
from channels.repairs import FollowerConfig
from tests.channels.virtual_time import run_in_virtual_time
from tests.channels.world import World, in_world

QUICK = FeedConfig(
    following=FollowerConfig(gap_wait_s=0.01), head_check_interval_s=0.1, stale_after_s=2
)


class WallClock:
    """A wall clock that stands still until it is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ms = 1_000_000_000_000
        monkeypatch.setattr("channels.feed.unix_ms", lambda: self.now_ms)


def test_a_wall_clock_that_jumps_ahead_makes_nothing_stale(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only time that passed counts."""
    wall = WallClock(monkeypatch)

    async def scene(world: World) -> None:
        screen = await world.watch("zone:A")
        for _ in range(50):
            wall.now_ms += 3_600_000
            await asyncio.sleep(0.033)
        assert screen.staleness == []

    run_in_virtual_time(in_world(scene, config=QUICK))


def test_a_wall_clock_that_is_set_back_hides_no_staleness(monkeypatch: pytest.MonkeyPatch) -> None:
    """The database is down, and watchers are told so in time, by the clock as it is now."""
    wall = WallClock(monkeypatch)

    async def scene(world: World) -> None:
        screen = await world.watch("zone:A")
        world.truth.down = True
        await asyncio.sleep(1)
        wall.now_ms -= 3_600_000
        await asyncio.sleep(2)
        (since_ms,) = screen.staleness
        assert since_ms is not None
        assert 2_000 <= wall.now_ms - since_ms <= 3_000

    run_in_virtual_time(in_world(scene, config=QUICK))


def test_heads_that_are_known_but_cannot_be_followed_are_stale() -> None:
    """The heads are answered, the log is not: what is shown is old, and that is told."""

    async def scene(world: World) -> None:
        screen = await world.watch("zone:A")
        world.truth.failing = {"changes", "state"}
        world.commit((1, "A"), publish=False)
        await asyncio.sleep(3)
        assert len(screen.staleness) == 1
        world.truth.failing = set()
        await asyncio.sleep(1)
        assert screen.staleness[1:] == [None]
        world.assert_equal(screen)

    run_in_virtual_time(in_world(scene, config=QUICK))


def test_a_repair_that_hangs_is_stale() -> None:
    """Nothing fails, but what is shown is old."""

    async def scene(world: World) -> None:
        screen = await world.watch("zone:A")
        world.truth.due_paces["changes"] = [(5, 0)]
        world.commit((1, "A"), publish=False)
        await asyncio.sleep(3)
        assert len(screen.staleness) == 1
        await asyncio.sleep(3)
        assert screen.staleness[1:] == [None]
        world.assert_equal(screen)

    run_in_virtual_time(in_world(scene, config=QUICK))


def test_a_busy_channel_is_not_stale_because_the_head_is_always_ahead() -> None:
    """At each comparison something is under way, but nothing stays so."""

    async def scene(world: World) -> None:
        screen = await world.watch("zone:A")
        loop = asyncio.get_running_loop()
        for _ in range(500):
            change = world.commit((1, "A"), publish=False).changes[0]
            loop.call_later(0.03, world.bus.bring, change)
            await asyncio.sleep(0.01)
        assert screen.staleness == []
        assert world.feed.stale_since_ms is None

    run_in_virtual_time(in_world(scene, config=QUICK))


def test_who_watches_nothing_when_it_is_live_again_is_told_so() -> None:
    """It was told that the picture is stale, and would believe it ever after."""

    async def scene(world: World) -> None:
        screen = await world.watch("zone:A")
        world.truth.down = True
        await asyncio.sleep(3)
        world.feed.unsubscribe(screen, "zone:A")
        world.truth.down = False
        await asyncio.sleep(1)
        await world.watch("zone:A", screen=screen)
        assert len(screen.staleness) == 2
        assert screen.staleness[1] is None

    run_in_virtual_time(in_world(scene, config=QUICK))


def test_who_left_is_told_nothing() -> None:
    """A connection that is gone is forgotten."""

    async def scene(world: World) -> None:
        screen = await world.watch("zone:A")
        world.truth.down = True
        await asyncio.sleep(3)
        world.feed.leave(screen)
        world.truth.down = False
        await asyncio.sleep(1)
        assert len(screen.staleness) == 1

    run_in_virtual_time(in_world(scene, config=QUICK))


def test_a_channel_that_failed_and_is_left_makes_nobody_stale() -> None:
    """Nobody looks at what can't be followed; the others' picture is verified."""

    async def scene(world: World) -> None:
        screen = await world.watch("zone:B")
        leaving = await world.watch("zone:A")
        world.truth.failing = {"changes", "state"}
        world.commit((1, "A"), publish=False)
        await asyncio.sleep(1)
        world.feed.leave(leaving)
        await asyncio.sleep(10)
        assert world.feed.stale_since_ms is None
        assert screen.staleness == []

    config = FeedConfig(
        following=FollowerConfig(gap_wait_s=0.01, linger_s=0.01),
        head_check_interval_s=0.1,
        stale_after_s=2,
    )
    run_in_virtual_time(in_world(scene, config=config))


@pytest.mark.parametrize("answered_after_s", [1.8, 5])
def test_an_answer_that_came_late_makes_nothing_live(answered_after_s: float) -> None:
    """It tells how the heads were when they were asked for; the next one ends the staleness."""

    async def scene(world: World) -> None:
        screen = await world.watch("zone:A")
        world.truth.due_paces["heads"] = [(answered_after_s, 0)]
        await asyncio.sleep(8)
        assert len(screen.staleness) == 2
        assert screen.staleness[1] is None

    run_in_virtual_time(in_world(scene, config=FeedConfig()))


async def test_a_node_that_ends_begins_no_repair_any_more() -> None:
    """A timer that is due after its end would otherwise ask for a task that nobody owns."""
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))

    async def scene(world: World) -> None:
        screen = await world.watch("zone:A")
        world.truth.gate.clear()
        first, second = (world.commit((1, zone), publish=False) for zone in ("A", "B"))
        assert first.changes
        for change in second.changes:
            world.bus.bring(change)
        assert screen is not None

    try:
        await in_world(scene)
        await asyncio.sleep(0.05)
    finally:
        asyncio.get_running_loop().set_exception_handler(None)
    assert failures == []
