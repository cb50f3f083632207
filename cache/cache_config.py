"""The bounds of the users dict's cache, and what it counts."""

from __future__ import annotations

from dataclasses import dataclass

from cache.users_dict import Stamp


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """The bounds of the cache.

    Attributes:
        key_prefix: Begins every key; the same as the bus's.
        ttl_s: How long a copy lives at most, in Redis and near.
        command_timeout_s: The longest wait for Redis.
        retry_after_s: How long a Redis that failed is left alone; by readers, three times as long.
        is_cluster: Whether Redis is a cluster, where notices go over sharded pub/sub.
        max_loads: How often one read asks the database anew because a commit came between.
    """

    key_prefix: str = "zonecast"
    ttl_s: float = 300.0
    command_timeout_s: float = 0.5
    retry_after_s: float = 1.0
    is_cluster: bool = False
    max_loads: int = 3


@dataclass(frozen=True, slots=True)
class NearCopyStats:
    """The near copy: how often it served, and what it is of now.

    Attributes:
        hits: Reads that it answered.
        bytes: The size of its body; 0 while there is no current one.
        age_s: Since when it is there.
        etag: The hash of its body.
        stamp: The state of the database that it is of.
    """

    hits: int
    bytes: int
    age_s: float
    etag: str | None
    stamp: Stamp | None


@dataclass(frozen=True, slots=True)
class CacheStats:
    """What the cache counted since its start.

    Attributes:
        available: Whether Redis serves.
        hits: Reads answered from the near copy or Redis.
        misses: Reads that had to ask the database or wait for one who did.
        loads: Times that the database was asked.
        fills: Values stored in Redis.
        stale_fills_refused: Fills that the fence kept out.
        stale_values_refused: Values of Redis, and loads, older than what this node had seen.
        failures: Calls that Redis didn't answer.
        size: Users in the newest dict that this node knows.
        near: The near copy.
    """

    available: bool
    hits: int
    misses: int
    loads: int
    fills: int
    stale_fills_refused: int
    stale_values_refused: int
    failures: int
    size: int
    near: NearCopyStats
