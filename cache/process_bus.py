"""The in-process bus: the same port for one process, without a server."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cache.invalidation import Invalidation, touches_users
from channels.changes import Change, Transaction
from channels.ports import BusListener, BusMessage, BusState, UnavailableError

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Delivery:
    """What one node is to take: a change, and whether the users dict is out of date."""

    message: BusMessage | None
    invalidates: bool = False


class ProcessBusHub:
    """Joins the buses of one process; each is a node of its own."""

    def __init__(self, *, max_pending: int = 10_000) -> None:
        """Start with no bus.

        Args:
            max_pending: The most deliveries that wait for one node; publishers wait beyond.
        """
        self.max_pending = max_pending
        self._buses: set[ProcessBus] = set()

    def join(self, bus: ProcessBus) -> None:
        """Let a bus hear what the others publish."""
        self._buses.add(bus)

    def leave(self, bus: ProcessBus) -> None:
        """Let a bus hear nothing more."""
        self._buses.discard(bus)

    def others(self, bus: ProcessBus) -> list[ProcessBus]:
        """Return all joined buses but this one."""
        return [other for other in self._buses if other is not bus]


class ProcessBus:
    """`channels.ports.Bus` inside one process: nothing is lost, nothing is encoded.

    A node doesn't hear its own publications: its publisher has applied them already.
    """

    def __init__(self, invalidation: Invalidation, hub: ProcessBusHub | None = None) -> None:
        """Build a bus that does nothing until `run`.

        Args:
            invalidation: Shared with the cache of this node.
            hub: Shared by the nodes of this process; `None` when this is the only one.
        """
        self._invalidation = invalidation
        self._hub = hub or ProcessBusHub()
        self._channels: set[str] = set()
        self._pending: deque[_Delivery] = deque()
        self._room = asyncio.Event()
        self._in_turn = asyncio.Lock()
        self._listener: BusListener | None = None
        self._live = asyncio.Event()

    def __repr__(self) -> str:
        return f"<ProcessBus {self.state.value}>"

    @property
    def state(self) -> BusState:
        """Live while it runs."""
        return BusState.DOWN if self._listener is None else BusState.LIVE

    @property
    def followed(self) -> int:
        """How many channels this node is interested in."""
        return len(self._channels)

    async def wait_live(self) -> None:
        """Wait until the bus runs. Cancel-safe, unbounded: bound it from outside."""
        await self._live.wait()

    async def run(self, listener: BusListener) -> None:
        """Deliver to `listener` until cancelled; only cancellation ends it.

        Raises:
            RuntimeError: it runs already.
        """
        if self._listener is not None:
            msg = "the bus runs already"
            raise RuntimeError(msg)
        self._listener = listener
        self._hub.join(self)
        self._live.set()
        try:
            # Others may have published before this node joined.
            self._invalidation.heard()
            self._call(listener.on_gap)
            await asyncio.get_running_loop().create_future()
        finally:
            self._live.clear()
            self._hub.leave(self)
            self._listener = None
            self._pending.clear()
            self._room.set()

    async def subscribe(self, *channels: str) -> bool:
        """Register interest; confirmed at once while the bus runs."""
        self._channels.update(channels)
        return self._listener is not None

    def unsubscribe(self, channel: str) -> None:
        """Drop interest. Never awaits."""
        self._channels.discard(channel)

    async def publish(self, transactions: Sequence[Transaction]) -> None:
        """Hand transactions to the other nodes, in order; waits while one of them is behind.

        Raises:
            UnavailableError: the bus doesn't run.
        """
        if not transactions:
            return
        touches = touches_users(transactions)
        if touches:
            # There is no fence to raise: the dict is copied nowhere but in near copies.
            self._invalidation.heard()
        if self._listener is None:
            raise UnavailableError("bus", "the in-process bus doesn't run")
        deliveries = [_Delivery(None, invalidates=True)] if touches else []
        deliveries += [
            _Delivery(_message_of(change))
            for transaction in transactions
            for change in transaction.changes
        ]
        async with self._in_turn:
            for bus in self._hub.others(self):
                await bus.accept(deliveries)

    async def accept(self, deliveries: Sequence[_Delivery]) -> None:
        """Take deliveries from another bus of the hub, in order, waiting for room."""
        for delivery in deliveries:
            while self._listener is not None and len(self._pending) >= self._hub.max_pending:
                self._room.clear()
                await self._room.wait()
            if self._listener is None:
                return
            if not self._pending:
                asyncio.get_running_loop().call_soon(self._deliver)
            self._pending.append(delivery)

    def _deliver(self) -> None:
        while self._pending and self._listener is not None:
            delivery = self._pending.popleft()
            if delivery.invalidates:
                self._invalidation.heard()
            if delivery.message is not None and delivery.message.channel in self._channels:
                self._call(self._listener.on_message, delivery.message)
        self._room.set()

    def _call(self, tell: Callable[..., None], *arguments: object) -> None:
        try:
            tell(*arguments)
        except Exception:
            # The port says that listeners never raise; one that does costs its message only.
            _logger.exception("bus: listener failed")


def _message_of(change: Change) -> BusMessage:
    return BusMessage(
        change.channel,
        change.position,
        change.tx,
        change.time_ms,
        change.parts,
        change.events,
        change.events_json,
        change.trace,
    )
