"""The cache of the users dict: who is asked, how often, and what when Redis is away."""

from __future__ import annotations

import asyncio
import time

from redis.asyncio import Redis

from cache.cache_config import CacheConfig
from cache.users_dict import Stamp, UsersDict
from tests.cache.shelves import CONFIG, VALUE, Shelf, Source, new_shelf
from tests.servers import RedisServer


async def test_a_second_read_asks_nobody(shelf: Shelf) -> None:
    """The near copy serves until something is invalidated."""
    source = Source()
    first = await shelf.cache.read(source.load)
    assert await shelf.cache.read(source.load) is first
    assert source.loads == 1
    assert first.stamp == source.stamp
    stats = shelf.cache.get_stats()
    assert (stats.hits, stats.misses, stats.loads, stats.size) == (1, 1, 1, 1)
    assert (stats.near.hits, stats.near.bytes) == (1, len(first.body))
    assert (stats.near.stamp, stats.near.etag) == (first.stamp, first.etag)


async def test_a_read_without_cache_asks_the_database(shelf: Shelf) -> None:
    """`use_cache=False` sees what no invalidation has told of, and so do all after it."""
    source = Source()
    await shelf.version(source)
    source.version = 2
    assert await shelf.version(source, use_cache=False) == 2
    assert await shelf.version(source) == 2
    assert source.loads == 2


async def test_the_other_node_reads_from_redis(shelf_pair: tuple[Shelf, Shelf]) -> None:
    """One load serves all nodes; tag and stamp are the same there."""
    source = Source()
    first = await shelf_pair[0].cache.read(source.load)
    assert await shelf_pair[1].cache.read(source.load) == first
    assert source.loads == 1
    assert shelf_pair[0].cache.get_stats().fills == 1
    assert shelf_pair[1].cache.get_stats().hits == 1


async def test_concurrent_misses_share_one_load(shelf: Shelf) -> None:
    """A thousand readers cost the database one question."""
    source = Source()
    source.hold()
    async with asyncio.TaskGroup() as group:
        reads = [group.create_task(shelf.version(source)) for _ in range(1_000)]
        await source.began.wait()
        source.gate.set()
    assert {read.result() for read in reads} == {1}
    assert source.loads == 1


async def test_a_cancelled_first_reader_leaves_the_others_served(shelf: Shelf) -> None:
    """Another one loads in its place; nobody waits for a load that nobody makes."""
    source = Source()
    source.hold()
    async with asyncio.TaskGroup() as group:
        first = group.create_task(shelf.version(source))
        await source.began.wait()
        others = [group.create_task(shelf.version(source)) for _ in range(5)]
        await asyncio.sleep(0)
        others[0].cancel()
        first.cancel()
        source.gate.set()
    assert first.cancelled()
    assert others[0].cancelled()
    assert [other.result() for other in others[1:]] == [1] * 4
    assert source.loads == 2


async def test_a_failed_load_fails_all_who_waited_for_it(shelf: Shelf) -> None:
    """A database that is down isn't asked once for each reader; the next read asks again."""
    source = Source()
    source.hold()

    async def fail() -> tuple[Stamp, UsersDict]:
        await source.load()
        raise ConnectionResetError("test")

    async def let_go() -> None:
        await source.began.wait()
        source.gate.set()

    reads = [shelf.cache.read(fail) for _ in range(10)]
    *outcomes, _ = await asyncio.gather(*reads, let_go(), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {ConnectionResetError}
    assert source.loads == 1
    assert await shelf.version(source) == 1


async def test_garbage_in_redis_is_a_miss(shelf_pair: tuple[Shelf, Shelf], redis_url: str) -> None:
    """It is replaced by what the database has."""
    async with Redis.from_url(redis_url) as admin:
        await admin.set(VALUE, b"\xff garbage")
        source = Source()
        assert await shelf_pair[0].version(source) == 1
        assert await shelf_pair[1].version(source) == 1
    assert source.loads == 1


async def test_values_and_near_copies_end(redis_url: str) -> None:
    """The life of a copy is bounded in Redis and near, even if nothing is ever verified."""
    shelf = new_shelf(redis_url, CacheConfig(ttl_s=0.05))
    source = Source()
    await shelf.version(source)
    async with Redis.from_url(redis_url) as admin:
        assert 0 < await admin.pttl(VALUE) <= 50
        source.version = 2
        async with asyncio.timeout(5):
            # Nothing happens when a copy's time is up: it is only not served.
            while await shelf.version(source) != 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    await shelf.cache.close()


async def test_the_plain_interface_is_cache_aside(shelf: Shelf) -> None:
    """Ask, load on `None`, store: as in any cache-aside, but fenced all the same."""
    cache = shelf.cache
    assert await cache.get_users_dict() is None
    await cache.cache_users_dict({"1": {"name": "Ada"}}, 60)
    assert await cache.get_users_dict() == {"1": {"name": "Ada"}}
    await cache.invalidate_users_dict()
    assert await cache.get_users_dict() is None


async def test_without_redis_the_near_copy_serves() -> None:
    """It is told as unavailable and otherwise complete."""
    shelf = new_shelf(None)
    source = Source()
    assert not shelf.cache.is_available
    assert [await shelf.version(source) for _ in range(3)] == [1, 1, 1]
    assert source.loads == 1
    await shelf.cache.verify(source.stamp)
    await shelf.cache.close()


async def test_a_frozen_redis_costs_one_bounded_wait(own_redis: RedisServer) -> None:
    """Reads go to the database; Redis is asked again after a while and used once it answers."""
    shelf = new_shelf(own_redis.url)
    source = Source()
    await shelf.version(source)
    assert shelf.cache.is_available
    own_redis.sigstop()
    shelf.cache.drop_near_copy()
    before_s = time.monotonic()
    assert await shelf.version(source) == 1
    assert time.monotonic() - before_s < CONFIG.command_timeout_s + 0.5
    assert not shelf.cache.is_available
    before_s = time.monotonic()
    for _ in range(20):
        shelf.cache.drop_near_copy()
        await shelf.version(source)
    assert time.monotonic() - before_s < 2 * CONFIG.command_timeout_s + 0.5
    own_redis.sigcont()
    async with asyncio.timeout(10):
        while not shelf.cache.is_available:
            await shelf.cache.verify(source.stamp)
            await asyncio.sleep(0.01)
    await shelf.cache.close()


async def test_an_invalidation_that_redis_missed_is_made_up_for(own_redis: RedisServer) -> None:
    """Meanwhile this node trusts nothing in Redis, which still holds the old dict."""
    shelf, other = new_shelf(own_redis.url), new_shelf(own_redis.url)
    source = Source()
    await shelf.version(source)
    own_redis.sigstop()
    source.version = 2
    await shelf.cache.invalidate_users_dict()
    own_redis.sigcont()
    assert await shelf.version(source) == 2
    assert not shelf.cache.is_available
    async with asyncio.timeout(10):
        while not shelf.cache.is_available:
            await shelf.cache.verify(source.stamp)
            await asyncio.sleep(0.01)
    assert await other.version(source) == 2
    for each in (shelf, other):
        await each.cache.close()


async def test_a_missing_redis_is_no_error(own_redis: RedisServer) -> None:
    """Every call works without it, and closing does, too."""
    await own_redis.kill()
    shelf = new_shelf(own_redis.url)
    source = Source()
    assert await shelf.version(source) == 1
    assert not shelf.cache.is_available
    assert await shelf.cache.get_users_dict() == {"1001": {"version": 1}}
    assert not await shelf.cache.cache_users_dict({}, 60)
    await shelf.cache.invalidate_users_dict()
    await shelf.cache.verify(source.stamp)
    assert await shelf.cache.get_users_dict() is None
    assert shelf.cache.get_stats().failures >= 1
    await shelf.cache.close()
