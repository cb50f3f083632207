"""Hunting for a stale users dict: writers, slow readers and two nodes on a real Redis."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from cache.bus_config import BusConfig
from cache.cache_config import CacheConfig
from cache.client import Connector, RedisConfig
from cache.invalidation import Invalidation
from cache.redis_bus import RedisBus
from cache.redis_cache import RedisCache
from cache.users_dict import Stamp, UsersDict
from tests.cache.nodes import BusNode, RecordingListener, changed, running, transaction

CHANNEL = "zone:A"
READERS = 6
READS = 300
"""How many reads each node makes while writers write."""


@dataclass(slots=True)
class Truth:
    """The database: one number that rises with each commit."""

    version: int = 0


class Ledger(RecordingListener):
    """Knows up to which version a node has been told of changes."""

    def __init__(self) -> None:
        super().__init__()
        self.told = 0

    def on_message(self, message: object) -> None:
        super().on_message(message)  # type: ignore[arg-type] # As it came.
        self.told = max(self.told, self.messages[-1].position.rev)


@dataclass(slots=True)
class Reading:
    """A node under observation.

    Attributes:
        published: The newest version whose publication from this node has returned.
        served: The newest version that a reader of this node has got.
        stale: What readers got that they should not have got.
    """

    bus: BusNode
    ledger: Ledger
    cache: RedisCache
    published: int = 0
    served: int = 0
    reads: int = 0
    stale: list[str] = field(default_factory=list)


@pytest.fixture
async def nodes(redis_url: str) -> AsyncIterator[list[Reading]]:
    """Two nodes, each with bus and cache, on one Redis."""
    nodes = []
    for name in ("a", "b"):
        invalidation, ledger = Invalidation(), Ledger()
        connector = Connector(RedisConfig(redis_url))
        bus = BusNode(RedisBus(connector, name, invalidation, BusConfig()), invalidation, ledger)
        client = connector.create_client(name=f"cache-{name}", max_connections=4)
        cache = RedisCache(client, invalidation, CacheConfig())
        nodes.append(Reading(bus, ledger, cache))
    yield nodes
    for node in nodes:
        await node.cache.close()


async def write(node: Reading, truth: Truth, done: asyncio.Event, chance: random.Random) -> None:
    """Commit, then publish, as a node does; the response is sent after that."""
    while not done.is_set():
        truth.version += 1
        version = truth.version
        await node.bus.bus.publish(
            [transaction(version, CHANNEL, events=(changed(version=version),))]
        )
        node.published = max(node.published, version)
        await asyncio.sleep(chance.choice((0, 0.001, 0.004)))


async def read(node: Reading, truth: Truth, chance: random.Random) -> None:
    """Read again and again, with loads that return what they read a good while ago."""

    async def load() -> tuple[Stamp, UsersDict]:
        await asyncio.sleep(chance.choice((0, 0.001)))
        version = truth.version
        await asyncio.sleep(chance.choice((0, 0.001, 0.005, 0.02)))
        return Stamp("db", 1, version), {"1": version}

    while node.reads < READS:
        least = max(node.published, node.ledger.told)
        copy = await node.cache.read(load, use_cache=chance.random() < 0.9)
        got = copy.to_dict()["1"]
        if got < max(least, node.served):
            node.stale.append(f"got {got}, was told {least}, had served {node.served}")
        node.served = max(node.served, got)
        node.reads += 1
        await asyncio.sleep(chance.choice((0, 0.0005, 0.002)))


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_no_node_serves_a_dict_older_than_what_it_has_been_told(
    nodes: list[Reading], seed: int
) -> None:
    """After a response nobody at that node, after its notice nobody at another, sees the old one.

    Nor does any node go back behind what it has served before.
    """
    truth, done = Truth(), asyncio.Event()
    chance = random.Random(seed)  # noqa: S311 -- Repeatable, no secret.
    async with running(*(node.bus for node in nodes)):
        for node in nodes:
            await node.bus.bus.subscribe(CHANNEL)
        async with asyncio.TaskGroup() as writers:
            for node in nodes:
                writers.create_task(write(node, truth, done, chance))
            async with asyncio.TaskGroup() as readers:
                for node in nodes * READERS:
                    readers.create_task(read(node, truth, chance))
            done.set()
        for node in nodes:
            await node.ledger.until(lambda node=node: node.ledger.told == truth.version)  # type: ignore[misc] # Bound.

        async def load() -> tuple[Stamp, UsersDict]:
            return Stamp("db", 1, truth.version), {"1": truth.version}

        finals = [(await node.cache.read(load)).to_dict()["1"] for node in nodes]
    assert [node.stale for node in nodes] == [[], []]
    assert finals == [truth.version, truth.version]
    # Otherwise nothing was put to the test.
    assert truth.version > 50
    assert all(node.cache.get_stats().loads > 20 for node in nodes)
