"""What both buses promise: `channels.ports.Bus`."""

from __future__ import annotations

import asyncio
import time

import pytest

from channels.events import Zone, ZoneChanged
from channels.names import DIRECTORY
from channels.ports import BusState, UnavailableError
from tests.cache.conftest import NewNode
from tests.cache.nodes import BusNode, entered, running, transaction

Pair = tuple[BusNode, BusNode]


async def test_a_change_reaches_another_node_whole(bus_pair: Pair) -> None:
    """What arrives is the change as it was committed, events and their JSON."""
    writer, reader = bus_pair
    sent = transaction(7, "zone:A", "zone:B", events=(entered(17, "Łukasz"), entered(18)))
    async with running(writer, reader):
        assert await reader.bus.subscribe("zone:A")
        await writer.bus.publish([sent])
        await reader.listener.until_heard("zone:A", 7)
    message = reader.listener.messages[0]
    change = sent.changes[0]
    assert message.channel == change.channel
    assert message.position == change.position
    assert (message.tx, message.time_ms) == (change.tx, change.time_ms)
    assert message.parts == (("zone:A", 7), ("zone:B", 7))
    assert message.events == change.events
    assert message.events_json == change.events_json


async def test_changes_of_a_channel_arrive_in_order(bus_pair: Pair) -> None:
    """Transactions of one and of several publications keep their order."""
    writer, reader = bus_pair
    async with running(writer, reader):
        await reader.bus.subscribe("zone:A")
        for first in range(1, 301, 3):
            await writer.bus.publish([transaction(first + i, "zone:A") for i in range(3)])
        await reader.listener.until_heard("zone:A", 300)
    assert reader.listener.revs("zone:A") == list(range(1, 301))


async def test_publications_at_the_same_time_keep_the_order_of_the_calls(bus_pair: Pair) -> None:
    """Callers that don't wait for one another don't overtake one another."""
    writer, reader = bus_pair
    async with running(writer, reader):
        await reader.bus.subscribe("zone:A")
        async with asyncio.TaskGroup() as group:
            for rev in range(1, 101):
                group.create_task(writer.bus.publish([transaction(rev, "zone:A")]))
        await reader.listener.until_heard("zone:A", 100)
    assert reader.listener.revs("zone:A") == list(range(1, 101))


async def test_only_channels_of_interest_arrive(bus_pair: Pair) -> None:
    """A node hears nothing of channels that it didn't ask for, however alike their names."""
    writer, reader = bus_pair
    async with running(writer, reader):
        await reader.bus.subscribe("zone:A")
        await writer.bus.publish([transaction(1, "zone:AA", "zone:a", "unassigned", "zones")])
        await writer.bus.publish([transaction(2, "zone:A")])
        await reader.listener.until_heard("zone:A", 2)
    assert [message.channel for message in reader.listener.messages] == ["zone:A"]


async def test_an_unsubscribed_channel_is_not_heard(bus_pair: Pair) -> None:
    """After `unsubscribe` nothing more of the channel is delivered."""
    writer, reader = bus_pair
    async with running(writer, reader):
        await reader.bus.subscribe("zone:A")
        await reader.bus.subscribe("zone:B")
        await writer.bus.publish([transaction(1, "zone:A")])
        await reader.listener.until_heard("zone:A", 1)
        reader.bus.unsubscribe("zone:A")
        await writer.bus.publish([transaction(2, "zone:A")])
        await writer.bus.publish([transaction(3, "zone:B")])
        await reader.listener.until_heard("zone:B", 3)
    assert reader.listener.revs("zone:A") == [1]


async def test_a_channel_subscribed_again_at_once_is_heard(bus_pair: Pair) -> None:
    """However often interest is dropped and raised again, the last word counts."""
    writer, reader = bus_pair
    async with running(writer, reader):
        for round_ in range(1, 21):
            await reader.bus.subscribe("zone:A")
            reader.bus.unsubscribe("zone:A")
            if round_ % 2:
                # Let the command of the withdrawal go out before the next subscription.
                await asyncio.sleep(0)
            assert await reader.bus.subscribe("zone:A")
            await writer.bus.publish([transaction(round_, "zone:A")])
            await reader.listener.until_heard("zone:A", round_)
            reader.bus.unsubscribe("zone:A")
    assert reader.bus.followed == 0


async def test_interest_is_a_set(bus_pair: Pair) -> None:
    """Subscribing twice delivers once, and one withdrawal ends it."""
    writer, reader = bus_pair
    async with running(writer, reader):
        assert await reader.bus.subscribe("zone:A")
        assert await reader.bus.subscribe("zone:A")
        await reader.bus.subscribe("zone:B")
        await writer.bus.publish([transaction(1, "zone:A")])
        await reader.listener.until_heard("zone:A", 1)
        reader.bus.unsubscribe("zone:A")
        await writer.bus.publish([transaction(2, "zone:A", "zone:B")])
        await reader.listener.until_heard("zone:B", 2)
    assert reader.listener.revs("zone:A") == [1]


async def test_interest_in_many_channels_is_confirmed_at_once(bus_pair: Pair) -> None:
    """Nothing published from then on is missed on any of them."""
    writer, reader = bus_pair
    channels = [f"zone:{i}" for i in range(200)]
    async with running(writer, reader):
        assert await reader.bus.subscribe(*channels)
        assert reader.bus.followed == len(channels)
        await writer.bus.publish([transaction(1, *channels)])
        for channel in channels:
            await reader.listener.until_heard(channel, 1)


async def test_what_is_published_after_the_confirmation_arrives(bus_pair: Pair) -> None:
    """True from `subscribe` means that nothing published from now on is missed."""
    writer, reader = bus_pair
    channels = [f"zone:{i}" for i in range(200)]
    async with running(writer, reader):

        async def follow(rev: int, channel: str) -> None:
            assert await reader.bus.subscribe(channel)
            await writer.bus.publish([transaction(rev, channel)])
            await reader.listener.until_heard(channel, rev)

        async with asyncio.TaskGroup() as group:
            for rev, channel in enumerate(channels, 1):
                group.create_task(follow(rev, channel))
    assert len(reader.listener.messages) == len(channels)


async def test_own_publications_do_no_harm(bus_pair: Pair) -> None:
    """A node may or may not hear itself; if it does, once, in order and unchanged."""
    node, other = bus_pair
    async with running(node, other):
        await node.bus.subscribe("zone:A")
        for rev in range(1, 11):
            await node.bus.publish([transaction(rev, "zone:A")])
        await other.bus.publish([transaction(11, "zone:A")])
        await node.listener.until_heard("zone:A", 11)
    assert node.listener.revs("zone:A") in ([*range(1, 12)], [11])


async def test_interest_from_before_the_start_is_followed_by_a_gap(bus_pair: Pair) -> None:
    """A channel that could not be confirmed is registered by `run`, which then tells of a gap."""
    writer, reader = bus_pair
    assert not await reader.bus.subscribe("zone:A")
    async with running(writer, reader):
        await reader.listener.until(lambda: reader.listener.gaps > 0)
        await writer.bus.publish([transaction(1, "zone:A")])
        await reader.listener.until_heard("zone:A", 1)


async def test_publishing_before_the_start_is_refused_at_once(bus_pair: Pair) -> None:
    """A bus that doesn't run is down: nobody waits for it."""
    writer, _ = bus_pair
    assert writer.bus.state is BusState.DOWN
    before_s = time.monotonic()
    with pytest.raises(UnavailableError) as caught:
        await writer.bus.publish([transaction(1, "zone:A")])
    assert caught.value.what == "bus"
    assert time.monotonic() - before_s < 0.1


async def test_publishing_nothing_is_nothing(bus_pair: Pair) -> None:
    """An empty batch neither waits nor fails."""
    await bus_pair[0].bus.publish([])


async def test_a_cancelled_bus_leaves_no_task_and_can_run_again(bus_pair: Pair) -> None:
    """Cancellation ends `run` with all it started; interest outlives it."""
    tasks_before = asyncio.all_tasks()
    writer, reader = bus_pair
    async with running(writer, reader):
        await reader.bus.subscribe("zone:A")
    assert asyncio.all_tasks() == tasks_before
    assert reader.bus.state is BusState.DOWN
    with pytest.raises(UnavailableError):
        await reader.bus.publish([transaction(1, "zone:A")])
    gaps = reader.listener.gaps
    async with running(writer, reader):
        await reader.listener.until(lambda: reader.listener.gaps > gaps)
        await writer.bus.publish([transaction(2, "zone:A")])
        await reader.listener.until_heard("zone:A", 2)


async def test_a_bus_runs_once(bus_pair: Pair) -> None:
    """A second `run` is a mistake of the caller and changes nothing for the first."""
    writer, reader = bus_pair
    async with running(writer, reader):
        with pytest.raises(RuntimeError, match="runs already"):
            await reader.bus.run(reader.listener)
        assert reader.bus.state is BusState.LIVE
        await reader.bus.subscribe("zone:A")
        await writer.bus.publish([transaction(1, "zone:A")])
        await reader.listener.until_heard("zone:A", 1)


async def test_a_listener_that_raises_costs_one_message(
    new_node: NewNode, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug of a listener is logged and doesn't take the bus down."""
    writer, reader = new_node("a"), new_node("b")
    take = reader.listener.on_message

    def stumble(message: object) -> None:
        if not reader.listener.messages:
            take(message)  # type: ignore[arg-type] # As it came.
            raise LookupError("stumbled")
        take(message)  # type: ignore[arg-type] # As it came.

    reader.listener.on_message = stumble  # type: ignore[method-assign] # Breaks it on purpose.
    async with running(writer, reader):
        await reader.bus.subscribe("zone:A")
        await writer.bus.publish([transaction(1, "zone:A"), transaction(2, "zone:A")])
        await reader.listener.until_heard("zone:A", 2)
        assert reader.bus.state is BusState.LIVE
    assert "stumbled" in caplog.text


async def test_a_commit_of_users_invalidates_on_all_nodes(bus_pair: Pair) -> None:
    """Here at once, before anything is awaited, and elsewhere before the change is heard."""
    writer, reader = bus_pair
    async with running(writer, reader):
        await reader.bus.subscribe("zone:A")
        here, there = writer.invalidation.generation, reader.invalidation.generation
        publication = writer.bus.publish([transaction(1, "zone:A")])
        async with asyncio.TaskGroup() as group:
            task = group.create_task(publication)
            await asyncio.sleep(0)
            assert writer.invalidation.generation > here
            await task
        await reader.listener.until_heard("zone:A", 1)
        assert reader.invalidation.generation > there
        assert writer.invalidation.trusts_redis


async def test_a_commit_of_zones_alone_invalidates_nothing(bus_pair: Pair) -> None:
    """The users dict knows no zones' names, so their changes leave it alone."""
    writer, reader = bus_pair
    event = ZoneChanged(Zone("A", "Hall", {}))
    async with running(writer, reader):
        await reader.bus.subscribe(DIRECTORY)
        await reader.listener.until(lambda: reader.listener.gaps > 0)
        here, there = writer.invalidation.generation, reader.invalidation.generation
        sent = transaction(1, DIRECTORY, events=(event,))
        await writer.bus.publish([sent])
        await reader.listener.until_heard(DIRECTORY, 1)
        assert (writer.invalidation.generation, reader.invalidation.generation) == (here, there)
