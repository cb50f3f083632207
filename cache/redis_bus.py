"""The Redis bus: changes between nodes over pub/sub, supervised by heartbeats."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Coroutine, Sequence

from cache.bus_config import BusConfig, BusCounters, BusKeys
from cache.client import (
    REDIS_ERRORS,
    Connector,
    SubscriberConnection,
    read_forever,
    reason_of,
)
from cache.envelope import EnvelopeCodec, MalformedEnvelopeError, NewerEnvelopeError
from cache.health import BusHealth
from cache.invalidation import Invalidation
from cache.publisher import RedisPublisher, state_after
from cache.subscriptions import SubscriptionChange, Subscriptions
from channels.changes import Transaction
from channels.ports import BusListener, BusState

_logger = logging.getLogger(__name__)


class _LinkLostError(Exception):
    """The pub/sub connection is of no more use; ends the tasks that serve it."""

    def __init__(self, state: BusState, reason: str) -> None:
        super().__init__(reason)
        self.state = state
        self.reason = reason


class RedisBus:
    """`channels.ports.Bus` over Redis pub/sub.

    Attributes:
        counters: What happened since the start.
    """

    _publisher_class: type[RedisPublisher] = RedisPublisher

    def __init__(
        self,
        redis: Connector,
        node_id: str,
        invalidation: Invalidation,
        config: BusConfig | None = None,
        *,
        keys: BusKeys | None = None,
    ) -> None:
        """Build a bus that does nothing until `run`.

        Args:
            redis: Connects to the server; shared with the cache of this node.
            node_id: Unique for this start of this process.
            invalidation: Shared with the cache of this node.
            config: The bounds.
            keys: The names of its channels, where they aren't the usual ones.
        """
        self.counters = BusCounters()
        self._redis = redis.config
        self._connector = redis
        self._name = f"zonecast:{node_id}"
        self._invalidation = invalidation
        self._config = config or BusConfig()
        self._codec = EnvelopeCodec(self._config.limits)
        self._keys = keys or BusKeys.of_node(redis.config.key_prefix, node_id)
        self._subscriptions = Subscriptions(self._keys)
        self._health = BusHealth(
            interval_s=self._config.heartbeat_interval_s,
            deaf_after_s=self._config.deaf_after_s,
            clock_s=time.monotonic,
            on_change=self._log_state,
        )
        self._publisher = self._publisher_class(
            redis,
            node_id,
            keys=self._keys,
            config=self._config,
            codec=self._codec,
            health=self._health,
            invalidation=invalidation,
            counters=self.counters,
        )
        self._linked = False
        self._running = False

    def __repr__(self) -> str:
        return f"<RedisBus {self._name} {self._connector.address} {self.state.value}>"

    @property
    def state(self) -> BusState:
        """How the bus is, as far as this node can tell."""
        return self._health.state

    @property
    def followed(self) -> int:
        """How many channels this node is interested in."""
        return len(self._subscriptions)

    async def wait_live(self) -> None:
        """Wait until the bus is live. Cancel-safe, unbounded: bound it from outside."""
        await self._health.wait_live()

    async def run(self, listener: BusListener) -> None:
        """Deliver to `listener` until cancelled; only cancellation ends it.

        Raises:
            RuntimeError: it runs already.
        """
        if self._running:
            msg = "the bus runs already"
            raise RuntimeError(msg)
        self._running = True
        try:
            await self._supervise(listener)
        finally:
            self._running = False
            self._health.fail(BusState.DOWN, "stopped")
            await self._publisher.aclose()

    async def subscribe(self, *channels: str) -> bool:
        """Register interest and wait at most `subscribe_confirm_s` for the confirmation of all.

        Returns at once when the bus is known to be down or deaf.
        """
        for channel in channels:
            self._subscriptions.want(channel)
        # A connection that is not live yet is about to be: it is worth the wait.
        is_worth_it = self._linked and self.state is not BusState.DEAF
        timeout_s = self._config.subscribe_confirm_s if is_worth_it else 0
        confirmed = await self._subscriptions.wait_confirmed(channels, timeout_s)
        if not confirmed:
            for channel in channels:
                self._subscriptions.note_unconfirmed(channel)
        return confirmed

    def unsubscribe(self, channel: str) -> None:
        """Drop interest. Never awaits."""
        self._subscriptions.unwant(channel)

    async def publish(self, transactions: Sequence[Transaction]) -> None:
        """Send transactions in order, in one round trip, within `publish_timeout_s`.

        The fence of the users dict is raised first, when they touch users; one that could
        not be raised is made up for before the bus is live again.

        Raises:
            UnavailableError: some or all may not have been sent; at once when the bus is not
                live.
        """
        if transactions:
            await self._publisher.publish(transactions)

    async def _supervise(self, listener: BusListener) -> None:
        failures = 0
        while True:
            times_live = self._health.times_live
            lost = await self._hold_link(listener)
            self.counters.losses += 1
            self._health.fail(lost.state, lost.reason)
            # A server that accepts and hangs up is not to be asked in a tight loop.
            failures = 0 if self._health.times_live > times_live else failures + 1
            await asyncio.sleep(self._backoff_s(failures))

    def _backoff_s(self, failures: int) -> float:
        # Capped before the power: the wait is bounded, its number of doublings isn't.
        longest_s = min(
            self._config.backoff_max_s, self._config.backoff_min_s * 2.0 ** min(failures, 30)
        )
        return longest_s * random.uniform(0.5, 1.0)  # noqa: S311 -- spreads load, no secret.

    async def _hold_link(self, listener: BusListener) -> _LinkLostError:
        connection = self._connector.create_subscriber(name=f"{self._name}:sub")
        try:
            await self._connect(connection)
            return await self._serve_link(connection, listener)
        except _LinkLostError as lost:
            return lost
        finally:
            self._linked = False
            self._subscriptions.disconnected()
            await connection.disconnect(nowait=True)

    async def _connect(self, connection: SubscriberConnection) -> None:
        timeout_s = self._redis.connect_timeout_s + self._redis.command_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                await connection.connect()
        except REDIS_ERRORS as error:
            raise _LinkLostError(state_after(error), reason_of(error)) from error

    async def _serve_link(
        self, connection: SubscriberConnection, listener: BusListener
    ) -> _LinkLostError:
        self.counters.connects += 1
        self._health.connected()
        self._subscriptions.connected()
        self._linked = True
        works = [
            self._read(connection, listener),
            self._write(connection),
            self._publisher.beat(),
            self._watch(),
        ]
        if self._connector.asks_sentinels:
            works.append(self._watch_master(connection))
        # A loss is handed over rather than raised: on 3.11 a task group whose task raises while
        # it is itself cancelled swallows the cancellation.
        lost: asyncio.Future[_LinkLostError] = asyncio.get_running_loop().create_future()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_until_lost(work, lost)) for work in works]
            error = await lost
            for task in tasks:
                task.cancel()
        return error

    async def _read(self, connection: SubscriberConnection, listener: BusListener) -> None:
        while True:
            try:
                message = await read_forever(connection)
            except REDIS_ERRORS as error:
                raise _LinkLostError(BusState.DOWN, reason_of(error)) from error
            try:
                self._take(message, listener)
            except Exception:
                # The port says that listeners never raise. One that does costs its message,
                # which head checks bring, and not the bus.
                _logger.exception("bus: listener failed")

    def _take(self, message: object, listener: BusListener) -> None:
        match message:
            case [b"message", bytes(key), bytes(data)]:
                if key == self._keys.own:
                    self._health.hear(data)
                elif key == self._keys.all_nodes:
                    if self._publisher.is_notice_of_others(data):
                        self._invalidation.heard()
                else:
                    self._deliver(key, data, listener)
            case [b"subscribe" | b"unsubscribe", bytes(key), int()]:
                self._subscriptions.answered(key)
            case _:
                self.counters.malformed += 1
        if self._subscriptions.take_gap():
            self.counters.gaps += 1
            self._invalidation.heard()
            listener.on_gap()

    def _deliver(self, key: bytes, data: bytes, listener: BusListener) -> None:
        channel = self._subscriptions.channel_of(key)
        if channel is None:
            return
        try:
            message = self._codec.decode(data, channel)
        except NewerEnvelopeError as error:
            self._note_newer(error, listener)
            return
        except MalformedEnvelopeError as error:
            self.counters.malformed += 1
            _logger.warning("bus: dropped a message on %s: %s", channel, error.reason)
            return
        self.counters.messages += 1
        listener.on_message(message)

    def _note_newer(self, error: NewerEnvelopeError, listener: BusListener) -> None:
        # All that is known is that something happened, perhaps to users: as after a gap.
        self.counters.newer += 1
        if self.counters.newer == 1:
            _logger.warning("bus: %s; the database is asked instead: finish the upgrade", error)
        self._invalidation.heard()
        listener.on_gap()

    async def _write(self, connection: SubscriberConnection) -> None:
        while True:
            await self._subscriptions.wait_change()
            change = self._subscriptions.take_change(self._config.max_channels_per_command)
            commands = self._commands_of(change)
            if not commands:
                continue
            try:
                async with asyncio.timeout(self._redis.command_timeout_s):
                    packed = connection.pack_commands(commands)
                    await connection.send_packed_command(packed, check_health=False)
            except REDIS_ERRORS as error:
                raise _LinkLostError(BusState.DOWN, reason_of(error)) from error

    def _commands_of(self, change: SubscriptionChange) -> list[tuple[bytes, ...]]:
        both = ((b"UNSUBSCRIBE", change.unsubscribe), (b"SUBSCRIBE", change.subscribe))
        return [(verb, *keys) for verb, keys in both if keys]

    async def _watch(self) -> None:
        while True:
            left_s = self._health.deaf_in_s()
            if left_s <= 0:
                raise _LinkLostError(BusState.DEAF, "heard none of its own heartbeats")
            await asyncio.sleep(left_s)

    async def _watch_master(self, connection: SubscriberConnection) -> None:
        # A demoted server may keep this node's connections, and heartbeats go round on it: in
        # no other way could it be told that the other nodes are elsewhere.
        while True:
            await asyncio.sleep(self._config.heartbeat_interval_s)
            if await self._connector.has_moved(connection):
                raise _LinkLostError(BusState.DOWN, "another server is the master now")

    def _log_state(self, state: BusState, reason: str) -> None:
        expected = state is BusState.LIVE or not self._running
        level = logging.INFO if expected else logging.WARNING
        _logger.log(level, "bus: %s is %s: %s", self._connector.address, state.value, reason)


async def _until_lost(
    work: Coroutine[None, None, None], lost: asyncio.Future[_LinkLostError]
) -> None:
    try:
        await work
    except _LinkLostError as error:
        if not lost.done():
            lost.set_result(error)
