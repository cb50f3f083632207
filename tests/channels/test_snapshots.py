"""Snapshots: of exactly their position, and nothing falls between them and the stream."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from channels.digest import digest_state
from channels.feed import FeedConfig
from channels.positions import Position
from channels.repairs import FollowerConfig
from channels.replica import encode_state
from tests.channels.virtual_time import run_in_virtual_time
from tests.channels.world import World, in_world

BUS_ONLY = FeedConfig(
    following=FollowerConfig(gap_wait_s=1_000, linger_s=0.01), head_check_interval_s=1_000
)
"""With this only the bus brings anything."""


def play(scene: Callable[[World], Awaitable[None]]) -> None:
    """Play a scene in virtual time, where nothing but the bus brings changes."""
    run_in_virtual_time(in_world(scene, config=BUS_ONLY))


@pytest.mark.parametrize("asked_s", [0.3, 0.8])
def test_the_last_change_while_the_state_is_read_comes_by_the_bus(asked_s: float) -> None:
    """The node is registered before it asks: nothing follows which would show a gap.

    The change is committed while the question is under way, or while the answer is.
    """

    async def scene(world: World) -> None:
        world.truth.due_paces["state"] = [(0.5, 0.5)]
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(world.watch("zone:A"))
            await asyncio.sleep(asked_s)
            world.commit((1, "A"))
        await asyncio.sleep(1)
        world.assert_equal(watching.result())

    play(scene)


def test_the_shared_encoding_follows_the_picture() -> None:
    """State and digest are encoded once, and anew after each change, never those of before."""

    async def scene(world: World) -> None:
        screen = await world.watch("zone:A")
        for n, zone_id in ((1, "A"), (2, "A"), (2, "B"), (1, "A")):
            world.commit((n, zone_id))
            # Not the last one only: what is encoded now must not be what comes after.
            snapshot = await world.feed.snapshot("zone:A")
            state = world.truth.state("zone:A")
            assert state is not None
            assert snapshot.position == state.position
            assert snapshot.body == encode_state(state)
            replica = world.feed.current("zone:A")
            assert replica is not None
            assert replica.digest() == digest_state(state)
            assert (await world.feed.snapshot("zone:A")).body is snapshot.body
        await screen.until(lambda s: s.positions["zone:A"].rev == 4)

    play(scene)


def test_a_revision_of_another_epoch_is_not_resumed_though_it_is_remembered() -> None:
    """The same number means something else there: the client gets the state."""

    async def scene(world: World) -> None:
        await world.watch("zone:A")
        for n in range(1, 5):
            world.commit((n, "A"))
        known = await world.watch("zone:A", since=Position("e1", 4))
        assert known.starts[0].changes == ()
        foreign = await world.watch("zone:A", since=Position("e0", 4))
        assert foreign.starts[0].changes is None
        world.assert_equal(foreign)

    play(scene)
