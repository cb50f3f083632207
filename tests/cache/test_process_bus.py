"""The in-process bus where it differs: nothing is lost, so publishers wait."""

from __future__ import annotations

import asyncio

import pytest

from cache.invalidation import Invalidation
from cache.process_bus import ProcessBus, ProcessBusHub
from tests.cache.nodes import BusNode, RecordingListener, running, transaction

Pair = tuple[BusNode, BusNode]


@pytest.fixture
def pair() -> Pair:
    """Two nodes on a hub with room for three deliveries."""
    hub = ProcessBusHub(max_pending=3)
    writer, reader = (
        BusNode(ProcessBus(invalidation, hub), invalidation)
        for invalidation in (Invalidation(), Invalidation())
    )
    return writer, reader


async def test_more_than_there_is_room_for_arrives_whole(pair: Pair) -> None:
    """Publishers wait for room, and keep their order while they do."""
    writer, reader = pair
    async with running(writer, reader):
        await reader.bus.subscribe("zone:A")
        async with asyncio.TaskGroup() as group:
            for first in range(1, 51, 10):
                batch = [transaction(rev, "zone:A") for rev in range(first, first + 10)]
                group.create_task(writer.bus.publish(batch))
        await reader.listener.until_heard("zone:A", 50)
    assert reader.listener.revs("zone:A") == list(range(1, 51))


async def test_no_more_than_the_bound_ever_waits(pair: Pair) -> None:
    """The memory of a node that is behind is bounded."""
    writer, reader = pair
    longest = 0

    class Measuring(RecordingListener):
        def on_message(self, message: object) -> None:
            nonlocal longest
            super().on_message(message)  # type: ignore[arg-type] # As it came.
            assert isinstance(reader.bus, ProcessBus)
            longest = max(longest, 1 + len(reader.bus._pending))

    reader.listener = Measuring()
    async with running(writer, reader):
        await reader.bus.subscribe("zone:A")
        await writer.bus.publish([transaction(rev, "zone:A") for rev in range(1, 101)])
        await reader.listener.until_heard("zone:A", 100)
    assert longest == 3


async def test_a_cancelled_publisher_holds_up_nobody(pair: Pair) -> None:
    """Who waits for room may give up; the next one goes on."""
    writer, reader = pair
    async with running(writer, reader):
        await reader.bus.subscribe("zone:A")
        async with asyncio.TaskGroup() as group:
            batch = [transaction(rev, "zone:A") for rev in range(1, 101)]
            task = group.create_task(writer.bus.publish(batch))
            await asyncio.sleep(0)
            task.cancel()
        await writer.bus.publish([transaction(200, "zone:A")])
        await reader.listener.until_heard("zone:A", 200)
    heard = reader.listener.revs("zone:A")
    assert heard == [*range(1, len(heard)), 200]


async def test_a_node_that_leaves_holds_up_nobody(pair: Pair) -> None:
    """A publisher that waits for a node's room isn't left waiting when the node stops."""
    writer, reader = pair
    async with running(writer), asyncio.TaskGroup() as group:
        async with running(reader):
            await reader.bus.subscribe("zone:A")
            batch = [transaction(rev, "zone:A") for rev in range(1, 101)]
            publication = group.create_task(writer.bus.publish(batch))
            await asyncio.sleep(0)
            assert not publication.done()
        async with asyncio.timeout(5):
            await publication
