"""The publisher: takes committed transactions to this node's replicas and to the bus."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from channels.changes import Change, Transaction
from channels.ports import Bus, Observer, UnavailableError


class Publisher:
    """A bounded outbox between the commit and the bus.

    It may lose: a transaction that finds the outbox full, or that the bus does not take, is
    brought to other nodes by their head checks, as it is in the change log.

    Args:
        bus: Where other nodes listen.
        observer: Told what was published and what was not.
        offer: Takes each change to this node's own replicas; `None` where there are none.
        outbox_max_transactions: How many may wait for the bus.
        batch_max_transactions: How many go to the bus in one round trip.
    """

    def __init__(
        self,
        bus: Bus,
        observer: Observer,
        *,
        offer: Callable[[Change], None] | None,
        outbox_max_transactions: int,
        batch_max_transactions: int = 256,
    ) -> None:
        self._bus = bus
        self._observer = observer
        self._offer = offer
        self._outbox: deque[Transaction] = deque()
        self._outbox_max_transactions = outbox_max_transactions
        self._batch_max_transactions = batch_max_transactions
        self._loop = asyncio.get_running_loop()
        self._wanted = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    def accept(self, transaction: Transaction) -> None:
        """Take what has just been committed. Never awaits, never raises, from any thread."""
        try:
            self._loop.call_soon_threadsafe(self._take_in, transaction)
        except RuntimeError:
            # The loop is closed: the process is ending, and head checks bring the change.
            self._observer.publish_failed(1, "the event loop is closed")

    def _take_in(self, transaction: Transaction) -> None:
        if self._offer is not None:
            for change in transaction.changes:
                self._offer(change)
        if len(self._outbox) >= self._outbox_max_transactions:
            self._observer.publish_failed(1, "the outbox is full")
            return
        self._outbox.append(transaction)
        self._empty.clear()
        self._wanted.set()

    async def run(self) -> None:
        """Publish until cancelled."""
        while True:
            await self._wanted.wait()
            size = min(len(self._outbox), self._batch_max_transactions)
            batch = [self._outbox.popleft() for _ in range(size)]
            if not self._outbox:
                self._wanted.clear()
            try:
                await self._bus.publish(batch)
            except UnavailableError as error:
                self._observer.publish_failed(len(batch), error.reason)
            else:
                self._observer.published(len(batch), time.monotonic() - batch[0].committed_s)
            if not self._outbox:
                self._empty.set()

    async def flush(self) -> None:
        """Wait until all that was accepted so far has been handed to the bus. Cancel-safe."""
        await asyncio.sleep(0)  # `accept` takes in at the next tick.
        await self._empty.wait()
