"""Caches for tests: a source of truth with slow loads, and a cache with what a bus tells it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from cache.cache_config import CacheConfig
from cache.client import Connector, RedisConfig
from cache.invalidation import Invalidation
from cache.redis_cache import RedisCache
from cache.users_dict import Stamp, UsersDict

FENCE, VALUE = "{zonecast:users}:fence", "{zonecast:users}:value"
CONFIG = CacheConfig(command_timeout_s=0.2, retry_after_s=0.1)


@dataclass(slots=True)
class Source:
    """The truth: a dict of one user whose version rises, and who loads it how slowly.

    Attributes:
        version: What a load that begins now brings.
        loads: How many loads began.
        gate: Loads that have read wait for it before they return.
    """

    version: int = 1
    identity: str = "db"
    loads: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    began: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    @property
    def stamp(self) -> Stamp:
        return Stamp(self.identity, 1, self.version)

    async def load(self) -> tuple[Stamp, UsersDict]:
        self.loads += 1
        answer = self.stamp, {"1001": {"version": self.version}}
        self.began.set()
        await self.gate.wait()
        return answer

    def hold(self) -> None:
        """Let loads that begin from now on read, but not return."""
        self.gate.clear()
        self.began.clear()


@dataclass(slots=True)
class Shelf:
    """A cache with what it shares with a bus."""

    cache: RedisCache
    invalidation: Invalidation

    async def version(self, source: Source, *, use_cache: bool = True) -> int:
        """Read the version that is served."""
        copy = await self.cache.read(source.load, use_cache=use_cache)
        version: int = copy.to_dict()["1001"]["version"]
        return version


def new_shelf(url: str | None, config: CacheConfig = CONFIG) -> Shelf:
    """Make the cache of a node."""
    invalidation = Invalidation()
    if url is None:
        return Shelf(RedisCache(None, invalidation, config), invalidation)
    redis = RedisConfig(url)
    config = replace(config, is_cluster=redis.is_cluster)
    client = Connector(redis).create_client(name="cache", max_connections=4)
    return Shelf(RedisCache(client, invalidation, config), invalidation)
