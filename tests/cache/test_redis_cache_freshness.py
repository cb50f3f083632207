"""The cache of the users dict: nothing old is served after something new."""

from __future__ import annotations

import asyncio

from redis.asyncio import Redis

from cache.users_dict import Stamp, UsersDict
from tests.cache.shelves import CONFIG, FENCE, VALUE, Shelf, Source


async def test_an_invalidation_leads_to_a_new_load(shelf: Shelf) -> None:
    """After one that the node heard of, nothing from before is served."""
    source = Source()
    assert await shelf.version(source) == 1
    source.version = 2
    await shelf.cache.invalidate_users_dict()
    assert shelf.cache.get_stats().near.bytes == 0
    assert await shelf.version(source) == 2


async def test_a_load_overtaken_by_a_commit_is_made_again(shelf: Shelf) -> None:
    """What was read before an invalidation isn't served after it, to nobody."""
    source = Source()
    source.hold()
    async with asyncio.TaskGroup() as group:
        early = group.create_task(shelf.version(source))
        await source.began.wait()
        source.version = 2
        shelf.invalidation.heard()
        late = group.create_task(shelf.version(source))
        await asyncio.sleep(0)
        source.gate.set()
    assert (early.result(), late.result()) == (2, 2)


async def test_a_read_ends_under_constant_commits(shelf: Shelf) -> None:
    """It gives up asking anew after some tries, without leaving a stale copy."""
    source = Source()

    async def load_during_commit() -> tuple[Stamp, UsersDict]:
        answer = await source.load()
        source.version += 1
        shelf.invalidation.heard()
        return answer

    copy = await shelf.cache.read(load_during_commit)
    assert source.loads == CONFIG.max_loads
    assert copy.stamp == Stamp("db", 1, CONFIG.max_loads)
    assert shelf.cache.get_stats().near.bytes == 0
    assert await shelf.version(source) == source.version


async def test_who_knew_of_a_later_commit_does_not_share_a_load_that_gave_up(
    shelf: Shelf,
) -> None:
    """Under constant commits a read ends with an old dict, which is for its own caller alone."""
    source = Source()
    last_load_read, may_return = asyncio.Event(), asyncio.Event()

    async def load_during_commit() -> tuple[Stamp, UsersDict]:
        answer = await source.load()
        source.version += 1
        shelf.invalidation.heard()
        if source.loads == CONFIG.max_loads:
            last_load_read.set()
            await may_return.wait()
        return answer

    async with asyncio.TaskGroup() as group:
        group.create_task(shelf.cache.read(load_during_commit))
        await last_load_read.wait()
        late = group.create_task(shelf.version(source))
        await asyncio.sleep(0)
        may_return.set()
    assert late.result() == source.version


async def test_a_slow_fill_is_refused(shelf_pair: tuple[Shelf, Shelf]) -> None:
    """What was read before another node raised the fence doesn't get into Redis."""
    slow, writer = shelf_pair
    source = Source()
    source.hold()
    async with asyncio.TaskGroup() as group:
        read = group.create_task(slow.version(source))
        await source.began.wait()
        source.version = 2
        await writer.cache.invalidate_users_dict()
        source.gate.set()
    # No bus here: the slow node can't know, but Redis does, and its refusal tells the node.
    assert read.result() == 1
    assert slow.cache.get_stats().stale_fills_refused == 1
    assert await writer.version(source) == 2
    assert await slow.version(source) == 2


async def test_a_token_from_before_a_flush_is_refused(
    shelf_pair: tuple[Shelf, Shelf], redis_url: str
) -> None:
    """A Redis that came back empty has forgotten the fence: nothing older may pass."""
    slow, other = shelf_pair
    source = Source()
    source.hold()
    async with asyncio.TaskGroup() as group:
        read = group.create_task(slow.version(source))
        await source.began.wait()
        source.version = 2
        async with Redis.from_url(redis_url) as admin:
            await admin.flushall()
        source.gate.set()
        await read
        assert await other.version(source) == 2
    assert slow.cache.get_stats().stale_fills_refused == 1


async def test_an_older_value_of_redis_is_not_served_after_a_newer_one(
    shelf_pair: tuple[Shelf, Shelf], redis_url: str
) -> None:
    """As when a replica without the last writes takes over: the node has seen better."""
    node, _ = shelf_pair
    source = Source()
    await node.version(source)
    async with Redis.from_url(redis_url) as admin:
        before = {key: await admin.get(key) or b"" for key in (FENCE, VALUE)}
        source.version = 2
        await node.cache.invalidate_users_dict()
        assert await node.version(source) == 2
        await admin.mset({key: before[key] for key in (FENCE, VALUE)})
    node.cache.drop_near_copy()
    assert await node.version(source) == 2
    assert node.cache.get_stats().stale_values_refused == 1


async def test_a_slow_load_is_not_served_after_a_newer_dict(shelf: Shelf) -> None:
    """Even when no invalidation was heard: what this node has served, it doesn't take back."""
    source = Source()
    await shelf.version(source)
    old = await source.load()
    source.version = 2
    assert await shelf.version(source, use_cache=False) == 2

    async def load_old() -> tuple[Stamp, UsersDict]:
        return old

    copy = await shelf.cache.read(load_old, use_cache=False)
    assert copy.stamp == source.stamp


async def test_verification_drops_what_the_database_has_left_behind(
    shelf_pair: tuple[Shelf, Shelf],
) -> None:
    """An invalidation that died with its writer: near copy and Redis both lose the old dict."""
    node, other = shelf_pair
    source = Source()
    await node.version(source)
    await node.cache.verify(source.stamp)
    assert await node.version(source) == 1
    assert source.loads == 1
    source.version = 2
    await node.cache.verify(source.stamp)
    assert await other.version(source) == 2
    assert await node.version(source) == 2
    assert source.loads == 2


async def test_verification_spares_what_is_newer(shelf: Shelf) -> None:
    """The state asked for a moment ago may be older than what was cached since."""
    source = Source()
    early = source.stamp
    source.version = 2
    await shelf.version(source)
    await shelf.cache.verify(early)
    assert await shelf.version(source) == 2
    assert source.loads == 1


async def test_another_database_empties_the_cache(shelf_pair: tuple[Shelf, Shelf]) -> None:
    """After a restore the numbers may be smaller; the identity tells that they mean nothing."""
    node, other = shelf_pair
    source = Source(version=9)
    await node.version(source)
    await other.version(source)
    source.version, source.identity = 3, "restored"
    for shelf in shelf_pair:
        await shelf.cache.verify(source.stamp)
    assert [await shelf.version(source) for shelf in shelf_pair] == [3, 3]


async def test_the_plain_interface_refuses_what_a_commit_overtook(
    shelf_pair: tuple[Shelf, Shelf],
) -> None:
    """The token that the miss read belongs to the task that missed, not to the last reader."""
    slow, writer = shelf_pair
    missed, go_on = asyncio.Event(), asyncio.Event()

    async def load_slowly() -> bool:
        assert await slow.cache.get_users_dict() is None
        missed.set()
        await go_on.wait()
        return await slow.cache.cache_users_dict({"1": "old"}, 60, stamp=Stamp("db", 1, 1))

    async with asyncio.TaskGroup() as group:
        task = group.create_task(load_slowly())
        await missed.wait()
        await writer.cache.invalidate_users_dict()
        assert await slow.cache.get_users_dict() is None
        go_on.set()
    assert not task.result()
    assert await writer.cache.get_users_dict() is None
    assert slow.cache.get_stats().stale_fills_refused == 1
