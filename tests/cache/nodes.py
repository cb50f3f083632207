"""Nodes for tests of buses: a bus with a listener that remembers, and changes to publish."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from cache.cluster_bus import ClusterBus
from cache.invalidation import Invalidation
from cache.process_bus import ProcessBus
from cache.redis_bus import RedisBus
from channels.changes import Change, Transaction
from channels.events import Changed, Entered, Event, User
from channels.ports import BusMessage
from channels.positions import Position

EPOCH = "0a1b"
WAIT_S = 10.0
"""How long a test waits for what is to come; it comes in milliseconds."""


class RecordingListener:
    """A bus listener that keeps all it was told and wakes who waits for it."""

    def __init__(self) -> None:
        self.messages: list[BusMessage] = []
        self.gaps = 0
        self._told = asyncio.Event()

    def on_message(self, message: BusMessage) -> None:
        self.messages.append(message)
        self._told.set()

    def on_gap(self) -> None:
        self.gaps += 1
        self._told.set()

    def revs(self, channel: str) -> list[int]:
        """Return the revisions heard on a channel, in order."""
        return [m.position.rev for m in self.messages if m.channel == channel]

    async def until(self, holds: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
        """Wait until something holds that only news can bring about."""
        async with asyncio.timeout(timeout_s):
            while not holds():
                self._told.clear()
                await self._told.wait()

    async def until_heard(self, channel: str, rev: int) -> None:
        """Wait until a revision of a channel was heard."""
        await self.until(lambda: rev in self.revs(channel))


@dataclass(slots=True)
class BusNode:
    """A bus with what it shares with the cache of its node."""

    bus: RedisBus | ClusterBus | ProcessBus
    invalidation: Invalidation
    listener: RecordingListener = field(default_factory=RecordingListener)


@contextlib.asynccontextmanager
async def running(*nodes: BusNode, live: bool = True) -> AsyncIterator[None]:
    """Run the buses of nodes, waiting until they are live unless that can't be."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(node.bus.run(node.listener)) for node in nodes]
        try:
            if live:
                await wait_live(*nodes)
            yield
        finally:
            for task in tasks:
                task.cancel()


async def wait_live(*nodes: BusNode) -> None:
    """Wait until the buses of nodes are live and have told of the gap before."""
    async with asyncio.timeout(WAIT_S):
        for node in nodes:
            await node.bus.wait_live()


def entered(user_id: int = 1, name: str = "Ada", zone_id: str = "A", version: int = 1) -> Entered:
    """Make an event."""
    return Entered(User(user_id, 1000 + user_id, name, zone_id, {}, version))


def changed(user_id: int = 1, version: int = 2) -> Changed:
    """Make an event."""
    return Changed(User(user_id, 1000 + user_id, "Ada", "A", {}, version))


def transaction(rev: int, *channels: str, events: tuple[Event, ...] | None = None) -> Transaction:
    """Make a transaction that takes each of the channels to `rev`."""
    parts = tuple((channel, rev) for channel in channels) if len(channels) > 1 else ()
    tx = f"tx-{rev}"
    what = (entered(),) if events is None else events
    changes = tuple(
        Change.of_events(channel, Position(EPOCH, rev), tx, 1_700_000_000_000, what, parts)
        for channel in channels
    )
    return Transaction(tx, 1_700_000_000_000, changes)
