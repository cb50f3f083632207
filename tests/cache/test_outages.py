"""A Redis that does not serve: how long the cache waits for it, and what it logs."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest

from cache.cache_config import CacheConfig
from tests.cache.shelves import Shelf, Source, new_shelf
from tests.servers import RedisServer

QUICK = CacheConfig(command_timeout_s=0.4, retry_after_s=0.2)


async def verify_until(shelf: Shelf, source: Source, *, available: bool) -> None:
    """Verify as a node does, oftener, until Redis serves or doesn't."""
    async with asyncio.timeout(10):
        while shelf.cache.is_available is not available:
            await shelf.cache.verify(source.stamp)
            await asyncio.sleep(0.01)


async def test_readers_wait_once_for_a_frozen_redis(own_redis: RedisServer) -> None:
    """Later it is asked by what nobody waits for, however long it stays frozen."""
    shelf, source = new_shelf(own_redis.url, QUICK), Source()
    await shelf.version(source)
    own_redis.sigstop()
    waited_s: list[float] = []

    async def verify() -> None:
        while True:
            await asyncio.sleep(QUICK.retry_after_s)
            await shelf.cache.verify(source.stamp)

    async with asyncio.TaskGroup() as group:
        verifying = group.create_task(verify())
        ends_s = time.monotonic() + 6 * QUICK.command_timeout_s
        while time.monotonic() < ends_s:
            shelf.cache.drop_near_copy()
            before_s = time.monotonic()
            await shelf.version(source)
            waited_s.append(time.monotonic() - before_s)
            await asyncio.sleep(0.01)
        verifying.cancel()
    slow = [wait_s for wait_s in waited_s if wait_s > QUICK.command_timeout_s / 2]
    assert len(waited_s) > 20
    assert len(slow) == 1
    own_redis.sigcont()
    await verify_until(shelf, source, available=True)
    await shelf.cache.close()


async def test_only_one_call_asks_a_redis_that_failed(own_redis: RedisServer) -> None:
    """The others go on without it at once, also after it was left alone."""
    shelf, source = new_shelf(own_redis.url, QUICK), Source()
    await shelf.version(source)
    own_redis.sigstop()
    await verify_until(shelf, source, available=False)
    failures = shelf.cache.get_stats().failures
    await asyncio.sleep(3 * QUICK.retry_after_s + 0.1)
    shelf.cache.drop_near_copy()
    async with asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(shelf.cache.get_users_dict())
    assert shelf.cache.get_stats().failures == failures + 1
    own_redis.sigcont()
    await shelf.cache.close()


async def test_an_outage_is_logged_once_and_so_is_its_end(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """It may last for hours, and a node asks every second."""
    caplog.set_level(logging.INFO, logger="cache.fenced_store")
    shelf, source = new_shelf(own_redis.url, QUICK), Source()
    await shelf.version(source)
    await own_redis.stop()
    await verify_until(shelf, source, available=False)
    async with asyncio.timeout(10):
        while shelf.cache.get_stats().failures < 4:
            await shelf.cache.verify(source.stamp)
            await shelf.version(source)
            await asyncio.sleep(0.01)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "does not serve" in caplog.text
    await own_redis.start()
    await verify_until(shelf, source, available=True)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    await shelf.cache.close()
