"""Parts of transactions that are held back: for how long, for whom, at which cost."""

from __future__ import annotations

import asyncio

from channels.changes import Change
from channels.feed import FeedConfig
from channels.repairs import FollowerConfig
from channels.subscribers import EndReason
from tests.channels.virtual_time import run_in_virtual_time
from tests.channels.world import Screen, World, in_world

BUS_ONLY = FeedConfig(
    following=FollowerConfig(resume_max_changes=300, gap_wait_s=1_000),
    head_check_interval_s=1_000,
    atomic_wait_s=0.5,
)
"""With this only the bus brings anything."""


def _parts(world: World, *moves: tuple[int, str | None]) -> dict[str, Change]:
    transaction = world.commit(*moves, publish=False)
    return {change.channel: change for change in transaction.changes}


def test_a_stream_whose_parts_always_overlap_ends_nobody() -> None:
    """One bus lags behind the other: something is always held, but nothing for long."""

    async def scene(world: World) -> None:
        both = await world.watch("zone:A", "zone:B")
        loop = asyncio.get_running_loop()
        for _ in range(300):
            parts = _parts(world, (1, "A"), (2, "B"))
            world.bus.bring(parts["zone:A"])
            loop.call_later(0.025, world.bus.bring, parts["zone:B"])
            await asyncio.sleep(0.01)
        await both.until(lambda s: s.positions["zone:B"].rev == 300)
        assert both.ended == []
        world.assert_equal(both)
        assert all(len(frame) % 2 == 0 for frame in both.frames)

    run_in_virtual_time(in_world(scene, config=BUS_ONLY))


def test_a_part_that_stays_away_ends_the_wait_though_others_come_and_go() -> None:
    """The bound holds for each change that is held, not for the latest."""

    async def scene(world: World) -> None:
        screen = await world.watch("zone:A", "zone:B", "zone:C", "unassigned")
        began_s = asyncio.get_running_loop().time()
        world.bus.bring(_parts(world, (1, "A"), (2, "B"))["zone:A"])
        while not screen.ended:
            parts = _parts(world, (3, "C"), (4, None))
            world.bus.bring(parts["zone:C"])
            await asyncio.sleep(0.01)
            world.bus.bring(parts["unassigned"])
        assert {channel for channel, _ in screen.ended} >= {"zone:A", "zone:B"}
        assert {reason for _, reason in screen.ended} == {EndReason.RESUME}
        assert asyncio.get_running_loop().time() - began_s < 1

    run_in_virtual_time(in_world(scene, config=BUS_ONLY))


def test_a_frame_that_was_held_for_many_is_encoded_once() -> None:
    """All who waited for the same part share the frame."""

    async def scene(world: World) -> None:
        codec = Screen().codec
        screens = [
            await world.watch("zone:A", "zone:B", screen=Screen(codec=codec)) for _ in range(50)
        ]
        parts = _parts(world, (1, "A"), (2, "B"))
        world.bus.bring(parts["zone:A"])
        await asyncio.sleep(0.1)
        assert codec.encoded == 0
        world.bus.bring(parts["zone:B"])
        await screens[-1].until(lambda s: bool(s.frames))
        assert codec.encoded == 1
        assert all(screen.frames[0] is screens[0].frames[0] for screen in screens)

    run_in_virtual_time(in_world(scene, config=BUS_ONLY))


def test_who_drains_does_not_wait_for_parts_on_a_channel_that_ended() -> None:
    """Too far behind on one channel, it gets the other's changes at once."""

    async def scene(world: World) -> None:
        slow = await world.watch("zone:A", "zone:B")
        slow.congested = True
        for _ in range(5):
            world.commit((1, "A"))
        world.bus.bring(_parts(world, (1, "A"), (2, "B"))["zone:B"])
        await asyncio.sleep(0.1)
        slow.congested = False
        world.feed.drained(slow)
        assert slow.ended == [("zone:A", EndReason.ANEW)]
        assert [change.channel for frame in slow.frames for change in frame] == ["zone:B"]

    config = FeedConfig(
        following=FollowerConfig(resume_max_changes=3, gap_wait_s=1_000),
        head_check_interval_s=1_000,
    )
    run_in_virtual_time(in_world(scene, config=config))
