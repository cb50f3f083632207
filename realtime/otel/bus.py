"""The bus with spans around what it sends and what it brings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from channels.changes import Transaction
from channels.ports import Bus, BusListener, BusMessage, BusState
from channels.replica import Replica
from realtime.otel.spans import Spans

Current = Callable[[str], Replica | None]
"""Returns the live replica of a channel that is followed."""


class TracedBus:
    """`channels.ports.Bus` over another one, whose promises hold.

    Args:
        bus: Does the work.
        spans: Told of it.
        current: What this node knows, as a message that brings nothing new has no span.
    """

    def __init__(self, bus: Bus, spans: Spans, current: Current) -> None:
        self._bus = bus
        self._spans = spans
        self._current = current

    @property
    def state(self) -> BusState:
        """How the bus is."""
        return self._bus.state

    async def run(self, listener: BusListener) -> None:
        """Deliver to `listener` until cancelled."""
        await self._bus.run(_TracedListener(listener, self._spans, self._current))

    async def subscribe(self, *channels: str) -> bool:
        """Register interest."""
        return await self._bus.subscribe(*channels)

    def unsubscribe(self, channel: str) -> None:
        """Drop interest."""
        self._bus.unsubscribe(channel)

    async def publish(self, transactions: Sequence[Transaction]) -> None:
        """Send transactions, each with the span of its publication as its trace."""
        with self._spans.publishing(transactions) as traced:
            await self._bus.publish(traced)


class _TracedListener:
    """A listener whose messages are receipts, but for the node's own, which come back to it."""

    def __init__(self, listener: BusListener, spans: Spans, current: Current) -> None:
        self._listener = listener
        self._spans = spans
        self._current = current

    def on_message(self, message: BusMessage) -> None:
        """Pass a message on."""
        replica = self._current(message.channel)
        if replica is not None and replica.position.covers(message.position):
            self._listener.on_message(message)
            return
        with self._spans.receiving(message) as traced:
            self._listener.on_message(traced)

    def on_gap(self) -> None:
        """Pass it on that messages may have been lost."""
        self._listener.on_gap()
