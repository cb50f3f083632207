"""Fixtures of the bus and cache tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from cache.bus_config import BusConfig
from cache.client import Connector, RedisConfig
from cache.cluster_bus import ClusterBus
from cache.invalidation import Invalidation
from cache.process_bus import ProcessBus, ProcessBusHub
from cache.redis_bus import RedisBus
from tests.cache.nodes import BusNode
from tests.cache.shelves import Shelf, new_shelf
from tests.clusters import RedisCluster, running_cluster
from tests.processes import Scratch
from tests.servers import Binaries

QUICK = BusConfig(
    publish_timeout_s=0.5, heartbeat_interval_s=0.1, deaf_after_s=0.8, backoff_max_s=0.1
)
"""Bounds of a bus short enough to wait for them."""

NewNode = Callable[[str], BusNode]


def redis_node(url: str, name: str, config: BusConfig) -> BusNode:
    """Make a node with a bus over the Redis, or the cluster, at `url`."""
    invalidation = Invalidation()
    redis = Connector(RedisConfig(url, command_timeout_s=0.3, connect_timeout_s=0.3))
    kind = ClusterBus if redis.cluster else RedisBus
    return BusNode(kind(redis, name, invalidation, config), invalidation)


@pytest.fixture(scope="session")
async def redis_cluster(redis_binaries: Binaries, scratch: Scratch) -> AsyncIterator[RedisCluster]:
    """The cluster of the test run: three masters that no test stops."""
    async with running_cluster(redis_binaries, scratch) as cluster:
        yield cluster


@pytest.fixture
async def cluster_url(redis_cluster: RedisCluster) -> str:
    """The URL of the test run's cluster, emptied."""
    for server in redis_cluster.servers:
        await server.call("FLUSHALL")
    return redis_cluster.url


@pytest.fixture(params=["redis", "cluster", "process"])
def new_node(request: pytest.FixtureRequest) -> NewNode:
    """Make nodes that share a bus, of each kind."""
    if request.param in ("redis", "cluster"):
        url = str(request.getfixturevalue(f"{request.param}_url"))
        return lambda name: redis_node(url, name, BusConfig())
    hub = ProcessBusHub()

    def of_process(_name: str) -> BusNode:
        invalidation = Invalidation()
        return BusNode(ProcessBus(invalidation, hub), invalidation)

    return of_process


@pytest.fixture
def bus_pair(new_node: NewNode) -> tuple[BusNode, BusNode]:
    """Two nodes on one bus that don't run yet."""
    return new_node("a"), new_node("b")


@pytest.fixture(params=["redis", "near"])
def shelf_url(request: pytest.FixtureRequest) -> str | None:
    """A Redis, and none: then there are near copies only."""
    return str(request.getfixturevalue("redis_url")) if request.param == "redis" else None


@pytest.fixture
async def shelf(shelf_url: str | None) -> AsyncIterator[Shelf]:
    """The cache of one node, with Redis and without."""
    shelf = new_shelf(shelf_url)
    yield shelf
    await shelf.cache.close()


@pytest.fixture
async def shelf_pair(redis_url: str) -> AsyncIterator[tuple[Shelf, Shelf]]:
    """The caches of two nodes on one Redis."""
    shelves = new_shelf(redis_url), new_shelf(redis_url)
    yield shelves
    for shelf in shelves:
        await shelf.cache.close()
