"""The publisher: what is accepted goes to the bus in order, and what is lost is counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from channels.changes import Change, Transaction
from channels.ports import UnavailableError
from channels.publisher import Publisher
from tests.channels.truth import Truth
from tests.channels.world import NullObserver, WildBus


class GatedBus(WildBus):
    """A bus that takes a batch when it is let, or fails."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[str]] = []
        self.asked = asyncio.Event()
        self.gate = asyncio.Event()
        self.fails = False

    async def publish(self, transactions: Sequence[Transaction]) -> None:
        self.batches.append([transaction.tx for transaction in transactions])
        self.asked.set()
        await self.gate.wait()
        if self.fails:
            raise UnavailableError("bus", "it is down")


class Desk:
    """A running publisher with three places, its bus, and what it offered to the node."""

    def __init__(self) -> None:
        self.truth = Truth(["A"])
        self.bus = GatedBus()
        self.observer = NullObserver()
        self.offered: list[Change] = []
        self.publisher = Publisher(
            self.bus,
            self.observer,
            offer=self.offered.append,
            outbox_max_transactions=3,
            batch_max_transactions=2,
        )

    def accept(self) -> str:
        """Commit something and hand it over; returns the transaction's id."""
        transaction = self.truth.commit([(1, "A")])
        self.publisher.accept(transaction)
        return transaction.tx


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    """A publisher that runs."""
    desk = Desk()
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(desk.publisher.run())
        yield desk
        running.cancel()


async def test_what_is_accepted_goes_out_in_order_and_in_bounded_batches(desk: Desk) -> None:
    """None is lost that comes while a batch is under way."""
    first = desk.accept()
    await desk.bus.asked.wait()
    later = [desk.accept() for _ in range(3)]
    desk.bus.gate.set()
    await desk.publisher.flush()
    assert desk.bus.batches == [[first], later[:2], later[2:]]
    assert desk.observer.count("published") == 3


async def test_a_full_outbox_loses_what_comes_and_counts_it(desk: Desk) -> None:
    """This node's own replicas get it all the same."""
    accepted = [desk.accept() for _ in range(5)]
    desk.bus.gate.set()
    await desk.publisher.flush()
    assert [tx for batch in desk.bus.batches for tx in batch] == accepted[:3]
    assert desk.observer.count("publish_failed", 1, "the outbox is full") == 2
    assert len(desk.offered) == 5


async def test_a_bus_that_fails_costs_its_batches_only(desk: Desk) -> None:
    """The next ones are tried, and nobody waits for what was lost."""
    desk.bus.fails = True
    desk.bus.gate.set()
    desk.accept()
    await desk.publisher.flush()
    assert desk.observer.count("publish_failed", 1, "it is down") == 1
    desk.bus.fails = False
    desk.accept()
    await desk.publisher.flush()
    assert desk.observer.count("published", 1) == 1


async def test_flush_waits_for_the_batch_that_is_under_way(desk: Desk) -> None:
    """The outbox is empty, but the bus has not yet taken it all."""
    desk.accept()
    await desk.bus.asked.wait()
    async with asyncio.TaskGroup() as tasks:
        flushing = tasks.create_task(desk.publisher.flush())
        await asyncio.sleep(0.01)
        assert not flushing.done()
        desk.bus.gate.set()
    assert desk.observer.count("published", 1) == 1


async def test_a_transaction_may_be_accepted_from_another_thread(desk: Desk) -> None:
    """Sessions may commit anywhere; replicas are changed in the loop's thread."""
    desk.bus.gate.set()
    await asyncio.to_thread(desk.accept)
    await desk.publisher.flush()
    assert len(desk.offered) == 1
    assert desk.observer.count("published", 1) == 1
