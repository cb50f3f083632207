"""When changes go out: at once for few, joined for many, and in pieces that leave room."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from channels.feed import FeedConfig
from channels.pace import PaceConfig
from channels.repairs import FollowerConfig
from channels.subscribers import EndReason
from tests.channels.virtual_time import run_in_virtual_time
from tests.channels.world import Screen, World, in_world

QUIET = FeedConfig(
    following=FollowerConfig(gap_wait_s=1_000, linger_s=0.01), head_check_interval_s=1_000
)
IN_PIECES = replace(QUIET, pace=PaceConfig(window_s=0, piece_max_writes=2))


async def _crowd(world: World, size: int) -> list[Screen]:
    return [await world.watch("zone:A") for _ in range(size)]


async def _turn(times: int = 1) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


def test_changes_for_a_large_crowd_are_joined_within_the_window() -> None:
    """The first goes at once; what follows within the window goes together at its end."""

    async def scene(world: World) -> None:
        crowd = await _crowd(world, 1_000)
        for n in range(3):
            world.commit((n, "A"))
            await asyncio.sleep(0.005)
        assert [len(frame) for frame in crowd[0].frames] == [1]
        await asyncio.sleep(0.011)
        assert [[len(frame) for frame in s.frames] for s in crowd] == [[1, 2]] * 1_000

    run_in_virtual_time(in_world(scene, config=QUIET))


def test_a_crowd_whose_passes_fill_the_window_leaves_time_for_others() -> None:
    """A pass that takes longer than the window is not followed by the next one at once."""
    pace = PaceConfig(window_s=0.025, window_per_write_s=0.001)

    async def scene(world: World) -> None:
        crowd = await _crowd(world, 100)
        world.commit((0, "A"))
        await asyncio.sleep(0.010)
        world.commit((1, "A"))
        await asyncio.sleep(0.030)
        assert [len(frame) for frame in crowd[0].frames] == [1]
        await asyncio.sleep(0.020)
        assert [len(frame) for frame in crowd[0].frames] == [1, 1]

    run_in_virtual_time(in_world(scene, config=replace(QUIET, pace=pace)))


def test_a_small_crowd_does_not_wait_for_a_window() -> None:
    """Each change of its own, a millisecond apart."""

    async def scene(world: World) -> None:
        (screen,) = await _crowd(world, 1)
        for n in range(3):
            world.commit((n, "A"))
            await asyncio.sleep(0.001)
        assert [len(frame) for frame in screen.frames] == [1, 1, 1]

    run_in_virtual_time(in_world(scene, config=QUIET))


def test_many_changes_at_once_do_not_wait_for_the_window() -> None:
    """They are joined already."""

    async def scene(world: World) -> None:
        crowd = await _crowd(world, 1_000)
        world.commit((0, "A"))
        await _turn(5)
        for n in range(8):
            world.commit((n + 1, "A"))
        await _turn(5)
        assert [len(frame) for frame in crowd[0].frames] == [1, 8]

    run_in_virtual_time(in_world(scene, config=QUIET))


def test_others_have_the_loop_between_the_pieces_of_a_pass() -> None:
    """No turn of the loop writes to more than a piece of the crowd."""

    async def scene(world: World) -> None:
        crowd = await _crowd(world, 10)
        world.commit((1, "A"))
        written = []
        for _ in range(8):
            await _turn()
            written.append(sum(len(screen.frames) for screen in crowd))
        steps = [b - a for a, b in zip([0, *written], written, strict=False)]
        assert max(steps) == 2
        assert written[-1] == 10

    run_in_virtual_time(in_world(scene, config=IN_PIECES))


def test_who_comes_between_two_pieces_gets_nothing_twice() -> None:
    """Its state holds what the pass still has for others, and it lacks nothing of the next."""

    async def scene(world: World) -> None:
        crowd = await _crowd(world, 10)
        world.commit((1, "A"))
        await _turn(2)
        world.commit((2, "A"))
        late = await world.watch("zone:A")
        assert late.positions["zone:A"].rev == 2
        assert sum(len(screen.frames) for screen in crowd) < 10
        world.commit((3, "A"))
        await _turn(30)
        for screen in [*crowd, late]:
            world.assert_equal(screen)
        assert [change.rev for frame in late.frames for change in frame] == [3]

    run_in_virtual_time(in_world(scene, config=IN_PIECES))


def test_coming_does_not_make_everybody_be_served() -> None:
    """A storm of clients costs a pass of its own for none of them."""

    async def scene(world: World) -> None:
        crowd = await _crowd(world, 1_000)
        world.commit((0, "A"))
        await _turn(5)
        world.commit((1, "A"))
        late = await _crowd(world, 20)
        assert {len(screen.frames) for screen in crowd} == {1}
        await asyncio.sleep(0.11)
        assert {len(screen.frames) for screen in crowd} == {2}
        assert all(screen.frames == [] for screen in late)

    run_in_virtual_time(in_world(scene, config=QUIET))


def test_a_crowd_waits_while_clients_come() -> None:
    """Each who comes adds to the window, up to four times what it is for this crowd."""

    async def scene(world: World) -> None:
        crowd = await _crowd(world, 1_000)
        world.commit((0, "A"))
        await _turn(5)
        world.commit((1, "A"))
        for _ in range(9):
            await world.watch("zone:A")
            await asyncio.sleep(0.01)
        assert [len(frame) for frame in crowd[0].frames] == [1]
        await asyncio.sleep(0.015)
        assert [len(frame) for frame in crowd[0].frames] == [1, 1]

    run_in_virtual_time(in_world(scene, config=QUIET))


def test_one_who_comes_alone_delays_a_crowd_by_little() -> None:
    """Not by what a storm may take."""

    async def scene(world: World) -> None:
        crowd = await _crowd(world, 1_000)
        world.commit((0, "A"))
        await _turn(5)
        world.commit((1, "A"))
        await world.watch("zone:A")
        await asyncio.sleep(0.036)
        assert [len(frame) for frame in crowd[0].frames] == [1, 1]

    run_in_virtual_time(in_world(scene, config=QUIET))


def test_a_storm_delays_no_change_longer_than_its_window() -> None:
    """However many come, and however large the crowd is."""
    pace = PaceConfig(window_per_write_s=0.001, storm_window_per_write_s=1, storm_window_s=0.2)

    async def scene(world: World) -> None:
        crowd = await _crowd(world, 100)
        world.commit((0, "A"))
        await _turn(5)
        world.commit((1, "A"))
        for _ in range(19):
            await world.watch("zone:A")
            await asyncio.sleep(0.01)
        assert [len(frame) for frame in crowd[0].frames] == [1]
        await asyncio.sleep(0.015)
        assert [len(frame) for frame in crowd[0].frames] == [1, 1]

    run_in_virtual_time(in_world(scene, config=replace(QUIET, pace=pace)))


def test_a_storm_does_not_make_changes_pile_up() -> None:
    """A busy zone is served before its window ends, so that replicas remember what is pending."""

    async def scene(world: World) -> None:
        crowd = await _crowd(world, 1_000)
        world.commit((0, "A"))
        await _turn(5)
        await _crowd(world, 200)
        for n in range(63):
            world.commit((n + 1, "A"))
        await _turn(5)
        assert [len(frame) for frame in crowd[0].frames] == [1]
        world.commit((64, "A"))
        await _turn(5)
        assert [len(frame) for frame in crowd[0].frames] == [1, 64]

    run_in_virtual_time(in_world(scene, config=QUIET))


def test_who_leaves_between_two_pieces_gets_no_more() -> None:
    """Nor of one channel, though it stays on another that is in the same pass."""

    async def scene(world: World) -> None:
        both = [await world.watch("zone:A", "zone:B") for _ in range(6)]
        world.commit((1, "A"))
        world.commit((2, "B"))
        await _turn(2)
        waiting = [screen for screen in both if not screen.frames]
        assert len(waiting) >= 2
        world.feed.leave(waiting[0])
        world.feed.unsubscribe(waiting[1], "zone:A")
        await _turn(30)
        assert waiting[0].frames == []
        assert {c.channel for frame in waiting[1].frames for c in frame} == {"zone:B"}

    run_in_virtual_time(in_world(scene, config=IN_PIECES))


def test_who_stops_reading_between_two_pieces_is_brought_up_to_date() -> None:
    """From where it was before the pass."""

    async def scene(world: World) -> None:
        crowd = await _crowd(world, 6)
        world.commit((1, "A"))
        await _turn(2)
        slow = next(screen for screen in crowd if not screen.frames)
        slow.congested = True
        world.commit((2, "A"))
        await _turn(30)
        assert slow.frames == []
        slow.congested = False
        world.feed.drained(slow)
        assert [[change.rev for change in frame] for frame in slow.frames] == [[1, 2]]

    run_in_virtual_time(in_world(scene, config=IN_PIECES))


def test_a_zone_that_is_deleted_ends_for_each_after_its_last_change() -> None:
    """In pieces like any other change."""

    async def scene(world: World) -> None:
        crowd = await _crowd(world, 7)
        world.commit((1, "A"))
        for change in world.truth.delete_zone("A", "B").changes:
            world.bus.bring(change)
        await _turn(30)
        for screen in crowd:
            assert screen.ended == [("zone:A", EndReason.GONE)]
            assert [change.rev for frame in screen.frames for change in frame] == [1, 2]

    run_in_virtual_time(in_world(scene, config=IN_PIECES))
