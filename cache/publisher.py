"""The publishing half of the Redis bus: changes, the fence of the users dict, heartbeats."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final

from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from cache.bus_config import BusConfig, BusCounters, BusKeys
from cache.client import REDIS_ERRORS, Connector, reason_of
from cache.envelope import EnvelopeCodec
from cache.health import BusHealth
from cache.invalidation import Invalidation, UsersDictKeys, touches_users
from channels.changes import Transaction
from channels.ports import BusState, UnavailableError

_Command = tuple[str | bytes, ...]

_MAX_CONNECTIONS: Final = 2
"""One for publishing, which is serialised, and one for heartbeats."""


def state_after(error: Exception) -> BusState:
    """Tell what an error of Redis says about the bus: silence is deafness."""
    silent = isinstance(error, (TimeoutError, RedisTimeoutError))
    return BusState.DEAF if silent else BusState.DOWN


class RedisPublisher:
    """Publishes while the bus is live; a failure costs one bounded wait, not one for each write."""

    def __init__(
        self,
        redis: Connector,
        node_id: str,
        *,
        keys: BusKeys,
        config: BusConfig,
        codec: EnvelopeCodec,
        health: BusHealth,
        invalidation: Invalidation,
        counters: BusCounters,
    ) -> None:
        """Build a publisher; it connects at its first command."""
        self._address = redis.address
        self._client = redis.create_client(
            name=f"zonecast:{node_id}:pub", max_connections=_MAX_CONNECTIONS
        )
        self._keys = keys
        self._config = config
        self._codec = codec
        self._health = health
        self._invalidation = invalidation
        self._counters = counters
        self._in_turn = asyncio.Lock()
        self._failed = asyncio.Event()
        self._own_notice = f"users {node_id}".encode()
        users_dict = UsersDictKeys.of_prefix(redis.config.key_prefix)
        self._raise_fence: tuple[_Command, ...] = (
            ("UNLINK", users_dict.fence, users_dict.value),
            ("PUBLISH", keys.all_nodes, self._own_notice),
        )

    async def publish(self, transactions: Sequence[Transaction]) -> None:
        """Send transactions in order, in one round trip, within `publish_timeout_s`.

        Raises:
            UnavailableError: some or all may not have been sent.
        """
        touches = touches_users(transactions)
        if touches:
            self._invalidation.begin()
        sent = False
        try:
            await self._send(transactions, touches=touches)
            sent = True
        finally:
            # Also when cancelled: then nobody knows whether it was sent.
            if touches:
                self._invalidation.end(raised=sent)
            if not sent:
                self._counters.publish_failures += 1
        self._counters.published += len(transactions)

    async def beat(self) -> None:
        """Send heartbeats until cancelled, and make up for raises of the fence that failed.

        A failed publication is followed by a heartbeat at once: it tells whether the bus can
        be used again.
        """
        while True:
            self._failed.clear()
            await self._send_heartbeat()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._config.heartbeat_interval_s):
                    await self._failed.wait()
                    await asyncio.sleep(self._config.backoff_min_s)

    def is_notice_of_others(self, data: bytes) -> bool:
        """Tell whether a message to all nodes is another node's invalidation of the dict.

        The own one was acted on when it was sent. What isn't understood counts, too: it may be
        how a newer release says so, and the worst that it costs is a read of the dict.
        """
        return data != self._own_notice

    async def aclose(self) -> None:
        """Close all connections, within the connect timeout."""
        with contextlib.suppress(*REDIS_ERRORS):
            await self._client.aclose()

    async def _send(self, transactions: Sequence[Transaction], *, touches: bool) -> None:
        self._refuse_unless_live()
        # The fence comes first: whoever hears of a change finds the old dict gone.
        commands: list[_Command] = list(self._raise_fence) if touches else []
        for transaction in transactions:
            for change in transaction.changes:
                key = self._keys.of_channel(change.channel)
                commands.append(("PUBLISH", key, self._codec.encode(change)))
        try:
            async with asyncio.timeout(self._config.publish_timeout_s), self._in_turn:
                # Whoever had its turn before may have found out that the bus is gone.
                self._refuse_unless_live()
                await self._execute(commands)
        except REDIS_ERRORS as error:
            self._health.fail(state_after(error), reason_of(error))
            self._failed.set()
            raise UnavailableError("bus", reason_of(error)) from error

    def _refuse_unless_live(self) -> None:
        if self._health.state is not BusState.LIVE:
            raise UnavailableError("bus", f"{self._address} is {self._health.state.value}")

    async def _send_heartbeat(self) -> None:
        owes, mark = self._invalidation.owes_raise, self._invalidation.owed_mark()
        commands: list[_Command] = list(self._raise_fence) if owes else []
        commands.append(("PUBLISH", self._keys.own, self._health.next_heartbeat()))
        try:
            async with asyncio.timeout(self._config.publish_timeout_s):
                await self._execute(commands)
        except REDIS_ERRORS as error:
            self._health.fail(state_after(error), reason_of(error))
        else:
            if owes:
                self._invalidation.settle(mark)

    async def _execute(self, commands: Sequence[_Command]) -> None:
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        # redis-py's own error would quote the command, and so what users are called.
        replies = await pipeline.execute(raise_on_error=False)
        for reply in replies:
            if isinstance(reply, ResponseError):
                raise reply
