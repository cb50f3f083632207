"""Subscribing at once, where nothing has to be awaited."""

from __future__ import annotations

from channels.positions import Position
from tests.channels.world import Screen, World, in_world


def _try(world: World, screen: Screen, channel: str, since: Position | None = None) -> bool:
    return world.feed.try_subscribe(screen, {channel: since}, screen.begin)


async def test_a_channel_that_is_not_followed_is_not_subscribed_at_once() -> None:
    """Nothing is done then: nothing is followed, nobody is told."""

    async def play(world: World) -> None:
        screen = Screen()
        assert not _try(world, screen, "zone:A")
        assert screen.starts == []
        assert world.feed.follower.followed_count == 0

    await in_world(play)


async def test_one_channel_that_is_missing_keeps_all_from_being_subscribed() -> None:
    """It is one step for all of them."""

    async def play(world: World) -> None:
        await world.watch("zone:A")
        screen = Screen()
        assert not world.feed.try_subscribe(screen, {"zone:A": None, "zone:B": None}, screen.begin)
        assert world.feed.channels_of(screen) == frozenset()

    await in_world(play)


async def test_a_live_channel_is_subscribed_at_once() -> None:
    """The state, and then every change after it."""

    async def play(world: World) -> None:
        await world.watch("zone:A", "zone:B")
        world.commit((1, "A"))
        screen = Screen()
        assert world.feed.try_subscribe(screen, {"zone:A": None, "zone:B": None}, screen.begin)
        assert [start.changes for start in screen.starts] == [None, None]
        world.commit((1, "B"))
        await screen.until(lambda s: bool(s.frames))
        world.assert_equal(screen)

    await in_world(play)


async def test_a_position_is_resumed_at_once_from_what_is_remembered() -> None:
    """What was committed before the node followed would have to be read."""

    async def play(world: World) -> None:
        world.commit((1, "A"))
        quick = await world.watch("zone:A")
        world.commit((2, "A"))
        await quick.until(lambda s: bool(s.frames))
        epoch = quick.positions["zone:A"].epoch
        near = Screen(users={"zone:A": {1: quick.users["zone:A"][1]}})
        assert _try(world, near, "zone:A", Position(epoch, 1))
        assert [len(start.changes or ()) for start in near.starts] == [1]
        world.assert_equal(near)
        assert not _try(world, Screen(), "zone:A", Position(epoch, 0))

    await in_world(play)


async def test_positions_that_the_database_must_judge_are_not_answered_at_once() -> None:
    """A foreign epoch, and a revision ahead of this node."""

    async def play(world: World) -> None:
        quick = await world.watch("zone:A")
        epoch = quick.positions["zone:A"].epoch
        assert not _try(world, Screen(), "zone:A", Position(epoch, 1))
        assert not _try(world, Screen(), "zone:A", Position("ff", 0))

    await in_world(play)


async def test_who_refuses_its_beginning_keeps_nothing_followed() -> None:
    """The reply was called, and its `False` attaches nobody."""

    async def play(world: World) -> None:
        quick = await world.watch("zone:A")
        screen = Screen()
        assert world.feed.try_subscribe(screen, {"zone:A": None}, lambda _starts: False)
        assert world.feed.channels_of(screen) == frozenset()
        world.feed.leave(quick)
        await world.until(lambda: world.feed.follower.followed_count == 0)

    await in_world(play)
