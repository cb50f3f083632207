"""Node figures: what a node is like at the moment when somebody asks, as Prometheus metrics."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from cache.cluster_bus import ClusterBus
from cache.redis_bus import RedisBus
from channels.ports import BusState
from realtime.connections import Connections
from realtime.metrics import Family
from realtime.node import Node

SLICE: Final = 1_000
"""So many connections are looked at before the event loop has its turn again."""

# Read at import, as it is from files.
_VERSION: Final = version("zonecast")
_BUS_COUNTERS: Final = (
    ("messages", "Changes that the bus brought."),
    ("malformed", "Messages of the bus that could not be read."),
    ("connects", "Times that this node connected to the bus."),
    ("losses", "Times that the bus was lost, or could not be reached."),
    ("gaps", "Times that the bus may have lost messages."),
)


def describe_node(node: Node, queued_bytes: dict[str, int]) -> list[Family]:
    """Look at a node; nothing here awaits.

    Args:
        node: The node.
        queued_bytes: What waits to be written, by transport.
    """
    unverified_s = max(0.0, time.time() - node.feed.verified_ms / 1000)
    families: list[Family] = [
        _gauge("unverified_seconds", "Time since all followed heads were verified.", unverified_s),
        _gauge(
            "stale",
            "Whether clients are told that the picture is stale.",
            float(node.feed.stale_since_ms is not None),
        ),
        _gauge(
            "slow_connections",
            "Connections that are behind because they don't read.",
            float(node.feed.slow_count),
        ),
        _gauge(
            "connections_limit",
            "Connections that this node takes.",
            float(node.connections.maximum),
        ),
        _gauge(
            "stopping",
            "Whether the node is about to go.",
            float(node.connections.stopping),
        ),
        _labelled(
            "node_info",
            "Which node this is, and its version.",
            ("node", "version"),
            [((node.node_id, _VERSION), 1.0)],
        ),
        _labelled(
            "queued_bytes",
            "Bytes that wait until clients read.",
            ("transport",),
            [((transport,), float(count)) for transport, count in queued_bytes.items()],
        ),
        _labelled(
            "bus_state",
            "How the bus is: 1 for the state that it is in.",
            ("state",),
            [((state.value,), float(node.bus.state is state)) for state in BusState],
        ),
    ]
    pools = node.database.pools()
    for name, text in (
        ("in_use", "Database connections that are in use."),
        ("idle", "Database connections that wait for use."),
        ("limit", "Database connections that there may be."),
    ):
        samples = [((pool,), float(getattr(use, name))) for pool, use in pools.items()]
        families.append(_labelled(f"pool_{name}", text, ("pool",), samples))
    if isinstance(node.bus, RedisBus | ClusterBus):
        counted = asdict(node.bus.counters)
        families += [
            CounterMetricFamily(f"zonecast_bus_{name}", text, value=counted[name])
            for name, text in _BUS_COUNTERS
        ]
    return families


async def count_queued_bytes(connections: Connections) -> dict[str, int]:
    """Add up what waits to be written, by transport; others run in between. Cancel-safe."""
    queued: Counter[str] = Counter({"websocket": 0, "sse": 0})
    for index, (connection, card) in enumerate(connections.listed()):
        if index % SLICE == SLICE - 1:
            await asyncio.sleep(0)
        queued[card.transport] += connection.queued_bytes
    return dict(queued)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"zonecast_{name}", text, value=value)


def _labelled(
    name: str, text: str, labels: Sequence[str], samples: Iterable[tuple[Sequence[str], float]]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"zonecast_{name}", text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family
