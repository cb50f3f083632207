"""Pruning in the background: passes over the change log, counted, logged, and spread in time."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from db.retention import PruneReport, Retention
from realtime.metrics import Metrics

PRUNING_SLACK: Final = 0.1
"""In the background channels may exceed their bounds by so much: a tenth of the transactions."""
BACKOFF_MAX_S: Final = 3_600
"""After failures a pass is tried again later each time, but not later than this."""
PASS_BUCKETS_S: Final = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60, 300, 1_800)


class PruningFigures:
    """What passes have done, as metrics.

    Args:
        registry: Where they are rendered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._changes = Counter(
            "zonecast_pruned_changes", "Changes deleted from the log.", registry=registry
        )
        self._busy = Counter(
            "zonecast_prune_busy_channels",
            "Channels left to the next pass, as writers held them.",
            registry=registry,
        )
        self._pass_time = Histogram(
            "zonecast_prune_seconds",
            "How long a pass over all channels took.",
            buckets=PASS_BUCKETS_S,
            registry=registry,
        )
        self._last_pass = Gauge(
            "zonecast_prune_last_timestamp_seconds",
            "When this node last completed a pass; 0: never, others may have.",
            registry=registry,
        )

    def deleted(self, changes: int) -> None:
        """Count changes that were deleted, also by a pass that fails later."""
        self._changes.inc(changes)

    def passed(self, report: PruneReport, duration_s: float) -> None:
        """Count a completed pass."""
        self._busy.inc(report.busy)
        self._pass_time.observe(duration_s)
        self._last_pass.set_to_current_time()


class Pruning:
    """Prunes again and again; of many nodes the one that comes first does each pass.

    Args:
        retention: Does the passes.
        metrics: Told of failures, and holds the figures.
        interval_s: The pause between two passes, above 0.
    """

    def __init__(self, retention: Retention, metrics: Metrics, interval_s: float) -> None:
        self._retention = retention
        self._metrics = metrics
        self._interval_s = interval_s
        self._figures = PruningFigures(metrics.registry)
        self._log = structlog.stdlib.get_logger("zonecast.retention")

    async def run(self) -> None:
        """Prune until cancelled, which leaves nothing half done."""
        # Nodes that start together take turns.
        pause_s = self._interval_s * random.uniform(0.5, 1)  # noqa: S311 - no secret
        while True:
            await asyncio.sleep(pause_s)
            try:
                await self._pass()
            except Exception as error:  # noqa: BLE001 - a task boundary: the log may wait
                self._metrics.failed("pruning of the change log", error)
                pause_s = min(2 * pause_s, max(self._interval_s, BACKOFF_MAX_S))
            else:
                pause_s = self._interval_s

    async def _pass(self) -> None:
        began_s = time.monotonic()
        counted = 0

        def count(report: PruneReport) -> None:
            nonlocal counted
            self._figures.deleted(report.changes - counted)
            counted = report.changes

        report = await self._retention.prune(count)
        if report is None:
            return
        duration_s = time.monotonic() - began_s
        self._figures.passed(report, duration_s)
        if report.changes or report.busy:
            self._log.info(
                "pruned",
                changes=report.changes,
                channels=report.channels,
                busy=report.busy,
                seconds=round(duration_s, 3),
            )
