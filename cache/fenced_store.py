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
from cache.cluster_map import notice_key
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


_PATIENCE: Final = 3
"""How many times longer calls that somebody waits for leave Redis alone."""


@dataclass(frozen=True, slots=True)
class LookUp:
    """What Redis held at one moment: the fence's token, and the value if it was asked for."""

    token: bytes
    value: bytes | None


class FencedStore:
    """The users dict's two keys. Every call is bounded; `None` says that Redis didn't answer.

    After a failure Redis is left alone for `retry_after_s`; then a single call asks it again,
    and the others go on without. Calls that somebody waits for let those of the background ask
    first, so that a hung Redis costs them one bounded wait, not one each.
    """

    def __init__(
        self,
        redis: Redis,
        key_prefix: str,
        *,
        command_timeout_s: float,
        retry_after_s: float,
        is_cluster: bool = False,
    ) -> None:
        self._redis = redis
        self._keys = UsersDictKeys.of_prefix(key_prefix)
        self._both = (self._keys.fence, self._keys.value)
        # Without a node's name all nodes take it for another's.
        self._notice = (
            ("SPUBLISH", notice_key(key_prefix), "users -")
            if is_cluster
            else ("PUBLISH", BusKeys.of_node(key_prefix, "").all_nodes, "users -")
        )
        self._command_timeout_s = command_timeout_s
        self._retry_after_s = retry_after_s
        self._failed_s: float | None = None
        self._outage_began_s = 0.0
        self._is_probing = False
        self._look_up = redis.register_script(_LOOK_UP)
        self._fill = redis.register_script(_FILL)
        self.failures = 0

    @property
    def answers(self) -> bool:
        """Whether the last call succeeded; true before the first."""
        return self._failed_s is None

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
        reply = await self._ask(
            lambda: self._redis.getrange(self._keys.value, *HEADER_RANGE), in_background=True
        )
        return cast("bytes | None", reply)

    async def drop(self, *, in_background: bool = False) -> bool:
        """Raise the fence, delete the value and tell all nodes; returns whether that is done."""
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.execute_command("UNLINK", *self._both)
        pipeline.execute_command(*self._notice)
        return await self._ask(pipeline.execute, in_background=in_background) is not None

    async def aclose(self) -> None:
        """Close the connections."""
        with contextlib.suppress(*REDIS_ERRORS):
            await self._redis.aclose()

    async def _ask(
        self, command: Callable[[], Awaitable[_T]], *, in_background: bool = False
    ) -> _T | None:
        if self._is_left_alone(in_background=in_background):
            return None
        probes = self._is_probing = not self.answers
        try:
            async with asyncio.timeout(self._command_timeout_s):
                answer = await command()
        except REDIS_ERRORS as error:
            self._note_failure(error)
            return None
        finally:
            if probes:
                self._is_probing = False
        self._note_answer()
        return answer

    def _is_left_alone(self, *, in_background: bool) -> bool:
        if self._failed_s is None:
            return False
        pause_s = self._retry_after_s * (1 if in_background else _PATIENCE)
        return self._is_probing or time.monotonic() < self._failed_s + pause_s

    def _note_failure(self, error: Exception) -> None:
        self.failures += 1
        began = self._failed_s is None
        self._failed_s = time.monotonic()
        if began:
            # Once: Redis may stay away for hours.
            self._outage_began_s = self._failed_s
            _logger.warning("cache: Redis does not serve: %s", reason_of(error))

    def _note_answer(self) -> None:
        if self._failed_s is not None:
            away_s = time.monotonic() - self._outage_began_s
            self._failed_s = None
            _logger.info("cache: Redis serves again, after %.1f s", away_s)
