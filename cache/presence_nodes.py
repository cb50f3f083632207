"""The nodes of a service as presence sees them: a roster in Redis, and an inbox for each node.

Nothing is written for a client that comes or goes: who wants to know asks all nodes. Each has
its name in the roster, with the time of its last sign of life by Redis's own clock, and a list of
messages, its inbox, which it reads. All keys lie in one slot of a cluster.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count as count_up
from typing import Any, Final, cast

import msgspec

from cache.bus_config import hash_tag
from cache.client import REDIS_ERRORS, Connector, reason_of
from cache.envelope import UNREADABLE, why_unreadable
from channels.ports import UnavailableError
from channels.presence import Asked, Count, Counted, Headcount

_logger = logging.getLogger(__name__)

_MAX_CONNECTIONS: Final = 4
"""One waits for messages all the time."""

_NOW: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

# KEYS the roster; ARGV who is here, after how many ms without a sign of life somebody is not.
_ENROL: Final = (
    _NOW
    + """
local added = redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. now - ARGV[2])
return added
"""
)

# KEYS the roster; ARGV as above, then how the inboxes' names begin, the message, how many ms it
# lives, the most messages of an inbox. Nothing is sent for who is not enrolled itself: then Redis
# has lost its memory, and others may not be enrolled either.
_ASK: Final = (
    _NOW
    + """
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  return false
end
local others = {}
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], now - ARGV[2], '+inf')) do
  if name ~= ARGV[1] then
    local inbox = ARGV[3] .. name
    redis.call('RPUSH', inbox, ARGV[4])
    redis.call('LTRIM', inbox, -ARGV[6], -1)
    redis.call('PEXPIRE', inbox, ARGV[5])
    others[#others + 1] = name
  end
end
return others
"""
)

# KEYS an inbox; ARGV the message, how many ms it lives, the most messages of an inbox.
_ANSWER: Final = """
redis.call('RPUSH', KEYS[1], ARGV[1])
redis.call('LTRIM', KEYS[1], -ARGV[3], -1)
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""


class _Ask(msgspec.Struct, tag="ask", tag_field="is"):
    number: int
    node: str
    channels: dict[str, bool]


class _Part(msgspec.Struct, omit_defaults=True):
    count: int
    clients: dict[str, str] | None = None
    anonymous: int = 0
    users: tuple[int, ...] = ()

    @classmethod
    def of_headcount(cls, found: Headcount) -> _Part:
        if found.clients is not None:
            # The numbers follow from the names.
            return cls(found.count, dict(found.clients))
        return cls(found.count, None, found.anonymous, tuple(found.users))

    def headcount(self) -> Headcount:
        if self.clients is not None:
            return Headcount.of_clients(self.clients, is_named=True)
        return Headcount(self.count, None, self.anonymous, frozenset(self.users))


class _Answer(msgspec.Struct, tag="answer", tag_field="is"):
    number: int
    node: str
    found: dict[str, _Part]


_decoder: Final = msgspec.json.Decoder(_Ask | _Answer)
_encode: Final = msgspec.json.encode


@dataclass(frozen=True, slots=True)
class PresenceConfig:
    """The bounds of presence between nodes.

    Attributes:
        ttl_s: How long a node counts as there after its last sign of life.
        answer_wait_s: The longest wait for the answers of nodes.
        command_timeout_s: The longest wait for Redis.
        retry_after_s: How long a Redis that failed is left alone.
        inbox_max_messages: The most that wait for a node. The oldest are dropped: who asked by
            them has given up by then, and was told.
    """

    ttl_s: float = 10.0
    answer_wait_s: float = 1.0
    command_timeout_s: float = 1.0
    retry_after_s: float = 1.0
    inbox_max_messages: int = 1_000


class _Question:
    """What was asked of other nodes, and who has answered."""

    def __init__(self) -> None:
        self._expected: frozenset[str] | None = None
        self._answers: dict[str, Counted] = {}
        self._done = asyncio.Event()

    def expect(self, names: Iterable[str]) -> None:
        self._expected = frozenset(names)
        self._check()

    def take(self, name: str, found: Counted) -> None:
        self._answers[name] = found
        self._check()

    def _check(self) -> None:
        if self._expected is not None and self._expected <= self._answers.keys():
            self._done.set()

    @property
    def missing(self) -> int:
        return len((self._expected or frozenset()) - self._answers.keys())

    async def answers(self) -> list[Counted]:
        await self._done.wait()
        return list(self._answers.values())


class RedisNodes:
    """`channels.presence.Nodes` over one Redis, or the one server of a cluster that has the keys.

    Args:
        connector: To the Redis where the nodes meet.
        node_id: Unique for this start of this process.
        config: The bounds.
    """

    def __init__(
        self, connector: Connector, node_id: str, config: PresenceConfig | None = None
    ) -> None:
        self._cluster = connector.cluster
        self._redis = redis = connector.create_client(
            name=f"zonecast:{node_id}:presence", max_connections=_MAX_CONNECTIONS
        )
        self._node_id = node_id
        self._config = config = config or PresenceConfig()
        start = f"{hash_tag(connector.config.key_prefix)}:presence:"
        self._roster = f"{start}nodes"
        self._inboxes = f"{start}inbox:"
        self._enrol = redis.register_script(_ENROL)
        self._ask = redis.register_script(_ASK)
        self._answer = redis.register_script(_ANSWER)
        self._ttl_ms = round(config.ttl_s * 1000)
        self._numbers = count_up(1)
        self._questions: dict[int, _Question] = {}
        self._was_enrolled = False
        self._is_stranger = asyncio.Event()
        self._settled_at_s = 0.0
        self._retry_at_s = 0.0
        self._failure = ""

    def __repr__(self) -> str:
        return f"<RedisNodes {self._node_id}>"

    async def run(self, count: Count) -> None:
        """Let other nodes know of this one, and answer them, until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._stay_enrolled())
                await self._read_inbox(count)
        finally:
            await self._leave()

    async def ask(self, channels: Asked) -> list[Counted]:
        """Ask all other nodes, and return what each answered. Bounded, cancel-safe.

        Raises:
            UnavailableError: one of them did not answer, or it isn't known who they are.
        """
        now_s = time.monotonic()
        if now_s < self._retry_at_s:
            raise UnavailableError("bus", self._failure)
        if now_s < self._settled_at_s:
            raise UnavailableError("bus", "nodes are still coming back")
        number = next(self._numbers)
        question = self._questions[number] = _Question()
        try:
            question.expect(await self._send(_Ask(number, self._node_id, dict(channels))))
            async with asyncio.timeout(self._config.answer_wait_s):
                return await question.answers()
        except TimeoutError:
            reason = f"{question.missing} nodes did not answer in time"
            raise UnavailableError("bus", reason) from None
        finally:
            del self._questions[number]

    async def _send(self, ask: _Ask) -> list[str]:
        config = self._config
        arguments = (
            self._node_id,
            self._ttl_ms,
            self._inboxes,
            _encode(ask),
            self._ttl_ms,
            config.inbox_max_messages,
        )
        try:
            async with asyncio.timeout(config.command_timeout_s):
                names = await self._ask(keys=(self._roster,), args=arguments)
        except REDIS_ERRORS as error:
            self._note_failure(error)
            raise UnavailableError("bus", reason_of(error)) from error
        if names is None:
            self._is_stranger.set()
            raise UnavailableError("bus", "this node is not known yet")
        return [bytes(name).decode() for name in names]

    # The roster

    async def _stay_enrolled(self) -> None:
        interval_s = self._config.ttl_s / 3
        while True:
            self._is_stranger.clear()
            try:
                async with asyncio.timeout(self._config.command_timeout_s):
                    added = await self._enrol(
                        keys=(self._roster,), args=(self._node_id, self._ttl_ms)
                    )
            except REDIS_ERRORS as error:
                self._note_failure(error)
                await asyncio.sleep(self._config.retry_after_s)
                if self._cluster is not None:
                    # Another master may have taken over.
                    await self._cluster.refresh()
                continue
            self._note_success()
            if added and self._was_enrolled:
                # Forgotten, as then others are: each comes back with its next sign of life.
                pause_s = interval_s + self._config.retry_after_s
                self._settled_at_s = time.monotonic() + pause_s
            self._was_enrolled = True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval_s):
                    await self._is_stranger.wait()

    async def _leave(self) -> None:
        """Say good-bye, so that nobody waits for this node, and close the connections."""
        with contextlib.suppress(*REDIS_ERRORS):
            async with asyncio.timeout(self._config.command_timeout_s):
                await self._redis.zrem(self._roster, self._node_id)
                await self._redis.unlink(self._inboxes + self._node_id)
        with contextlib.suppress(*REDIS_ERRORS):
            await self._redis.aclose()

    # The inbox

    async def _read_inbox(self, count: Count) -> None:
        inbox = self._inboxes + self._node_id
        while True:
            try:
                # A second at a time: so another server that took over is soon the one to ask.
                async with asyncio.timeout(1 + self._config.command_timeout_s):
                    popped = await cast("Any", self._redis.blpop([inbox], timeout=1))
                if popped is not None:
                    await self._take(popped[1], count)
            except REDIS_ERRORS as error:
                self._note_failure(error)
                await asyncio.sleep(self._config.retry_after_s)

    async def _take(self, data: bytes, count: Count) -> None:
        try:
            message = _decoder.decode(data)
        except UNREADABLE as error:
            # Who asked is told that this node does not answer.
            _logger.warning("presence: dropped a message: %s", why_unreadable(error))
            return
        if isinstance(message, _Answer):
            question = self._questions.get(message.number)
            if question is not None:
                found = {name: part.headcount() for name, part in message.found.items()}
                question.take(message.node, found)
            return
        here = await count(message.channels)
        parts = {name: _Part.of_headcount(counted) for name, counted in here.items()}
        answer = _encode(_Answer(message.number, self._node_id, parts))
        async with asyncio.timeout(self._config.command_timeout_s):
            await self._answer(
                keys=(self._inboxes + message.node,),
                args=(answer, self._ttl_ms, self._config.inbox_max_messages),
            )

    # How Redis is

    def _note_failure(self, error: Exception) -> None:
        self._retry_at_s = time.monotonic() + self._config.retry_after_s
        if not self._failure:
            _logger.warning("presence: not available: %s", reason_of(error))
        self._failure = reason_of(error)

    def _note_success(self) -> None:
        if self._failure:
            self._failure = ""
            self._retry_at_s = 0.0
            _logger.info("presence: available again")
