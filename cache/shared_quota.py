"""The shared quota: how much each asker has asked of all nodes, kept in Redis."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Final, cast

from redis.asyncio import Redis

from cache.bus_config import hash_tag
from cache.client import REDIS_ERRORS, reason_of

_logger = logging.getLogger(__name__)

# KEYS what is counted of one asker: until when all is paid for, in us of Redis's clock.
# ARGV what one request costs in us; how many may be asked at once. Never further ahead than that,
# also where another server with an earlier clock took over.
_TAKE: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local cost = tonumber(ARGV[1])
local most = cost * tonumber(ARGV[2])
local paid = tonumber(redis.call('GET', KEYS[1]) or now)
paid = math.min(math.max(paid, now), now + most)
local ahead = paid + cost - now
if ahead > most + 0.5 then
  return {0, paid - now}
end
redis.call('SET', KEYS[1], string.format('%.0f', paid + cost), 'PX', math.ceil(ahead / 1000))
return {1, ahead}
"""


class SharedQuota:
    """Counts requests of all nodes, one script and one round trip each.

    After a failure Redis is left alone for `retry_after_s`; then one call asks it again, and the
    others go on without, so that a hung Redis costs one bounded wait.

    Args:
        redis: A client of its own, closed with it.
        key_prefix: Begins the keys.
        per_s: How many requests in a second an asker may send for long.
        burst: How many at once.
        command_timeout_s: The longest wait for an answer.
        retry_after_s: How long a Redis that failed isn't asked.
        failed: Told of each call that Redis did not answer.
    """

    def __init__(
        self,
        redis: Redis,
        key_prefix: str,
        *,
        per_s: float,
        burst: int,
        command_timeout_s: float,
        failed: Callable[[], None],
        retry_after_s: float = 1.0,
    ) -> None:
        self._redis = redis
        self._prefix = f"{hash_tag(key_prefix)}:quota:"
        self._arguments = (1_000_000 / per_s, burst)
        self._command_timeout_s = command_timeout_s
        self._retry_after_s = retry_after_s
        self._failed = failed
        self._retry_at_s = 0.0
        self._take = redis.register_script(_TAKE)

    async def take(self, asker: str) -> tuple[bool, float] | None:
        """Count a request, and tell whether it may be done and what is paid ahead, in seconds.

        Returns:
            `None` when Redis doesn't answer.
        """
        now_s = time.monotonic()
        if now_s < self._retry_at_s:
            return None
        if self._retry_at_s:
            # Of those that come meanwhile, none waits.
            self._retry_at_s = now_s + self._command_timeout_s + self._retry_after_s
        try:
            async with asyncio.timeout(self._command_timeout_s):
                reply = await self._take(keys=(self._prefix + asker,), args=self._arguments)
        except REDIS_ERRORS as error:
            if not self._retry_at_s:
                _logger.warning("quota: each node counts by itself: %s", reason_of(error))
            self._retry_at_s = time.monotonic() + self._retry_after_s
            self._failed()
            return None
        if self._retry_at_s:
            self._retry_at_s = 0.0
            _logger.info("quota: Redis counts again")
        allowed, ahead_us = cast("tuple[int, int]", reply)
        return bool(allowed), ahead_us / 1_000_000

    async def aclose(self) -> None:
        """Close the connections."""
        with contextlib.suppress(*REDIS_ERRORS):
            await self._redis.aclose()
