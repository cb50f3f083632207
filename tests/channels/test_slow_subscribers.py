"""Who does not read is held back, brought up to date, or cut; the others notice nothing."""

from __future__ import annotations

from channels.feed import FeedConfig
from channels.positions import Position
from channels.repairs import FollowerConfig
from channels.subscribers import EndReason
from tests.channels.world import Screen, World, in_world


async def test_a_slow_subscriber_gets_what_it_missed_in_one_frame() -> None:
    """While congested nothing is queued; drained, it gets ordinary changes of all channels."""

    async def play(world: World) -> None:
        slow = await world.watch("zone:A", "zone:B")
        quick = await world.watch("zone:A")
        slow.congested = True
        for n in range(1, 6):
            world.commit((n, "A"))
        world.commit((1, "B"))
        await quick.until(lambda s: s.positions["zone:A"].rev == 6)
        assert slow.frames == []
        slow.congested = False
        world.feed.drained(slow)
        assert len(slow.frames) == 1
        world.assert_equal(slow)
        world.assert_equal(quick)
        world.commit((7, "A"))
        await slow.until(lambda s: s.positions["zone:A"].rev == 7)

    await in_world(play)


async def test_a_subscriber_too_far_behind_is_told_to_take_the_state_anew() -> None:
    """The changes are no longer remembered: 2502, and never a silent skip."""
    config = FeedConfig(following=FollowerConfig(resume_max_changes=3))

    async def play(world: World) -> None:
        slow = await world.watch("zone:A", "zone:B")
        quick = await world.watch("zone:A")
        slow.congested = True
        for n in range(1, 6):
            world.commit((n, "A"))
        await quick.until(lambda s: s.positions["zone:A"].rev == 5)
        slow.congested = False
        world.feed.drained(slow)
        assert slow.ended == [("zone:A", EndReason.ANEW)]
        assert world.feed.channels_of(slow) == {"zone:B"}

    await in_world(play, config=config)


async def test_a_subscriber_that_never_drains_is_cut_within_the_bound() -> None:
    """Memory and patience end."""
    config = FeedConfig(slow_drain_timeout_s=0.05, atomic_wait_s=0.05)

    async def play(world: World) -> None:
        stuck = await world.watch("zone:A")
        stuck.congested = True
        world.commit((1, "A"))
        await stuck.until(lambda s: s.was_cut)
        assert world.feed.channels_of(stuck) == frozenset()
        assert world.feed.slow_count == 0

    await in_world(play, config=config)


async def test_a_slow_subscriber_that_held_a_part_misses_nothing() -> None:
    """What was held for it when it fell behind is sent with the rest, whole."""
    config = FeedConfig(following=FollowerConfig(gap_wait_s=30), head_check_interval_s=30)

    async def play(world: World) -> None:
        both = await world.watch("zone:A", "zone:B")
        only_a = await world.watch("zone:A")
        parts = world.commit((1, "A"), (2, "B"), publish=False).changes
        world.bus.bring(parts[0])
        await only_a.until(lambda s: len(s.frames) == 1)
        both.congested = True
        world.commit((3, "A"))
        await only_a.until(lambda s: len(s.frames) == 2)
        world.bus.bring(parts[1])
        both.congested = False
        world.feed.drained(both)
        await both.until(lambda s: bool(s.frames))
        world.assert_equal(both)
        assert {change.channel for change in both.frames[0]} == {"zone:A", "zone:B"}

    await in_world(play, config=config)


async def test_a_slow_subscriber_learns_that_its_zone_was_deleted() -> None:
    """The deletion is remembered until it reads again."""

    async def play(world: World) -> None:
        slow = await world.watch("zone:A")
        quick = await world.watch("zone:B")
        slow.congested = True
        for change in world.truth.delete_zone("A", "B").changes:
            world.bus.bring(change)
        world.commit((9, "B"))
        await quick.until(lambda s: bool(s.frames))
        slow.congested = False
        world.feed.drained(slow)
        assert slow.ended == [("zone:A", EndReason.GONE)]

    await in_world(play)


async def test_a_catch_up_of_too_many_bytes_is_the_state_anew() -> None:
    """Who reads again gets no frame of its own that is larger than the bound."""
    config = FeedConfig(
        following=FollowerConfig(gap_wait_s=0.01),
        head_check_interval_s=0.1,
        catch_up_max_bytes=10_000,
    )

    async def play(world: World) -> None:
        slow = await world.watch("zone:A", "zone:B")
        quick = await world.watch("zone:A", "zone:B")
        slow.congested = True
        for first in range(0, 1_000, 100):
            world.commit(*((user, "A") for user in range(first, first + 100)))
        world.commit((1_000, "B"))
        await quick.until(lambda s: len(s.users["zone:A"]) == 1_000 and bool(s.users["zone:B"]))
        slow.congested = False
        world.feed.drained(slow)
        assert slow.ended == [("zone:A", EndReason.ANEW)]
        assert [change.channel for frame in slow.frames for change in frame] == ["zone:B"]
        world.assert_equal(slow)

    await in_world(play, config=config)


async def test_a_resume_of_too_many_bytes_is_the_state() -> None:
    """The changes would be a larger reply than a state may be."""
    following = FollowerConfig(gap_wait_s=0.01)
    config = FeedConfig(following=following, head_check_interval_s=0.1, resume_max_bytes=2_000)

    async def play(world: World) -> None:
        quick = await world.watch("zone:A")
        start = quick.positions["zone:A"]
        world.commit(*((user, "A") for user in range(100)))
        world.commit((1, None))
        await quick.until(lambda s: s.positions["zone:A"].rev == start.rev + 2)
        far = await world.watch("zone:A", since=start)
        assert [begun.changes for begun in far.starts] == [None]
        near = Screen(users={"zone:A": dict(quick.users["zone:A"])})
        await world.watch("zone:A", screen=near, since=Position(start.epoch, start.rev + 1))
        assert [len(begun.changes or ()) for begun in near.starts] == [1]

    await in_world(play, config=config)
