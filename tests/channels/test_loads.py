"""Loads: channels that are wanted together are read together; in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

from channels import loads
from channels.feed import FeedConfig
from channels.follower import UnknownChannelError
from channels.ports import UnavailableError
from channels.repairs import FollowerConfig
from tests.channels.virtual_time import run_in_virtual_time
from tests.channels.world import Screen, World, in_world

RARELY_CHECKED = FeedConfig(
    following=FollowerConfig(gap_wait_s=0.01, linger_s=1), head_check_interval_s=1_000
)
ZONES = [f"Z{number}" for number in range(1_000)]
CHANNELS = [f"zone:{zone_id}" for zone_id in ZONES]


def play(scene: Callable[[World], Awaitable[None]], zones: Sequence[str] = ZONES) -> None:
    """Play a scene in virtual time."""
    run_in_virtual_time(in_world(scene, zones=zones, config=RARELY_CHECKED))


def test_a_thousand_channels_of_one_subscriber_are_read_in_a_few_questions() -> None:
    """Each in one database snapshot, and one registration."""

    async def scene(world: World) -> None:
        screen = await world.watch(*CHANNELS)
        assert world.truth.questions == len(CHANNELS) / loads.LOAD_MAX_CHANNELS
        assert world.bus.channels == set(CHANNELS)
        world.commit((1, "Z0"), (2, "Z999"))
        await screen.until(lambda s: s.positions["zone:Z999"].rev == 1)
        world.assert_equal(screen)

    play(scene)


def test_subscribers_who_come_in_the_same_tick_share_a_question() -> None:
    """A crowd that returns, each to a channel of its own, doesn't ask one by one."""

    async def scene(world: World) -> None:
        async with asyncio.TaskGroup() as tasks:
            for channel in CHANNELS[:100]:
                tasks.create_task(world.watch(channel))
        assert world.truth.questions == 1

    play(scene)


def test_what_an_answer_leaves_out_is_asked_for_again() -> None:
    """States that are too large together come in several answers, each at its own position."""

    async def scene(world: World) -> None:
        world.truth.answer_max_states = 2
        world.truth.due_paces["state"] = [(0, 1), (0, 1), (0, 1)]
        watching = asyncio.gather(world.watch(*CHANNELS[:5]))
        await asyncio.sleep(0.5)
        world.commit((1, "Z0"))
        world.commit((2, "Z4"))
        (screen,) = await watching
        world.assert_equal(screen)

    play(scene)


def test_a_failure_is_told_to_all_who_wait_and_forgotten() -> None:
    """Who asks again has it read again."""

    async def scene(world: World) -> None:
        world.truth.down = True
        many, one = await asyncio.gather(
            world.watch(*CHANNELS[:3]), world.watch("zone:Z1"), return_exceptions=True
        )
        assert isinstance(many, UnavailableError)
        assert isinstance(one, UnavailableError)
        assert not world.feed.follower.followed_count
        assert not world.bus.channels
        world.truth.down = False
        world.assert_equal(await world.watch(*CHANNELS[:3]))

    play(scene)


def test_one_unknown_channel_takes_no_other_subscriber_with_it() -> None:
    """It is read with channels that exist."""

    async def scene(world: World) -> None:
        many, one = await asyncio.gather(
            world.watch("zone:Z0", "zone:none"), world.watch("zone:Z1"), return_exceptions=True
        )
        assert isinstance(many, UnknownChannelError)
        assert isinstance(one, Screen)

    play(scene)


def test_what_is_prepared_and_never_wanted_is_followed_no_longer_than_it_lingers() -> None:
    """The client may be gone before its turn came."""

    async def scene(world: World) -> None:
        held = world.feed.prepare([*CHANNELS[:3], "zone:none"])
        await world.watch("zone:Z0")
        assert world.truth.questions == 1
        assert world.feed.prepare(["zone:Z0", "zone:Z1"]) == []
        world.feed.release(held)
        await asyncio.sleep(1.5)
        assert set(world.feed.follower.replicas) == {"zone:Z0"}
        assert world.bus.channels == {"zone:Z0"}

    play(scene)


def test_a_followed_channel_has_no_task_and_no_timer() -> None:
    """However many are followed, what runs and what is to run is the same."""

    async def scene(world: World) -> None:
        loop = cast("Any", asyncio.get_running_loop())
        await asyncio.sleep(10)
        tasks, timers = len(asyncio.all_tasks()), len(loop._scheduled)
        screen = await world.watch(*CHANNELS)
        assert len(screen.positions) == len(CHANNELS)
        assert len(asyncio.all_tasks()) == tasks
        # The node's own loops may each be between two of theirs.
        assert len(loop._scheduled) < timers + 5

    play(scene)
