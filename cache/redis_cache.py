"""The cache of the users dict: near copy, Redis, database, in this order."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from redis.asyncio import Redis

from cache.cache_config import CacheConfig, CacheStats, NearCopyStats
from cache.fenced_store import FencedStore, LookUp
from cache.flight import Flight, Outcome
from cache.invalidation import Invalidation
from cache.users_dict import (
    CachedBytes,
    MalformedValueError,
    NearCopy,
    Stamp,
    UsersDict,
    decode_stamp,
    decode_value,
    encode_value,
)

_logger = logging.getLogger(__name__)

Load = Callable[[], Awaitable[tuple[Stamp, UsersDict]]]
"""Reads dict and stamp from the database, both in one snapshot."""


class RedisCache:
    """Cache-aside for the users dict; with `redis` None there are near copies only.

    Nothing here raises because of Redis: without it, reads go to the database.
    """

    def __init__(
        self, redis: Redis | None, invalidation: Invalidation, config: CacheConfig | None = None
    ) -> None:
        """Build a cache.

        Args:
            redis: A client of the cache's own, closed with it.
            invalidation: Shared with the bus of this node.
            config: The bounds.
        """
        self._config = config or CacheConfig()
        self._invalidation = invalidation
        self._store = (
            None
            if redis is None
            else FencedStore(
                redis,
                self._config.key_prefix,
                command_timeout_s=self._config.command_timeout_s,
                retry_after_s=self._config.retry_after_s,
                is_cluster=self._config.is_cluster,
            )
        )
        self._near = NearCopy()
        self._verified: Stamp | None = None
        self._flight: Flight | None = None
        # What a task that missed has to bring when it stores what it then read.
        self._missed: WeakKeyDictionary[asyncio.Task[Any], _Miss] = WeakKeyDictionary()
        self._near_hits = self._far_hits = self._misses = self._loads = 0
        self._fills = self._stale_fills_refused = self._stale_values_refused = 0

    @property
    def is_available(self) -> bool:
        """Whether Redis is configured, answers, and may be trusted by this node."""
        store = self._store
        return store is not None and store.answers and self._invalidation.trusts_redis

    async def read(self, load: Load, *, use_cache: bool = True) -> CachedBytes:
        """Return the encoded users dict; concurrent misses share one load. Cancel-safe.

        It is never older than the last invalidation that this node knew when it was called,
        nor than what this node has served before.

        Args:
            load: Asks the database; its errors are raised here.
            use_cache: Whether a copy will do; else the database is asked after the call.
        """
        generation = self._invalidation.generation
        first_load = 0 if use_cache else self._loads + 1
        while True:
            if use_cache and (copy := self.current()) is not None:
                return copy
            if self._flight is None:
                copy = await self._lead(load, use_cache=use_cache)
                break
            self._misses += 1
            outcome = await self._flight.join()
            if outcome is not None and outcome.serves(generation, first_load):
                copy = outcome.copy
                break
        # Others may have been served a newer one while this reader was waiting to go on.
        return self._near.newest or copy

    def current(self) -> CachedBytes | None:
        """Return what `read` would return without asking anybody; `None`: it has to ask.

        To be served at once: it is counted as read. Never awaits.
        """
        copy = self._current()
        if copy is not None:
            self._near_hits += 1
        return copy

    async def get_users_dict(self) -> dict[str, Any] | None:
        """Return the cached dict, `None` when there is none that may be served.

        After `None`, the calling task may load the dict and hand it to `cache_users_dict`.
        """
        generation = self._invalidation.generation
        if (copy := self.current()) is not None:
            return copy.to_dict()
        found = await self._look_up(with_value=True)
        if found is not None and (copy := self._adopt_value(found, generation)) is not None:
            return copy.to_dict()
        self._misses += 1
        if (task := asyncio.current_task()) is not None:
            self._missed[task] = _Miss(found.token if found else None, generation)
        return None

    async def cache_users_dict(
        self, data: UsersDict, ttl_s: float | None = None, *, stamp: Stamp | None = None
    ) -> bool:
        """Store a dict that was read after this task's last `get_users_dict` missed.

        A task that missed nothing vouches that no commit came since it read the dict.

        Args:
            data: The users by global id.
            ttl_s: How long Redis keeps it, at most; by default `ttl_s` of the configuration.
            stamp: The state that it is of. A dict without one lives until the next `verify`.

        Returns:
            Whether Redis took it: not when a commit came between, or Redis is away.
        """
        task = asyncio.current_task()
        miss = self._missed.pop(task, None) if task is not None else None
        if miss is None:
            generation = self._invalidation.generation
            found = await self._look_up(with_value=False)
            miss = _Miss(found.token if found else None, generation)
        if ttl_s is None:
            ttl_s = self._config.ttl_s
        copy = CachedBytes.of_dict(data, stamp)
        adopted = self._adopt(copy, generation=miss.generation, load=self._loads + 1)
        if not adopted or miss.token is None:
            return False
        return await self._fill(copy, miss.token, miss.generation, ttl_s)

    async def invalidate_users_dict(self) -> None:
        """Drop every copy on all nodes; one in Redis that can't be reached now, later."""
        self._invalidation.begin()
        raised = self._store is None
        try:
            if self._store is not None:
                raised = await self._store.drop()
        finally:
            self._invalidation.end(raised=raised)

    def drop_near_copy(self) -> None:
        """Drop this node's copy. Never awaits."""
        self._invalidation.heard()

    async def verify(self, stamp: Stamp) -> None:
        """Compare all copies with the database's present state, and drop what differs.

        To be called once a second: an invalidation that died with its writer lives no longer.
        """
        self._verified = stamp
        near = self._current()
        if near is not None and _differs(near.stamp, stamp):
            self.drop_near_copy()
        store = self._store
        if store is None:
            return
        if self._invalidation.owes_raise:
            mark = self._invalidation.owed_mark()
            if await store.drop(in_background=True):
                self._invalidation.settle(mark)
            return
        header = await store.read_header()
        if not header:
            return
        try:
            cached = decode_stamp(header)
        except MalformedValueError:
            cached = None
        if _differs(cached, stamp):
            _logger.info("cache: the users dict in Redis was out of date")
            await self.invalidate_users_dict()

    def get_stats(self) -> CacheStats:
        """Return the figures."""
        newest, near = self._near.newest, self._current()
        return CacheStats(
            available=self.is_available,
            hits=self._near_hits + self._far_hits,
            misses=self._misses,
            loads=self._loads,
            fills=self._fills,
            stale_fills_refused=self._stale_fills_refused,
            stale_values_refused=self._stale_values_refused,
            failures=self._store.failures if self._store else 0,
            size=newest.entries if newest else 0,
            near=NearCopyStats(
                hits=self._near_hits,
                bytes=len(near.body) if near else 0,
                age_s=time.monotonic() - self._near.adopted_s if near else 0.0,
                etag=near.etag if near else None,
                stamp=near.stamp if near else None,
            ),
        )

    async def close(self) -> None:
        """Close the connections to Redis."""
        if self._store is not None:
            await self._store.aclose()

    async def _lead(self, load: Load, *, use_cache: bool) -> CachedBytes:
        flight = self._flight = Flight()
        try:
            outcome, token = await self._obtain(load, use_cache=use_cache)
            flight.land(outcome)
        except Exception as error:
            flight.fail(error)
            raise
        finally:
            # Cancelled: one of those who wait takes over.
            self._flight = None
            flight.abandon()
        if token is not None:
            await self._fill(outcome.copy, token, outcome.generation, self._config.ttl_s)
        return outcome.copy

    async def _obtain(self, load: Load, *, use_cache: bool) -> tuple[Outcome, bytes | None]:
        """Read from Redis or the database; returns the token with which it may be stored."""
        tries = 0
        while True:
            generation = self._invalidation.generation
            found = await self._look_up(with_value=use_cache)
            if found is not None and use_cache:
                copy = self._adopt_value(found, generation)
                if copy is not None:
                    return Outcome(copy, generation, load=0), None
            # The token is from before, the load from after: so it may be stored.
            generation = self._invalidation.generation
            if tries == 0:
                self._misses += 1
            tries += 1
            self._loads += 1
            number = self._loads
            stamp, users = await load()
            copy = CachedBytes.of_dict(users, stamp)
            adopted = self._adopt(copy, generation=generation, load=number)
            current = (
                adopted
                and generation == self._invalidation.generation
                and not self._is_behind(copy)
            )
            if current or tries >= self._config.max_loads:
                token = found.token if found is not None and current else None
                return Outcome(self._near.newest or copy, generation, number), token

    async def _look_up(self, *, with_value: bool) -> LookUp | None:
        if self._store is None or not self._invalidation.trusts_redis:
            return None
        return await self._store.look_up(with_value=with_value)

    def _adopt_value(self, found: LookUp, generation: int) -> CachedBytes | None:
        """Take a value of Redis unless it may be out of date; returns what was taken."""
        if found.value is None or generation != self._invalidation.generation:
            return None
        try:
            copy = decode_value(found.value)
        except MalformedValueError as error:
            _logger.warning("cache: dropped a value of Redis: %s", error)
            return None
        if self._is_behind(copy):
            self._stale_values_refused += 1
            return None
        if not self._adopt(copy, generation=generation, load=0):
            return None
        self._far_hits += 1
        return copy

    def _adopt(self, copy: CachedBytes, *, generation: int, load: int) -> bool:
        adopted = self._near.adopt(
            copy,
            generation=generation,
            load=load,
            loads_begun=self._loads,
            now_s=time.monotonic(),
        )
        if not adopted:
            self._stale_values_refused += 1
        return adopted

    async def _fill(self, copy: CachedBytes, token: bytes, generation: int, ttl_s: float) -> bool:
        if self._store is None or generation != self._invalidation.generation:
            return False
        stored = await self._store.fill(token, encode_value(copy), ttl_s)
        if stored is None:
            return False
        if stored:
            self._fills += 1
        else:
            self._stale_fills_refused += 1
            # Another node's commit whose notice is still on its way.
            self.drop_near_copy()
        return stored

    def _current(self) -> CachedBytes | None:
        return self._near.current(
            self._invalidation.generation, time.monotonic(), self._config.ttl_s
        )

    def _is_behind(self, copy: CachedBytes) -> bool:
        """Tell whether the database was already ahead of the copy when it was last asked."""
        if self._verified is None or copy.stamp is None:
            return False
        return copy.stamp.is_older_than(self._verified)


@dataclass(frozen=True, slots=True)
class _Miss:
    """What was known before a task went to the database."""

    token: bytes | None
    generation: int


def _differs(cached: Stamp | None, present: Stamp) -> bool:
    # What was cached after the present state was read may well be newer.
    return cached is None or (cached != present and not present.is_older_than(cached))
