"""The breaker: what a fault may reach, and how long it lasts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random

from tests.faults.cluster import Cluster
from tests.faults.history import Recorder
from tests.faults.watchers import Watcher


@dataclass
class Breaker:
    """Breaks the servers of a cluster, and the clients' network.

    Attributes:
        cluster: The servers.
        watchers: The clients.
        recorder: Where faults and outages are noted.
        random: How long, and which.
        patience: By what the longest faults are longer than they need to be.
    """

    cluster: Cluster
    watchers: list[Watcher]
    recorder: Recorder
    random: Random
    patience: float = 1

    async def wait(self, least_s: float, most_s: float) -> None:
        """Let it stay broken for a time between these."""
        await asyncio.sleep(self.random.uniform(least_s, most_s))


FaultOf = Callable[[Breaker], Awaitable[None]]
"""Breaks something for real, for a bounded time, and mends it."""

LONGER_THAN_STALENESS_S = (5.5, 7.0)
"""Long enough that a change which the fault kept back would be noticed."""
