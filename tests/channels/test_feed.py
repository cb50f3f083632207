"""The feed in a world where the bus may do anything: what screens see is the truth."""

from __future__ import annotations

import asyncio
from functools import wraps
from typing import TYPE_CHECKING

import pytest

from channels.feed import FeedConfig, UnknownChannelError
from channels.ports import UnavailableError
from channels.positions import Position
from channels.repairs import FollowerConfig
from channels.subscribers import EndReason
from tests.channels.world import Screen, World, in_world

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SLOW_CHECKS = FeedConfig(
    following=FollowerConfig(gap_wait_s=0.01, linger_s=0.01), head_check_interval_s=30
)
"""With these nothing is found by the comparison of heads within a test."""


def scene(
    config: FeedConfig | None = None,
) -> Callable[[Callable[[World], Awaitable[None]]], Callable[[], Awaitable[None]]]:
    """Run a test inside a fresh world."""

    def decorate(play: Callable[[World], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        @wraps(play)
        async def test() -> None:
            await in_world(play, config=config)

        del test.__wrapped__  # Pytest would take `world` for a fixture.
        return test

    return decorate


@scene()
async def test_a_new_subscriber_gets_the_state_and_then_every_change(world: World) -> None:
    """Snapshot at a revision, the stream goes on from there."""
    world.commit((1, "A"))
    screen = await world.watch("zone:A")
    assert screen.starts[0].changes is None
    world.commit((2, "A"))
    world.commit((1, "B"))
    await screen.until(lambda s: s.positions["zone:A"].rev == 3)
    world.assert_equal(screen)


@scene(SLOW_CHECKS)
async def test_reordered_and_doubled_messages_are_put_right(world: World) -> None:
    """A newer change waits for its elder; a doubled one is dropped."""
    screen = await world.watch("zone:A")
    changes = [world.commit((n, "A"), publish=False).changes[0] for n in range(1, 5)]
    for index in (3, 1, 0, 0, 2, 1):
        world.bus.bring(changes[index])
    await screen.until(lambda s: s.positions["zone:A"].rev == 4)
    world.assert_equal(screen)
    assert world.observer.count("repaired") == 0
    assert world.observer.count("duplicate", "zone:A") == 2


@scene(SLOW_CHECKS)
async def test_a_gap_is_read_from_the_log_when_the_elder_does_not_come(world: World) -> None:
    """A lost message in the middle is repaired after the gap's wait."""
    screen = await world.watch("zone:A")
    world.commit((1, "A"), publish=False)
    world.commit((2, "A"))
    await screen.until(lambda s: s.positions["zone:A"].rev == 2)
    world.assert_equal(screen)
    assert world.observer.count("repaired", "zone:A", "gap") == 1


@scene(SLOW_CHECKS)
async def test_an_oversize_change_is_read_from_the_log_at_once(world: World) -> None:
    """A message with only the position is as good as a gap."""
    screen = await world.watch("zone:A")
    world.bus.bring(world.commit((1, "A"), publish=False).changes[0], oversize=True)
    await screen.until(lambda s: s.positions["zone:A"].rev == 1)
    assert world.observer.count("repaired", "zone:A", "oversize") == 1


@scene()
async def test_the_last_lost_message_is_found_by_the_comparison_of_heads(world: World) -> None:
    """Nothing follows the lost message, so no gap is seen; the heads tell."""
    screen = await world.watch("zone:A", "unassigned")
    world.commit((1, "A"), (2, None), publish=False)
    await screen.until(lambda s: len(s.frames) == 1)
    world.assert_equal(screen)


@scene(SLOW_CHECKS)
async def test_what_is_committed_while_the_state_is_read_is_applied_after_it(
    world: World,
) -> None:
    """Registered first, read then: the message that comes in between is kept."""
    world.truth.gate.clear()
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(world.watch("zone:A"))
        await world.until(lambda: ("state", "zone:A") in world.truth.asked)
        transaction = world.commit((1, "A"), publish=False)
        stale = world.truth.state("zone:A")
        assert stale is not None
        world.bus.bring(transaction.changes[0])
        world.truth.gate.set()
    screen = watching.result()
    world.commit((2, "A"))
    await screen.until(lambda s: s.positions["zone:A"].rev == 2)
    world.assert_equal(screen)


@scene(SLOW_CHECKS)
async def test_a_transaction_reaches_who_watches_both_channels_in_one_frame(
    world: World,
) -> None:
    """The part that comes first is held, but only for who watches both."""
    both = await world.watch("zone:A", "zone:B")
    only_a = await world.watch("zone:A")
    world.commit((1, "A"))
    await both.until(lambda s: len(s.frames) == 1)
    parts = {c.channel: c for c in world.commit((1, "B"), publish=False).changes}
    world.bus.bring(parts["zone:A"])
    await only_a.until(lambda s: len(s.frames) == 2)
    assert len(both.frames) == 1
    world.bus.bring(parts["zone:B"])
    await both.until(lambda s: len(s.frames) == 2)
    assert {c.channel for c in both.frames[1]} == {"zone:A", "zone:B"}
    world.assert_equal(both)


@scene(SLOW_CHECKS)
async def test_the_lost_part_of_a_transaction_is_repaired_and_comes_whole(world: World) -> None:
    """The other part names it, so it is missed after the gap's wait, not a second later."""
    both = await world.watch("zone:A", "zone:B")
    transaction = world.commit((1, "A"), (2, "B"), publish=False)
    world.bus.bring(transaction.changes[0])
    await both.until(lambda s: len(s.frames) == 1)
    assert len(both.frames[0]) == 2
    world.assert_equal(both)


@scene(SLOW_CHECKS)
async def test_later_changes_of_a_held_channel_wait_with_it(world: World) -> None:
    """Order within a channel holds while a part is awaited."""
    world.truth.gate.clear()
    world.truth.gate.set()
    both = await world.watch("zone:A", "zone:B")
    world.truth.gate.clear()  # Repairs hang, so that only the bus can bring the part.
    first = {c.channel: c for c in world.commit((1, "A"), (2, "B"), publish=False).changes}
    world.bus.bring(first["zone:A"])
    world.commit((3, "A"))
    for _ in range(5):
        await asyncio.sleep(0)
    assert both.frames == []
    world.bus.bring(first["zone:B"])
    await both.until(lambda s: len(s.frames) == 1)
    assert [c.rev for c in both.frames[0] if c.channel == "zone:A"] == [1, 2]
    world.truth.gate.set()
    world.assert_equal(both)


@scene(
    FeedConfig(
        following=FollowerConfig(gap_wait_s=0.01), head_check_interval_s=0.1, atomic_wait_s=0.05
    )
)
async def test_a_part_that_never_comes_makes_the_client_resume_within_a_bound(
    world: World,
) -> None:
    """With bus and database dead the held channels end with 2500, which keeps the position."""
    both = await world.watch("zone:A", "zone:B")
    world.truth.down = True
    world.bus.bring(world.commit((1, "A"), (2, "B"), publish=False).changes[0])
    await both.until(lambda s: len(s.ended) == 2)
    assert {reason for _, reason in both.ended} == {EndReason.RESUME}
    world.truth.down = False
    since = both.positions["zone:A"]
    await world.watch("zone:A", "zone:B", screen=both, since=since)
    await both.until(lambda s: s.positions["zone:B"].rev == 1)
    world.assert_equal(both)


@scene(SLOW_CHECKS)
async def test_the_frame_is_encoded_once_for_everybody(world: World) -> None:
    """A hundred watchers of a zone share one frame object."""
    codec = Screen().codec
    screens = [await world.watch("zone:A", screen=Screen(codec=codec)) for _ in range(100)]
    world.commit((1, "A"))
    world.commit((2, "A"))
    await screens[-1].until(lambda s: bool(s.frames))
    assert codec.encoded == 1
    assert all(s.frames == [screens[0].frames[0]] for s in screens)


@scene()
async def test_a_resume_gets_just_the_missed_changes(world: World) -> None:
    """From a remembered position: the changes after it, nothing else."""
    screen = await world.watch("zone:A")
    world.commit((1, "A"))
    await screen.until(lambda s: bool(s.frames))
    position = screen.positions["zone:A"]
    world.feed.leave(screen)
    world.commit((2, "A"))
    world.commit((3, "A"))
    await world.watch("zone:A", screen=screen, since=position)
    missed = screen.starts[-1].changes
    assert missed is not None
    assert [change.rev for change in missed] == [2, 3]
    world.assert_equal(screen)


@scene()
async def test_a_node_that_did_not_follow_resumes_from_the_log(world: World) -> None:
    """The node read only the state; what was missed is recalled from the log."""
    for n in range(1, 6):
        world.commit((n, "A"))
    screen = Screen(users={"zone:A": {}})
    await world.watch("zone:A", screen=screen, since=Position("e1", 0))
    missed = screen.starts[0].changes
    assert missed is not None
    assert [change.rev for change in missed] == [1, 2, 3, 4, 5]
    world.assert_equal(screen)


@pytest.mark.parametrize(
    ("since", "why"),
    [
        (Position("e0", 3), "foreign epoch"),
        (Position("e1", 99), "future revision"),
        (Position("e1", 1), "compacted"),
    ],
)
async def test_a_position_that_cannot_be_resumed_gets_a_fresh_state(
    since: Position, why: str
) -> None:
    """Foreign, future and compacted positions are answered with the snapshot."""

    async def play(world: World) -> None:
        for n in range(1, 6):
            world.commit((n, "A"))
        world.truth.compact("zone:A", 3)
        screen = await world.watch("zone:A", since=since)
        assert screen.starts[0].was_recovering, why
        assert screen.starts[0].changes is None, why
        world.assert_equal(screen)

    await in_world(play)


async def test_more_than_the_resumable_changes_behind_gets_a_fresh_state() -> None:
    """The bound itself is resumed, one more is not."""
    config = FeedConfig(following=FollowerConfig(resume_max_changes=10))

    async def play(world: World) -> None:
        for n in range(1, 12):
            world.commit((n, "A"))
        screen = Screen(users={"zone:A": {}})
        await world.watch("zone:A", screen=screen, since=Position("e1", 1))
        assert len(screen.starts[0].changes or ()) == 10
        too_far = await world.watch("zone:A", since=Position("e1", 0))
        assert too_far.starts[0].changes is None

    await in_world(play, config=config)


@scene(SLOW_CHECKS)
async def test_a_client_ahead_of_the_node_makes_the_node_catch_up(world: World) -> None:
    """The position is not future: this node lags, and comes forward first."""
    first = await world.watch("zone:A")
    world.commit((1, "A"), publish=False)
    ahead = Screen(users={"zone:A": dict(world.truth.users)})
    await world.watch("zone:A", screen=ahead, since=Position("e1", 1))
    assert ahead.starts[0].changes == ()
    await first.until(lambda s: s.positions["zone:A"].rev == 1)


@scene()
async def test_a_new_epoch_sends_everybody_to_the_new_state(world: World) -> None:
    """A restored database is another history: watchers get 2502 and then its state."""
    screen = await world.watch("zone:A")
    world.commit((1, "A"))
    world.truth.renew_epochs("e2")
    await screen.until(lambda s: bool(s.ended))
    assert screen.ended == [("zone:A", EndReason.ANEW)]
    await world.watch("zone:A", screen=screen, since=Position("e1", 1))
    assert screen.starts[-1].changes is None
    world.assert_equal(screen)


@scene(SLOW_CHECKS)
async def test_who_knows_a_new_epoch_is_never_shown_the_old_one(world: World) -> None:
    """Another node told it first, right after this one had compared its heads."""
    first = await world.watch("zone:A")
    world.commit((1, "A"))
    await first.until(lambda s: s.positions["zone:A"].rev == 1)
    world.truth.renew_epochs("e2")
    screens = [await world.watch("zone:A", since=Position("e2", 1)) for _ in range(2)]
    assert [screen.starts[0].position for screen in screens] == [Position("e2", 1)] * 2
    assert first.ended == [("zone:A", EndReason.ANEW)]


@scene(SLOW_CHECKS)
async def test_positions_of_the_epoch_before_ask_nothing_of_the_database(world: World) -> None:
    """After a restart of the database all clients come with them."""
    screen = await world.watch("zone:A")
    world.truth.renew_epochs("e2")
    await world.watch("zone:A", since=Position("e2", 0))
    world.truth.down = True
    late = await world.watch("zone:A", since=Position("e1", 0))
    assert late.starts[0].position == Position("e2", 0)
    assert screen.ended == [("zone:A", EndReason.ANEW)]


@scene()
async def test_a_rewound_log_of_the_same_epoch_is_noticed(world: World) -> None:
    """The head went backwards: the replica is read anew, and its watchers with it."""
    screen = await world.watch("zone:A")
    world.commit((1, "A"))
    world.commit((2, "A"))
    await screen.until(lambda s: s.positions["zone:A"].rev == 2)
    world.truth.heads["zone:A"].rev = 1
    del world.truth.users[2]
    await screen.until(lambda s: bool(s.ended))
    await world.watch("zone:A", screen=screen, since=Position("e1", 2))
    world.assert_equal(screen)


@scene()
async def test_a_replica_too_far_behind_or_below_the_floor_is_read_anew(world: World) -> None:
    """Compacted changes are never skipped silently: the state is sent anew."""
    screen = await world.watch("zone:A")
    for n in range(1, 4):
        world.commit((n, "A"), publish=False)
    world.truth.compact("zone:A", 2)
    await screen.until(lambda s: bool(s.ended))
    assert screen.ended == [("zone:A", EndReason.ANEW)]
    world.assert_replica("zone:A")


@scene()
async def test_a_deleted_zone_ends_its_channel_after_its_last_change(world: World) -> None:
    """Watchers of both zones get deletion and move in one frame, then 2000."""
    world.commit((1, "A"))
    screen = await world.watch("zone:A", "zone:B")
    for change in world.truth.delete_zone("A", "B").changes:
        world.bus.bring(change)
    await screen.until(lambda s: bool(s.ended))
    assert screen.ended == [("zone:A", EndReason.GONE)]
    assert {change.channel for change in screen.frames[-1]} == {"zone:A", "zone:B"}
    with pytest.raises(UnknownChannelError):
        await world.watch("zone:A")
    world.assert_equal(screen)


@scene()
async def test_an_unknown_zone_is_refused_and_leaves_nothing_followed(world: World) -> None:
    """Nothing is attached when one of several channels does not exist."""
    screen = Screen()
    with pytest.raises(UnknownChannelError):
        await world.watch("zone:A", "zone:nowhere", screen=screen)
    assert world.feed.channels_of(screen) == frozenset()
    assert "zone:nowhere" not in world.bus.channels


@scene()
async def test_a_database_that_is_down_refuses_new_channels_and_serves_followed_ones(
    world: World,
) -> None:
    """What is in memory is served; what must be read is refused as unavailable."""
    world.commit((1, "A"))
    await world.watch("zone:A")
    world.truth.down = True
    with pytest.raises(UnavailableError):
        await world.watch("zone:B")
    screen = await world.watch("zone:A")
    world.assert_equal(screen)


async def test_watchers_are_told_stale_and_live_again() -> None:
    """When heads cannot be verified for a while everybody is told since when."""
    config = FeedConfig(head_check_interval_s=0.06, stale_after_s=0.2)

    async def play(world: World) -> None:
        screen = await world.watch("zone:A")
        world.truth.down = True
        await screen.until(lambda s: len(s.staleness) == 1)
        assert screen.staleness[0] is not None
        assert world.feed.stale_since_ms == screen.staleness[0]
        world.truth.down = False
        await screen.until(lambda s: len(s.staleness) == 2)
        assert screen.staleness[1] is None

    await in_world(play, config=config)


@scene()
async def test_concurrent_first_watchers_share_one_read(world: World) -> None:
    """A hundred watchers at once cost one read of the state."""
    await asyncio.gather(*(world.watch("zone:A") for _ in range(100)))
    assert world.truth.asked.count(("state", "zone:A")) == 1


@scene()
async def test_a_cancelled_first_watcher_does_not_harm_the_second(world: World) -> None:
    """The read goes on for who still waits."""
    world.truth.gate.clear()
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(world.watch("zone:A"))
        second = tasks.create_task(world.watch("zone:A"))
        await world.until(lambda: ("state", "zone:A") in world.truth.asked)
        first.cancel()
        await asyncio.sleep(0)
        world.truth.gate.set()
    world.assert_equal(second.result())
    assert first.cancelled()


@scene()
async def test_a_channel_nobody_watches_is_dropped_after_a_while(world: World) -> None:
    """The bus registration and the replica go once the last watcher has left."""
    screen = await world.watch("zone:A")
    world.feed.leave(screen)
    await world.until(lambda: "zone:A" not in world.bus.channels)
    assert world.feed.current("zone:A") is None


@scene()
async def test_a_committed_write_is_applied_locally_and_published(world: World) -> None:
    """The node's own screens do not wait for the bus; other nodes get it by the bus."""
    world.bus.delivers = False
    screen = await world.watch("zone:A")
    transaction = world.truth.commit([(1, "A")])
    world.publisher.accept(transaction)
    await screen.until(lambda s: bool(s.frames))
    await world.publisher.flush()
    assert world.bus.published == list(transaction.changes)


@scene()
async def test_a_snapshot_at_a_minimum_waits_or_asks_the_database(world: World) -> None:
    """Read your writes: never older than the position asked for."""
    await world.watch("zone:A")
    transaction = world.commit((1, "A"), publish=False)
    snapshot = await world.feed.snapshot("zone:A", transaction.positions["zone:A"])
    assert snapshot.position == transaction.positions["zone:A"]
    world.commit((2, "B"), publish=False)
    unfollowed = await world.feed.snapshot("zone:B", Position("e1", 1))
    assert unfollowed.position == Position("e1", 1)


@scene(SLOW_CHECKS)
async def test_waiting_beyond_a_position_ends_with_the_change_or_the_bound(
    world: World,
) -> None:
    """The long poll's wait."""
    here = Position("e1", 0)
    assert not await world.feed.wait_beyond("zone:A", here, 0.01)
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(world.feed.wait_beyond("zone:A", here, 10))
        await world.until(lambda: world.feed.current("zone:A") is not None)
        world.commit((1, "A"))
    assert waiting.result()
