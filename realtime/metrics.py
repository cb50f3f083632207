"""Metrics: what the node counts, in Prometheus form, and what the rules tell, in the log."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from cache.cache_config import CacheStats
from channels.changes import Change
from channels.subscribers import Start
from realtime.auth.errors import Reason
from realtime.cache_figures import CacheFigures
from realtime.limits import Refusal
from realtime.logs import PacedLog

Family = CounterMetricFamily | GaugeMetricFamily

DELAY_BUCKETS_S: Final = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0,
)  # fmt: skip
REQUEST_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 30)
LIFETIME_BUCKETS_S: Final = (1, 10, 60, 600, 3_600, 21_600, 86_400)
TRANSPORTS: Final = ("websocket", "sse")
STARTS: Final = ("new", "resumed", "anew")
"""How subscriptions begin: without a position, with what was missed, with the state instead."""
REPAIR_CAUSES: Final = ("gap", "head", "oversize", "behind")
RESET_CAUSES: Final = ("epoch", "compacted", "rewound", "gone")
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class _NodeFigures(Collector):
    """Renders the figures that were taken last, as `CacheFigures` does and for its reason."""

    def __init__(self) -> None:
        self._families: Sequence[Family] = ()

    def take(self, families: Sequence[Family]) -> None:
        """Remember figures for the next rendering."""
        self._families = families

    def collect(self) -> Iterable[Family]:
        """Yield the figures taken last; none before the first were taken."""
        yield from self._families


class Metrics:
    """The figures of one node, in a registry of its own. No method awaits, blocks or raises.

    Also the `Observer` of the rules of synchronisation: it counts what they do, and logs
    repairs, resets and failures, each kind at most once in `log_interval_s`.

    Attributes:
        registry: What `/metrics` renders.
    """

    def __init__(self, *, log_interval_s: float = 1.0) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self._cache = CacheFigures()
        self._node = _NodeFigures()
        self._log = PacedLog(structlog.stdlib.get_logger("zonecast.sync"), log_interval_s)
        self._count_connections()
        self._count_changes()
        self._count_repairs()
        self._count_requests()
        self._count_entries()
        self.registry.register(self._cache)
        self.registry.register(self._node)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"zonecast_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"zonecast_{name}", text, labels, registry=self.registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(f"zonecast_{name}", text, labels, buckets=buckets, registry=self.registry)

    def _count_connections(self) -> None:
        self._connections = self._gauge("connections", "Live connections.", "transport")
        self._opened = self._counter(
            "connections_opened", "Connections that were taken in.", "transport"
        )
        self._closed = self._counter(
            "connections_closed", "Connections that ended.", "transport", "code"
        )
        self._lifetime = self._histogram(
            "connection_seconds", "How long connections lived.", LIFETIME_BUCKETS_S, "transport"
        )
        self._started = self._counter(
            "subscriptions_started", "Subscriptions, by how they began.", "transport", "start"
        )
        # There from the start: a figure that is missing can't be told from one that is 0. And
        # looked up once: that costs more than counting does.
        self._live_of = {name: self._connections.labels(name) for name in TRANSPORTS}
        self._opened_of = {name: self._opened.labels(name) for name in TRANSPORTS}
        self._started_of = {
            (name, how): self._started.labels(name, how) for name in TRANSPORTS for how in STARTS
        }
        self._loop_lag = self._histogram(
            "loop_lag_seconds", "How late the event loop comes to what is due.", DELAY_BUCKETS_S
        )
        self._subscriptions = self._gauge("subscriptions", "Live subscriptions.")
        self._bytes = self._counter("sent_bytes", "Bytes written to connections.", "transport")
        self._protocol_errors = self._counter(
            "protocol_errors", "Errors told to clients, by code.", "code"
        )

    def _count_changes(self) -> None:
        self._published = self._counter("published_transactions", "Transactions handed to the bus.")
        self._publish_failures = self._counter(
            "publish_failed_transactions", "Transactions that the bus did not take."
        )
        self._commit_to_publish = self._histogram(
            "commit_to_publish_seconds", "From the commit to the bus.", DELAY_BUCKETS_S
        )
        self._changes = self._counter("fanned_out_changes", "Changes of channels fanned out.")
        self._deliveries = self._counter("deliveries", "Frames written to connections.")
        self._publish_to_write = self._histogram(
            "publish_to_write_seconds",
            "From when a change was recorded, on whichever node, to its write to clients here; "
            "the oldest of each flush.",
            DELAY_BUCKETS_S,
        )

    def _count_repairs(self) -> None:
        self._repairs = self._counter("repairs", "Repairs from the change log.", "cause")
        self._repaired = self._counter("repaired_changes", "Changes read from the log.", "cause")
        self._resets = self._counter("resets", "Replicas read anew.", "cause")
        for cause in REPAIR_CAUSES:
            self._repairs.labels(cause)
        for cause in RESET_CAUSES:
            self._resets.labels(cause)
        self._duplicates = self._counter("duplicates", "Messages that brought nothing new.")
        self._head_checks = self._counter("head_checks", "Comparisons of all followed heads.")
        self._head_check_time = self._histogram(
            "head_check_seconds", "How long comparing all heads took.", DELAY_BUCKETS_S
        )
        self._followed = self._gauge("followed_channels", "Channels that this node follows.")
        self._failures = self._counter(
            "failures", "Failures that were tried again, by the error's class.", "error"
        )

    def _count_requests(self) -> None:
        self._answered: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._requests = self._counter(
            "http_requests", "HTTP requests by route template.", "route", "method", "status"
        )
        self._request_time = self._histogram(
            "http_request_seconds",
            "From a request's head to its answer's head.",
            REQUEST_BUCKETS_S,
            "route",
            "method",
        )

    def _count_entries(self) -> None:
        self._refusals = self._counter(
            "auth_failures", "Whoever was not let in, by reason.", "reason"
        )
        for reason in Reason:
            self._refusals.labels(reason.value)
        self._limited = self._counter(
            "limit_refusals", "What a limit kept out, by the limit.", "limit"
        )
        self._quota_failures = self._counter(
            "quota_failures", "Requests that Redis did not count, but this node alone."
        )
        for limit in Refusal:
            self._limited.labels(limit.value)

    def entry_refused(self, reason: Reason) -> None:
        """Count somebody who was not let in."""
        self._refusals.labels(reason.value).inc()

    def refused(self, limit: Refusal) -> None:
        """Count what a limit kept out."""
        self._limited.labels(limit.value).inc()

    def quota_failed(self) -> None:
        """Count a request that Redis was asked to count and did not."""
        self._quota_failures.inc()

    def connection_opened(self, transport: str) -> None:
        """Count a connection that was taken in. `transport`: websocket, sse."""
        self._live_of[transport].inc()
        self._opened_of[transport].inc()

    def connection_closed(self, transport: str, code: int, duration_s: float) -> None:
        """Count the end of a connection that was counted when it began."""
        self._live_of[transport].dec()
        self._closed.labels(transport, code).inc()
        self._lifetime.labels(transport).observe(duration_s)

    def subscriptions_changed(self, delta: int) -> None:
        """Count subscriptions that began (above 0) or ended (below 0)."""
        self._subscriptions.inc(delta)

    def subscription_started(self, transport: str, start: Start) -> None:
        """Count how a subscription began."""
        how = "resumed" if start.changes is not None else "anew" if start.was_recovering else "new"
        self._started_of[transport, how].inc()

    def loop_lagged(self, lag_s: float) -> None:
        """Count how late the event loop came to what was due."""
        self._loop_lag.observe(lag_s)

    def bytes_sent(self, transport: str, count: int) -> None:
        """Count bytes written to a connection."""
        self._bytes.labels(transport).inc(count)

    def protocol_error(self, code: int) -> None:
        """Count an error told to a client, of the codes of this service."""
        self._protocol_errors.labels(code).inc()

    def request_answered(self, route: str, method: str, status: int, duration_s: float) -> None:
        """Count an HTTP request; `route` is a template, so that there are few of them."""
        method = method if method in _METHODS else "other"
        key = (route, method, status)
        figures = self._answered.get(key)
        if figures is None:
            # Looked up once: that costs more than counting does.
            count = self._requests.labels(route, method, status)
            figures = self._answered[key] = (count, self._request_time.labels(route, method))
        figures[0].inc()
        figures[1].observe(duration_s)

    def channels_followed(self, count: int) -> None:
        """Tell how many channels the node follows now."""
        self._followed.set(count)

    def repaired(self, channel: str, cause: str, changes: int) -> None:
        """Count a repair from the log."""
        self._repairs.labels(cause).inc()
        self._repaired.labels(cause).inc(changes)
        self._log.info("repaired", channel=channel, cause=cause, changes=changes)

    def reset(self, channel: str, cause: str) -> None:
        """Count a replica read anew."""
        self._resets.labels(cause).inc()
        self._log.info("reset", channel=channel, cause=cause)

    def heads_checked(self, channels: int, duration_s: float) -> None:
        """Count a completed comparison of heads, of all channels that the node follows."""
        self._head_checks.inc()
        self._head_check_time.observe(duration_s)
        self._followed.set(channels)

    def duplicate(self, channel: str) -> None:
        """Count a message that brought nothing new."""
        self._duplicates.inc()

    def fanned_out(
        self,
        changes: Sequence[Change],
        deliveries: int,
        publish_to_write_s: float,
        pass_s: float,
    ) -> None:
        """Count one pass."""
        self._changes.inc(len(changes))
        self._deliveries.inc(deliveries)
        self._publish_to_write.observe(publish_to_write_s)

    def published(self, transactions: int, commit_to_publish_s: float) -> None:
        """Count transactions handed to the bus."""
        self._published.inc(transactions)
        self._commit_to_publish.observe(commit_to_publish_s)

    def publish_failed(self, transactions: int, reason: str) -> None:
        """Count transactions that the bus did not take."""
        self._publish_failures.inc(transactions)
        self._log.warning("publish failed", transactions=transactions, reason=reason)

    def failed(self, what: str, error: Exception) -> None:
        """Count and log a failure that the caller will try again."""
        name = type(error).__name__
        self._failures.labels(name).inc()
        self._log.warning("failed", what=what, error=name, reason=str(error))

    def take_node_figures(self, families: Sequence[Family]) -> None:
        """Take what the node is like before it is rendered."""
        self._node.take(families)

    def take_cache_figures(self, stats: CacheStats) -> None:
        """Take the figures of the cache before they are rendered."""
        self._cache.take(stats)
