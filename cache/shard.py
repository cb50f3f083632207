"""A shard: the bus over one master of a cluster, by sharded pub/sub."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import AskError, MovedError, ResponseError, TryAgainError

from cache.bus_config import BusConfig, BusKeys
from cache.client import REDIS_ERRORS, Connector, SubscriberConnection, reason_of
from cache.cluster_map import notice_key, slot_of
from cache.invalidation import Invalidation, UsersDictKeys
from cache.publisher import RedisPublisher, state_after
from cache.redis_bus import RedisBus
from cache.subscriptions import SubscriptionChange
from channels.changes import Transaction
from channels.ports import BusListener, BusState, UnavailableError

_Command = tuple[str | bytes, ...]


class ShardPublisher(RedisPublisher):
    """Publishes on one master, while that one's heartbeat goes round.

    Attributes:
        owns_fence: Tells whether the users dict is there, whose fence is then made up for.
    """

    owns_fence: Callable[[], bool]

    def __init__(self, redis: Connector, node_id: str, **shared: Any) -> None:
        """Build a publisher, with the arguments of a `RedisPublisher`."""
        super().__init__(redis, node_id, **shared)
        prefix = redis.config.key_prefix
        users_dict = UsersDictKeys.of_prefix(prefix)
        self._raise_fence = (
            ("UNLINK", users_dict.fence, users_dict.value),
            ("SPUBLISH", notice_key(prefix), self._own_notice),
        )
        self.owns_fence = lambda: False

    async def send(self, transactions: Sequence[Transaction], *, raise_fence: bool) -> bool:
        """Send what belongs to this master, in one round trip, within `publish_timeout_s`.

        Args:
            transactions: With their changes of this shard alone.
            raise_fence: Whether to raise the fence before.

        Returns:
            Whether the fence is raised. It isn't while its slot is on the way to another master.

        Raises:
            MovedError: something belongs to another master; the rest may have been sent.
            UnavailableError: some or all may not have been sent.
        """
        self._refuse_unless_live()
        commands: list[_Command] = list(self._raise_fence) if raise_fence else []
        for transaction in transactions:
            for change in transaction.changes:
                key = self._keys.of_channel(change.channel)
                commands.append(("SPUBLISH", key, self._codec.encode(change)))
        try:
            return await self._transmit(commands)
        except MovedError:
            raise
        except REDIS_ERRORS as error:
            self._health.fail(state_after(error), reason_of(error))
            self._failed.set()
            raise UnavailableError("bus", reason_of(error)) from error

    async def _send_heartbeat(self) -> None:
        owes = self.owns_fence() and self._invalidation.owes_raise
        mark = self._invalidation.owed_mark()
        commands: list[_Command] = list(self._raise_fence) if owes else []
        commands.append(("SPUBLISH", self._keys.own, self._health.next_heartbeat()))
        try:
            raised = await self._transmit(commands)
        except REDIS_ERRORS as error:
            self._health.fail(state_after(error), reason_of(error))
        else:
            if owes and raised:
                self._invalidation.settle(mark)

    async def _transmit(self, commands: Sequence[_Command]) -> bool:
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        async with asyncio.timeout(self._config.publish_timeout_s):
            replies = await pipeline.execute(raise_on_error=False)
        errors = [reply for reply in replies if isinstance(reply, ResponseError)]
        for error in errors:
            # Of a slot on its way only keys are somewhere else, and those are the fence's.
            if isinstance(error, MovedError) or not isinstance(error, (AskError, TryAgainError)):
                raise error
        return not errors


class ShardBus(RedisBus):
    """The bus over one master: what a `RedisBus` does, in the words of a cluster.

    Attributes:
        keys: The names of its channels.
    """

    _publisher_class = ShardPublisher
    _publisher: ShardPublisher

    def __init__(
        self,
        redis: Connector,
        node_id: str,
        invalidation: Invalidation,
        config: BusConfig,
        *,
        keys: BusKeys,
        on_state: Callable[[], None],
        on_moved: Callable[[ShardBus, str | None, MovedError | None], None],
        owns_fence: Callable[[], bool],
    ) -> None:
        """Build a bus that does nothing until `run`.

        Args:
            redis: Connects to the master.
            node_id: Unique for this start of this process.
            invalidation: Shared with the cache and the other shards of this node.
            config: The bounds.
            keys: The names of its channels.
            on_state: Told that the state is another; must not raise.
            on_moved: Told that a channel (if it is one of changes) is another master's now,
                by a redirection or by the end of its subscription; must not raise.
            owns_fence: Tells whether the users dict is on this master.
        """
        super().__init__(redis, node_id, invalidation, config, keys=keys)
        self.keys = keys
        self._on_state = on_state
        self._on_moved = on_moved
        self._publisher.owns_fence = owns_fence
        self._notice_key = notice_key(redis.config.key_prefix)

    async def send(self, transactions: Sequence[Transaction], *, raise_fence: bool) -> bool:
        """Send what belongs to this master, as `ShardPublisher.send` does."""
        return await self._publisher.send(transactions, raise_fence=raise_fence)

    def follow(self, channel: str) -> None:
        """Register interest without waiting for it; a gap is told when it is confirmed."""
        self._subscriptions.want(channel)
        self._subscriptions.note_unconfirmed(channel)

    def _take(self, message: object, listener: BusListener) -> None:
        match message:
            case [b"smessage", bytes(key), bytes(data)]:
                super()._take([b"message", key, data], listener)
            case [b"sunsubscribe", bytes(key), int()] if self._subscriptions.revoked(key):
                self._on_moved(self, self._subscriptions.channel_of(key), None)
            case [b"ssubscribe" | b"sunsubscribe" as verb, bytes(key), int(number)]:
                super()._take([verb[1:], key, number], listener)
            case _:
                super()._take(message, listener)

    def _deliver(self, key: bytes, data: bytes, listener: BusListener) -> None:
        if key != self._notice_key:
            super()._deliver(key, data, listener)
        elif self._publisher.is_notice_of_others(data):
            self._invalidation.heard()

    def _commands_of(self, change: SubscriptionChange) -> list[tuple[bytes, ...]]:
        # One command names channels of one slot only.
        commands: dict[tuple[bytes, int], list[bytes]] = {}
        both = ((b"SUNSUBSCRIBE", change.unsubscribe), (b"SSUBSCRIBE", change.subscribe))
        for verb, keys in both:
            for key in keys:
                commands.setdefault((verb, slot_of(key)), []).append(key)
        return [(verb, *keys) for (verb, _), keys in commands.items()]

    async def _read(self, connection: SubscriberConnection, listener: BusListener) -> None:
        try:
            await super()._read(connection, listener)
        except Exception as error:
            if isinstance(moved := error.__cause__, MovedError):
                self._on_moved(self, None, moved)
            raise

    def _log_state(self, state: BusState, reason: str) -> None:
        super()._log_state(state, reason)
        self._on_state()
