"""The bus over a Redis Cluster: a bus for each master, and who is asked for which channel."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from redis.exceptions import MovedError

from cache.bus_config import BusConfig, BusCounters, BusKeys
from cache.client import Connector
from cache.cluster import ClusterDirectory
from cache.cluster_map import ClusterKeys
from cache.invalidation import Invalidation, UsersListener, touches_users
from cache.redis_url import ServerAddress
from cache.shard import ShardBus
from channels.changes import Transaction
from channels.ports import BusListener, BusState, UnavailableError

_logger = logging.getLogger(__name__)

_REFRESH_INTERVAL_S: Final = 5.0
"""How often the map is asked for while nothing tells that it is out of date."""
_REFRESH_PAUSE_S: Final = 0.1
"""The least pause between two questions for it, whatever tells so."""


@dataclass(slots=True)
class _Shard:
    bus: ShardBus
    task: asyncio.Task[None]


class ClusterBus:
    """`channels.ports.Bus` over the masters of a cluster, each supervised by itself.

    It is live while every slot is served and every master brings this node's heartbeat; what
    belongs to a master that doesn't is refused, and the rest goes on.
    """

    def __init__(
        self,
        redis: Connector,
        node_id: str,
        invalidation: Invalidation,
        config: BusConfig | None = None,
    ) -> None:
        """Build a bus that does nothing until `run`.

        Args:
            redis: Connects to the cluster; shared with the cache of this node.
            node_id: Unique for this start of this process.
            invalidation: Shared with the cache of this node.
            config: The bounds.

        Raises:
            ValueError: it connects to no cluster.
        """
        if redis.cluster is None:
            raise ValueError("not a cluster")
        self._redis = redis
        self._directory: ClusterDirectory = redis.cluster
        self._node_id = node_id
        self._invalidation = invalidation
        self._config = config or BusConfig()
        self._keys = ClusterKeys(redis.config.key_prefix, node_id)
        self._names = BusKeys.of_node(redis.config.key_prefix, node_id)
        self._shards: dict[ServerAddress, _Shard] = {}
        # Which shard was told of a channel; None: nobody serves its slot.
        self._routes: dict[str, ShardBus | None] = {self._keys.notice_channel: None}
        self._revoked: set[str] = set()
        self._past = BusCounters()
        self._stale = asyncio.Event()
        self._live = asyncio.Event()
        self._in_turn = asyncio.Lock()
        self._running = False

    def __repr__(self) -> str:
        return f"<ClusterBus zonecast:{self._node_id} {self._redis.address} {self.state.value}>"

    @property
    def state(self) -> BusState:
        """How the worst of its masters is, as far as this node can tell."""
        states = {shard.bus.state for shard in self._shards.values()}
        if not states or not self._directory.map.is_complete:
            return BusState.DOWN
        return next(s for s in (BusState.DEAF, BusState.DOWN, BusState.LIVE) if s in states)

    @property
    def counters(self) -> BusCounters:
        """What happened since the start, on all masters together."""
        total = replace(self._past)
        for shard in self._shards.values():
            _add(total, shard.bus.counters)
        return total

    @property
    def followed(self) -> int:
        """How many channels this node is interested in."""
        return len(self._routes) - 1

    async def wait_live(self) -> None:
        """Wait until the bus is live. Cancel-safe, unbounded: bound it from outside."""
        await self._live.wait()

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
            async with asyncio.TaskGroup() as group:
                await self._follow_map(group, UsersListener(listener, self._invalidation))
        finally:
            self._running = False
            for address in list(self._shards):
                self._drop(address)
            self._note_state()

    async def subscribe(self, *channels: str) -> bool:
        """Register interest and wait at most `subscribe_confirm_s` for the confirmation of all.

        Does not wait for a master that is known to be down or deaf.
        """
        of_shard: dict[ShardBus | None, list[str]] = {}
        for channel in channels:
            shard = self._routes[channel] = self._routes.get(channel) or self._shard_of(channel)
            of_shard.setdefault(shard, []).append(channel)
        unserved = of_shard.pop(None, None)
        confirmed = await asyncio.gather(
            *(shard.subscribe(*theirs) for shard, theirs in of_shard.items() if shard is not None)
        )
        return not unserved and all(confirmed)

    def unsubscribe(self, channel: str) -> None:
        """Drop interest. Never awaits."""
        shard = self._routes.pop(channel, None)
        if shard is not None:
            shard.unsubscribe(channel)

    async def publish(self, transactions: Sequence[Transaction]) -> None:
        """Send transactions in order, in one round trip to each master at the same time.

        When they touch users, the master that holds the users dict goes first: whoever hears
        of a change finds the old dict gone.

        Raises:
            UnavailableError: some or all may not have been sent; at once what belongs to a
                master whose bus is not live.
        """
        if not transactions:
            return
        touches = touches_users(transactions)
        if touches:
            self._invalidation.begin()
        delivery = _Delivery()
        sent = False
        try:
            # In turn, else changes of one channel could overtake one another.
            async with self._in_turn:
                await self._deliver(transactions, delivery, touches=touches)
            sent = True
        finally:
            if touches:
                self._invalidation.end(raised=delivery.raised)
            if not sent or delivery.failure is not None:
                self._past.publish_failures += 1
        if delivery.failure is not None:
            raise delivery.failure
        self._past.published += len(transactions)

    # Publishing

    async def _deliver(
        self, transactions: Sequence[Transaction], delivery: _Delivery, *, touches: bool
    ) -> None:
        parts = self._split(transactions)
        if touches:
            first = self._owner_of(self._keys.notice_channel)
            part = parts.pop(first, [])
            await self._send(first, part, delivery, raise_fence=True)
        async with asyncio.TaskGroup() as group:
            for owner, part in parts.items():
                group.create_task(self._send(owner, part, delivery))

    async def _send(
        self,
        owner: ServerAddress | None,
        part: Sequence[Transaction],
        delivery: _Delivery,
        *,
        raise_fence: bool = False,
        follows_moves: bool = True,
    ) -> None:
        shard = self._shards.get(owner) if owner is not None else None
        if shard is None:
            delivery.fail(UnavailableError("bus", f"{self._redis.address} is down"))
            return
        try:
            raised = await shard.bus.send(part, raise_fence=raise_fence)
            delivery.raised |= raise_fence and raised
        except UnavailableError as error:
            delivery.fail(error)
        except MovedError as moved:
            self._note_moved(shard.bus, None, moved)
            if not follows_moves:
                delivery.fail(UnavailableError("bus", "its slot moves on and on"))
                return
            if raise_fence:
                owner = self._owner_of(self._keys.notice_channel)
                await self._send(owner, (), delivery, raise_fence=True, follows_moves=False)
            # What was sent already is sent twice, which does no harm.
            for other, rest in self._split(part).items():
                await self._send(other, rest, delivery, follows_moves=False)

    def _split(
        self, transactions: Iterable[Transaction]
    ) -> dict[ServerAddress | None, list[Transaction]]:
        parts: dict[ServerAddress | None, list[Transaction]] = {}
        for transaction in transactions:
            of_owner: dict[ServerAddress | None, list[int]] = {}
            for index, change in enumerate(transaction.changes):
                of_owner.setdefault(self._owner_of(change.channel), []).append(index)
            for owner, indexes in of_owner.items():
                changes = tuple(transaction.changes[index] for index in indexes)
                parts.setdefault(owner, []).append(replace(transaction, changes=changes))
        return parts

    # Who owns what

    def _owner_of(self, channel: str) -> ServerAddress | None:
        return self._directory.map.owner_of(self._names.of_channel(channel))

    def _shard_of(self, channel: str) -> ShardBus | None:
        owner = self._owner_of(channel)
        shard = self._shards.get(owner) if owner is not None else None
        return shard.bus if shard is not None else None

    async def _follow_map(self, group: asyncio.TaskGroup, listener: BusListener) -> None:
        failure = ""
        while True:
            self._stale.clear()
            if not await self._directory.refresh() and self._directory.failure != failure:
                reason = self._directory.failure
                _logger.warning("bus: %s does not answer: %s", self._redis.address, reason)
            failure = self._directory.failure
            self._apply(group, listener)
            healthy = self.state is BusState.LIVE
            longest_s = _REFRESH_INTERVAL_S if healthy else self._config.heartbeat_interval_s
            await asyncio.sleep(min(_REFRESH_PAUSE_S, longest_s))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(longest_s):
                    await self._stale.wait()

    def _apply(self, group: asyncio.TaskGroup, listener: BusListener) -> None:
        known = self._directory.map
        for address, shard in list(self._shards.items()):
            if known.owner_of(shard.bus.keys.own) != address:
                # No master any more, or its heartbeat has to go another way.
                self._drop(address)
        for address in sorted(known.masters - self._shards.keys()):
            bus = self._new_shard(address)
            self._shards[address] = _Shard(bus, group.create_task(bus.run(listener)))
        for channel, before in list(self._routes.items()):
            now = self._shard_of(channel)
            if now is before and channel not in self._revoked:
                continue
            if before is not None and before is not now:
                before.unsubscribe(channel)
            self._routes[channel] = now
            if now is not None:
                now.follow(channel)
        self._revoked.clear()
        self._note_state()

    def _new_shard(self, address: ServerAddress) -> ShardBus:
        return ShardBus(
            self._redis.at(address),
            self._node_id,
            self._invalidation,
            self._config,
            keys=self._keys.of_shard(self._directory.map, address),
            on_state=self._note_trouble,
            on_moved=self._note_moved,
            owns_fence=lambda: self._owner_of(self._keys.notice_channel) == address,
        )

    def _drop(self, address: ServerAddress) -> None:
        shard = self._shards.pop(address)
        _add(self._past, shard.bus.counters)
        shard.task.cancel()
        for channel, bus in self._routes.items():
            if bus is shard.bus:
                self._routes[channel] = None

    def _note_moved(self, shard: ShardBus, channel: str | None, moved: MovedError | None) -> None:
        if moved is not None:
            self._directory.note_moved(moved)
        if channel is not None and self._routes.get(channel) is shard:
            self._revoked.add(channel)
        self._stale.set()

    def _note_trouble(self) -> None:
        self._note_state()
        if not self._live.is_set():
            self._stale.set()

    def _note_state(self) -> None:
        if self._running and self.state is BusState.LIVE:
            self._live.set()
        else:
            self._live.clear()


@dataclass(slots=True)
class _Delivery:
    """What came of a publication: whether the fence is raised, and what failed first."""

    raised: bool = False
    failure: UnavailableError | None = None

    def fail(self, error: UnavailableError) -> None:
        self.failure = self.failure or error


def _add(total: BusCounters, more: BusCounters) -> None:
    for name in BusCounters.__slots__:
        setattr(total, name, getattr(total, name) + getattr(more, name))
