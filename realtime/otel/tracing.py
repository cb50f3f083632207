"""Tracing: a node's parts, wrapped so that each step of a change has its span."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import structlog

from channels.changes import Change, Transaction
from channels.ports import Bus
from db.journal import Sink
from realtime.metrics import Metrics
from realtime.otel.bus import Current, TracedBus
from realtime.otel.export import exporting
from realtime.otel.spans import Spans
from realtime.otel_settings import OtelSettings

Watchers = Callable[[str], int]


class TracedMetrics(Metrics):
    """The figures of a node that also makes a span of each change that was fanned out.

    Args:
        spans: Told of it.
        watchers: Returns how many connections watch a channel.
    """

    def __init__(self, spans: Spans, watchers: Watchers) -> None:
        super().__init__()
        self._spans = spans
        self._watchers = watchers

    def fanned_out(
        self,
        changes: Sequence[Change],
        deliveries: int,
        publish_to_write_s: float,
        pass_s: float,
    ) -> None:
        """Count one pass, and tell of its changes."""
        super().fanned_out(changes, deliveries, publish_to_write_s, pass_s)
        self._spans.fanned_out(changes, pass_s, self._watchers, deliveries)


@dataclass(frozen=True, slots=True)
class Tracing:
    """The spans of a node, and its parts around which they are.

    Attributes:
        spans: What is told.
        current: Returns the live replica of a channel that the node follows.
        watchers: Returns how many connections watch a channel.
    """

    spans: Spans
    current: Current
    watchers: Watchers

    def metrics(self) -> Metrics:
        """Make the node's figures, which are told of passes over crowds."""
        return TracedMetrics(self.spans, self.watchers)

    def around(self, bus: Bus) -> Bus:
        """Return a bus with spans around what it sends and what it brings."""
        return TracedBus(bus, self.spans, self.current)

    def told(self, sink: Sink) -> Sink:
        """Return a sink that hands on each transaction with its trace."""

        def committed(transaction: Transaction) -> None:
            sink(self.spans.committed(transaction))

        return committed


@asynccontextmanager
async def running(
    settings: OtelSettings, node_id: str, current: Current, watchers: Watchers
) -> AsyncIterator[Tracing]:
    """Export what is told until the body ends; then wait, bounded, until all is exported."""
    log = structlog.stdlib.get_logger("zonecast.otel")
    log.info("traces are exported", collector=urlsplit(settings.otel_endpoint).netloc)
    async with exporting(settings, node_id) as tracer:
        spans = Spans(tracer, pass_max_spans=settings.otel_pass_max_spans)
        yield Tracing(spans, current, watchers)
