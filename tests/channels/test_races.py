"""Races between reads of the database, the bus, and who comes and goes; in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from channels.feed import FeedConfig, UnknownChannelError
from channels.ports import UnavailableError
from channels.positions import Position
from channels.repairs import FollowerConfig
from channels.subscribers import EndReason
from tests.channels.virtual_time import run_in_virtual_time
from tests.channels.world import Screen, World, in_world

BUS_ONLY = FeedConfig(
    following=FollowerConfig(gap_wait_s=0.01, linger_s=0.01), head_check_interval_s=1_000
)
"""With this nothing is found by the comparison of heads."""


def play(scene: Callable[[World], Awaitable[None]], config: FeedConfig | None = None) -> None:
    """Play a scene in virtual time."""
    run_in_virtual_time(in_world(scene, config=config))


async def assert_only_heads_are_asked(world: World) -> None:
    """Let time pass, in which nothing is to be read."""
    world.truth.asked.clear()
    await asyncio.sleep(5)
    assert {kind for kind, _ in world.truth.asked} == {"heads"}


def test_a_zone_found_gone_by_a_repair_is_asked_for_no_more() -> None:
    """The replica never comes to the head, as there is no state: that must not be tried on."""

    async def scene(world: World) -> None:
        screen = await world.watch("zone:A")
        world.commit((1, "A"), publish=False)
        world.truth.delete_zone("A", "B")
        world.truth.compact("zone:A", 2)
        await screen.until(lambda s: s.ended == [("zone:A", EndReason.GONE)])
        await assert_only_heads_are_asked(world)

    play(scene)


def test_a_channel_forgotten_during_its_repair_is_asked_for_no_more() -> None:
    """Its last watcher leaves while the log is read."""

    async def scene(world: World) -> None:
        screen = await world.watch("zone:A")
        world.truth.due_paces["changes"] = [(0, 0.5)]
        world.commit((1, "A"), publish=False)
        world.commit((2, "A"))
        await world.until(lambda: ("changes", "zone:A") in world.truth.asked)
        world.feed.leave(screen)
        await asyncio.sleep(1)
        await assert_only_heads_are_asked(world)

    play(scene)


def test_what_waits_of_another_history_is_not_asked_for_again_and_again() -> None:
    """A change far ahead waits when the database is restored; its elders never come."""

    async def scene(world: World) -> None:
        screen = await world.watch("zone:A")
        ahead = [world.commit((n, "A"), publish=False).changes[0] for n in range(1, 4)][-1]
        world.truth.heads["zone:A"].rev = 0
        world.truth.heads["zone:A"].epoch = "e2"
        world.truth.users.clear()
        world.bus.bring(ahead)
        await screen.until(lambda s: bool(s.ended))
        await world.watch("zone:A", screen=screen)
        await assert_only_heads_are_asked(world)
        world.assert_equal(screen)

    play(scene)


def test_a_zone_made_again_after_its_last_slow_watcher_leaves_no_replica_behind() -> None:
    """It is read anew for a watcher who goes in that very step."""

    async def scene(world: World) -> None:
        slow = await world.watch("zone:A")
        slow.congested = True
        for change in world.truth.delete_zone("A", "B").changes:
            world.bus.bring(change)
        world.truth.create_zone("A", "e2")
        await slow.until(lambda s: bool(s.ended))
        await asyncio.sleep(1)
        assert "zone:A" not in world.feed.follower.replicas
        assert "zone:A" not in world.bus.channels
        assert world.observer.count("failed") == 0

    play(scene)


def test_a_client_ahead_waits_for_a_second_repair_when_the_first_asked_too_early() -> None:
    """It must never be answered with a state older than what it has seen."""

    async def scene(world: World) -> None:
        await world.watch("zone:A")
        world.truth.due_paces["changes"] = [(0, 1)]
        world.commit((1, "A"), publish=False)
        world.commit((2, "A"))
        await asyncio.sleep(0.5)  # The log was read, and its answer is under way.
        world.commit((3, "A"), publish=False)
        ahead = Screen(users={"zone:A": dict(world.truth.users)})
        await world.watch("zone:A", screen=ahead, since=Position("e1", 3))
        assert ahead.starts[0].position == Position("e1", 3)
        assert ahead.starts[0].changes == ()

    play(scene, BUS_ONLY)


def test_a_reader_ahead_waits_for_a_second_repair_when_the_first_found_the_new_epoch_earlier() -> (
    None
):
    """That the replica is of the new epoch does not say that it is where the reader has been."""

    async def scene(world: World) -> None:
        await world.watch("zone:A")
        world.truth.asked.clear()
        world.truth.due_paces["state"] = [(0, 1)]
        world.truth.renew_epochs("e2")
        await world.until(lambda: ("state", "zone:A") in world.truth.asked)
        await asyncio.sleep(0.1)  # The state was read, and the answer is under way.
        world.commit((1, "A"), publish=False)
        snapshot = await world.feed.snapshot("zone:A", Position("e2", 1))
        assert snapshot.position == Position("e2", 1)

    play(scene)


def test_a_reader_ahead_is_not_answered_from_a_history_that_was_lost_meanwhile() -> None:
    """The epoch changes twice: what was read of the one between is not the present one."""

    async def scene(world: World) -> None:
        await world.watch("zone:A")
        world.truth.asked.clear()
        world.truth.due_paces["state"] = [(0, 1)]
        world.truth.renew_epochs("e2")
        await world.until(lambda: ("state", "zone:A") in world.truth.asked)
        await asyncio.sleep(0.1)
        world.truth.renew_epochs("e3")
        world.commit((1, "A"), publish=False)
        snapshot = await world.feed.snapshot("zone:A", Position("e3", 1))
        assert snapshot.position == Position("e3", 1)

    play(scene)


def test_a_client_ahead_is_refused_when_the_node_cannot_catch_up() -> None:
    """The heads are answered, the log is not: to go back in time is no answer."""

    async def scene(world: World) -> None:
        await world.watch("zone:A")
        world.commit((1, "A"), publish=False)
        world.truth.failing = {"changes", "state"}
        ahead = Screen()
        with pytest.raises(UnavailableError):
            await world.watch("zone:A", screen=ahead, since=Position("e1", 1))
        assert world.feed.channels_of(ahead) == frozenset()

    play(scene, BUS_ONLY)


def test_a_resume_whose_changes_cannot_be_read_gets_the_state_at_hand() -> None:
    """With the database down a client that was away is served all the same."""

    async def scene(world: World) -> None:
        for n in range(1, 6):
            world.commit((n, "A"))
        await world.watch("zone:A")
        world.truth.down = True
        screen = await world.watch("zone:A", since=Position("e1", 2))
        assert screen.starts[0].changes is None
        world.assert_equal(screen)

    play(scene, BUS_ONLY)


def test_an_old_answer_that_a_zone_is_gone_does_not_end_the_one_made_since() -> None:
    """A read of the state and a repair don't overlap: the older answer would come last."""

    async def scene(world: World) -> None:
        slow = await world.watch("zone:A")
        slow.congested = True
        for change in world.truth.delete_zone("A", "B").changes:
            world.bus.bring(change)
        world.truth.due_paces["state"] = [(0, 1)]
        async with asyncio.TaskGroup() as tasks:
            early = tasks.create_task(_refused(world, "zone:A"))
            await asyncio.sleep(0.1)
            world.truth.create_zone("A", "e2")
            await asyncio.sleep(0.5)
            screen = await world.watch("zone:A")
        assert early.result()
        await asyncio.sleep(1)
        assert screen.ended == []
        world.commit((1, "A"))
        await screen.until(lambda s: s.positions["zone:A"].rev == 2)
        world.assert_equal(screen)

    play(scene)


def test_a_zone_made_again_outlives_an_older_repair_that_found_it_gone() -> None:
    """The repair has asked first, and is answered last."""

    async def scene(world: World) -> None:
        slow = await world.watch("zone:A")
        slow.congested = True
        for change in world.truth.delete_zone("A", "B").changes:
            world.bus.bring(change)
        world.truth.due_paces["state"] = [(0, 1)]
        world.truth.renew_epochs("e2")
        await world.until(lambda: world.truth.asked.count(("state", "zone:A")) == 2)
        await asyncio.sleep(0.1)
        world.truth.create_zone("A", "e3")
        screen = await world.watch("zone:A")
        await asyncio.sleep(2)
        assert screen.ended == []
        assert world.feed.channels_of(screen) == {"zone:A"}
        world.assert_equal(screen)

    play(scene)


async def _refused(world: World, channel: str) -> bool:
    try:
        await world.watch(channel)
    except UnknownChannelError:
        return True
    return False


def test_who_comes_after_a_zone_was_made_is_not_told_what_was_asked_before() -> None:
    """A read that is under way is shared, unless its answer is that there is no such zone."""

    async def scene(world: World) -> None:
        world.truth.due_paces["state"] = [(0, 1)]
        async with asyncio.TaskGroup() as tasks:
            early = tasks.create_task(_refused(world, "zone:D"))
            await asyncio.sleep(0.1)
            world.truth.create_zone("D", "e2")
            screen = await world.watch("zone:D")
        assert early.result()
        world.assert_equal(screen)

    play(scene)


def test_a_zone_that_goes_while_another_is_read_is_looked_up_again() -> None:
    """The news that it went may be old: it has been made again before anybody asked."""

    async def scene(world: World) -> None:
        await world.watch("zone:A")
        deletion = world.truth.delete_zone("A", "B").changes[0]
        world.truth.create_zone("A", "e2")
        world.truth.due_paces["state"] = [(0, 1)]
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(world.watch("zone:A", "zone:B"))
            await asyncio.sleep(0.5)
            world.bus.bring(deletion)
        world.assert_equal(watching.result())
        assert watching.result().positions["zone:A"].epoch == "e2"

    play(scene, BUS_ONLY)


def test_a_rewound_log_is_noticed_by_a_repair_too() -> None:
    """An old message far ahead makes the log be read, whose head is behind the replica."""

    async def scene(world: World) -> None:
        screen = await world.watch("zone:A")
        old = [world.commit((n, "A"), publish=False).changes[0] for n in range(1, 7)]
        for change in old[:3]:
            world.bus.bring(change)
        world.truth.heads["zone:A"].rev = 1
        for user_id in range(2, 7):
            del world.truth.users[user_id]
        world.bus.bring(old[5])
        await asyncio.sleep(1)
        assert screen.ended == [("zone:A", EndReason.ANEW)]
        await world.watch("zone:A", screen=screen)
        world.assert_equal(screen)
        world.commit((7, "A"))
        await screen.until(lambda s: s.positions["zone:A"].rev == 2)
        world.assert_equal(screen)

    play(scene, BUS_ONLY)


def test_what_waited_beyond_a_rewound_head_is_forgotten() -> None:
    """It would be waited for, and later be applied in the place of another change."""

    async def scene(world: World) -> None:
        screen = await world.watch("zone:A")
        old = [world.commit((n, "A"), publish=False).changes[0] for n in (1, 2)]
        world.truth.heads["zone:A"].rev = 0
        world.truth.users.clear()
        world.bus.bring(old[1])
        await asyncio.sleep(1)
        await assert_only_heads_are_asked(world)
        world.commit((3, "A"))
        world.commit((4, "A"))
        await screen.until(lambda s: s.positions["zone:A"].rev == 2)
        world.assert_equal(screen)

    play(scene)


def test_a_log_that_answers_in_pages_is_read_to_its_end() -> None:
    """Watchers get the changes, however little of them one page holds."""

    async def scene(world: World) -> None:
        screen = await world.watch("zone:A")
        world.truth.page_max_changes = 2
        for n in range(1, 8):
            world.commit((n, "A"), publish=False)
        await screen.until(lambda s: s.positions["zone:A"].rev == 7)
        assert screen.ended == []
        world.assert_equal(screen)

    play(scene)


def test_a_steady_stream_that_arrives_reordered_needs_no_log() -> None:
    """There always is a gap, but never one that stays for as long as elders are awaited."""

    async def scene(world: World) -> None:
        screen = await world.watch("zone:A")
        loop = asyncio.get_running_loop()
        for n in range(200):
            change = world.commit((1, "A"), publish=False).changes[0]
            loop.call_later(0.001 if n % 2 else 0.02, world.bus.bring, change)
            await asyncio.sleep(0.004)
        await screen.until(lambda s: s.positions["zone:A"].rev == 200)
        assert world.observer.count("repaired") == 0

    config = FeedConfig(following=FollowerConfig(gap_wait_s=0.05), head_check_interval_s=1_000)
    play(scene, config)
