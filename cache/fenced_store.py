"""The users dict in Redis, behind its fence: nothing read before a commit is stored after it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar, cast

from redis.asyncio import Redis

from cache.bus_config import BusKeys
from cache.client import REDIS_ERRORS, reason_of
from cache.invalidation import UsersDictKeys
from cache.users_dict import HEADER_RANGE

_logger = logging.getLogger(__name__)

_T = TypeVar("_T")

# KEYS fence, value; ARGV a fresh token, "1" when the value is wanted.
_LOOK_UP: Final = """
local token = redis.call('GET', KEYS[1])
if not token then
  token = ARGV[1]
  redis.call('SET', KEYS[1], token)
end
if ARGV[2] == '1' then
  return {token, redis.call('GET', KEYS[2])}
end
return {token, false}
"""

# KEYS fence, value; ARGV the token, the value, its life in ms.
_FILL: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
return 1
"""


@dataclass(frozen=True, slots=True)
class LookUp:
    """What Redis held at one moment: the fence's token, and the value if it was asked for."""

    token: bytes
    value: bytes | None


class FencedStore:
    """The users dict's two keys. Every call is bounded; `None` says that Redis didn't answer.

    After a failure Redis is left alone for `retry_after_s`, so that a hung one costs one
    bounded wait in that time.
    """

    def __init__(
        self, redis: Redis, key_prefix: str, *, command_timeout_s: float, retry_after_s: float
    ) -> None:
        self._redis = redis
        self._keys = UsersDictKeys.of_prefix(key_prefix)
        self._both = (self._keys.fence, self._keys.value)
        self._notice_key = BusKeys.of_node(key_prefix, "").all_nodes
        self._command_timeout_s = command_timeout_s
        self._retry_after_s = retry_after_s
        self._left_alone_until_s: float | None = None
        self._look_up = redis.register_script(_LOOK_UP)
        self._fill = redis.register_script(_FILL)
        self.failures = 0

    @property
    def answers(self) -> bool:
        """Whether the last call succeeded; true before the first."""
        return self._left_alone_until_s is None

    async def look_up(self, *, with_value: bool) -> LookUp | None:
        """Read token and value at one moment; a fence that is missing gets a fresh token."""
        # Random: a counter of a Redis that came back empty would repeat itself.
        arguments = [secrets.token_hex(16), "1" if with_value else "0"]
        reply = await self._ask(lambda: self._look_up(keys=self._both, args=arguments))
        if reply is None:
            return None
        token, value = cast("tuple[bytes, bytes | None]", reply)
        return LookUp(token, value)

    async def fill(self, token: bytes, value: bytes, ttl_s: float) -> bool | None:
        """Store a value if the fence still has the token; returns whether it was stored."""
        arguments = (token, value, max(1, round(ttl_s * 1000)))
        reply = await self._ask(lambda: self._fill(keys=self._both, args=arguments))
        return None if reply is None else reply == 1

    async def read_header(self) -> bytes | None:
        """Read the beginning of the value, `HEADER_RANGE`; empty when there is no value."""
        reply = await self._ask(lambda: self._redis.getrange(self._keys.value, *HEADER_RANGE))
        return cast("bytes | None", reply)

    async def drop(self) -> bool:
        """Raise the fence, delete the value and tell all nodes; returns whether that is done."""
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.execute_command("UNLINK", *self._both)
        # Without a node's name all nodes take it for another's.
        pipeline.execute_command("PUBLISH", self._notice_key, "users -")
        return await self._ask(pipeline.execute) is not None

    async def aclose(self) -> None:
        """Close the connections."""
        with contextlib.suppress(*REDIS_ERRORS):
            await self._redis.aclose()

    async def _ask(self, command: Callable[[], Awaitable[_T]]) -> _T | None:
        if self._left_alone_until_s is not None and time.monotonic() < self._left_alone_until_s:
            return None
        try:
            async with asyncio.timeout(self._command_timeout_s):
                answer = await command()
        except REDIS_ERRORS as error:
            self.failures += 1
            self._left_alone_until_s = time.monotonic() + self._retry_after_s
            _logger.warning("cache: Redis: %s", reason_of(error))
            return None
        self._left_alone_until_s = None
        return answer
