"""Cache figures: what the cache counts itself, as Prometheus metrics."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from cache.cache_config import CacheStats


class CacheFigures(Collector):
    """Renders the figures that were taken last.

    The cache counts by itself, in the event loop; rendering happens in a thread. So the figures
    are taken first, as one value, and rendered after.
    """

    def __init__(self) -> None:
        self._stats: CacheStats | None = None

    def take(self, stats: CacheStats) -> None:
        """Remember figures for the next rendering."""
        self._stats = stats

    def collect(self) -> Iterable[CounterMetricFamily | GaugeMetricFamily]:
        """Yield the figures taken last; none before the first were taken."""
        stats = self._stats
        if stats is None:
            return
        for name, text, count in (
            ("hits", "Reads answered from a copy, near or in Redis.", stats.hits),
            ("near_hits", "Reads answered from this node's own copy.", stats.near.hits),
            ("misses", "Reads that needed the database.", stats.misses),
            ("loads", "Times that the database was asked.", stats.loads),
            ("fills", "Values stored in Redis.", stats.fills),
            ("stale_fills_refused", "Fills that the fence kept out.", stats.stale_fills_refused),
            ("stale_values_refused", "Values older than known ones.", stats.stale_values_refused),
            ("failures", "Calls that Redis didn't answer.", stats.failures),
        ):
            yield CounterMetricFamily(f"zonecast_cache_{name}", text, value=count)
        for name, text, value in (
            ("available", "Whether Redis serves the cache.", float(stats.available)),
            ("entries", "Users in the newest dict that this node knows.", stats.size),
            ("near_bytes", "Size of this node's own copy.", stats.near.bytes),
            ("near_age_seconds", "Age of this node's own copy.", stats.near.age_s),
        ):
            yield GaugeMetricFamily(f"zonecast_cache_{name}", text, value=value)
