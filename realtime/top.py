"""What `zonecast top` looks at: the figures of several nodes, and what they come to per second."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final, Self

import httpx
from prometheus_client.parser import text_string_to_metric_families

from realtime.client import Token
from realtime.service_api import ProblemAnswerError, http_client

ANSWER_TIMEOUT_S: Final = 5.0
LISTED: Final = 20
Figures = Mapping[tuple[str, str], float]
"""Values of `/metrics`, by the metric's name and the value of its first label, or empty."""

_RATES: Final = {
    "deliveries_per_s": "zonecast_deliveries_total",
    "changes_per_s": "zonecast_fanned_out_changes_total",
    "bytes_per_s": "zonecast_sent_bytes_total",
    "requests_per_s": "zonecast_http_requests_total",
}


@dataclass(frozen=True, slots=True)
class Sample:
    """What a node said at one moment.

    Attributes:
        at_s: When, by a clock that only goes forward.
        figures: Its metrics.
        connections: Its answer about connections, those with the most queued bytes first.
        channels: Its answer about channels, the most watched first.
    """

    at_s: float
    figures: Figures
    connections: dict[str, Any]
    channels: dict[str, Any]

    def total(self, name: str) -> float:
        """Return a metric over all its labels."""
        return sum(value for (metric, _), value in self.figures.items() if metric == name)


@dataclass(slots=True)
class NodeView:
    """One node as it is shown.

    Attributes:
        url: Its address.
        error: Why it can't be looked at, in a line.
        now: The newest sample.
        before: The one before it.
    """

    url: str
    error: str | None = None
    now: Sample | None = None
    before: Sample | None = None

    def take(self, sample: Sample) -> None:
        """Go on to a sample; one of another process has nothing to be compared with."""
        same = self.now is not None and self.now.connections["node"] == sample.connections["node"]
        self.before, self.now, self.error = self.now if same else None, sample, None

    def fail(self, reason: str) -> None:
        """Note that it can't be looked at."""
        self.now = self.before = None
        self.error = reason

    def rate(self, name: str) -> float | None:
        """Return by how much a counter rises in a second; `None`: not known yet."""
        if self.now is None or self.before is None:
            return None
        elapsed_s = self.now.at_s - self.before.at_s
        risen = self.now.total(name) - self.before.total(name)
        return max(0.0, risen / elapsed_s) if elapsed_s > 0 else None

    def loop_lag_ms(self) -> float | None:
        """Return how late the event loop was on average since the sample before."""
        lag, count = (self.rate(f"zonecast_loop_lag_seconds_{part}") for part in ("sum", "count"))
        return 1000 * lag / count if lag is not None and count else None

    def document(self) -> dict[str, Any]:
        """Return it for programs."""
        now = self.now
        if now is None:
            return {"url": self.url, "error": self.error}
        return {
            "url": self.url,
            "error": None,
            "node": now.connections["node"],
            "connections": now.connections["total"],
            "connections_limit": now.connections["limit"],
            "stopping": now.connections["stopping"],
            "slow": now.connections["slow"],
            "subscriptions": now.total("zonecast_subscriptions"),
            "queued_bytes": now.total("zonecast_queued_bytes"),
            "pool_in_use": now.total("zonecast_pool_in_use"),
            "followed_channels": now.channels["total"],
            "unverified_ms": now.channels["unverified_ms"],
            "stale_since_ms": now.channels["stale_since_ms"],
            "bus": now.channels["bus"],
            "loop_lag_ms": self.loop_lag_ms(),
            **{name: self.rate(metric) for name, metric in _RATES.items()},
        }


class Top:
    """Looks at nodes, all at once.

    Args:
        urls: Their addresses.
        token: What they ask for: one with scope admin.

    Attributes:
        nodes: What is known of each.
    """

    def __init__(self, urls: Sequence[str], token: Token | None) -> None:
        self._token = token
        self._clients: dict[str, httpx.AsyncClient] = {}
        self._stack = AsyncExitStack()
        self.nodes = [NodeView(url) for url in urls]

    async def __aenter__(self) -> Self:
        for view in self.nodes:
            client = http_client(view.url, self._token)
            self._clients[view.url] = await self._stack.enter_async_context(client)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def look(self) -> None:
        """Ask every node once; who doesn't answer is noted. Cancel-safe."""
        async with asyncio.TaskGroup() as tasks:
            for view in self.nodes:
                tasks.create_task(self._look_at(view))

    async def _look_at(self, view: NodeView) -> None:
        client = self._clients[view.url]
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                metrics = await _get(client, "/metrics")
                connections = await _get(client, f"/admin/connections?limit={LISTED}")
                channels = await _get(client, f"/admin/channels?limit={LISTED}")
            sample = Sample(
                time.monotonic(), _figures(metrics.text), connections.json(), channels.json()
            )
        except (httpx.HTTPError, httpx.InvalidURL, ProblemAnswerError) as error:
            view.fail(str(error) or type(error).__name__)
        except TimeoutError:
            view.fail("no answer in time")
        except ValueError:
            view.fail("what answers is no Zonecast")
        else:
            view.take(sample)

    def channels(self) -> list[dict[str, Any]]:
        """Return the most watched channels over all nodes, with their farthest revision."""
        watchers: Counter[str] = Counter()
        seen: dict[str, dict[str, Any]] = {}
        for view in self.nodes:
            for channel in view.now.channels["channels"] if view.now else ():
                name = channel["channel"]
                watchers[name] += channel["watchers"]
                if name not in seen or channel["rev"] > seen[name]["rev"]:
                    seen[name] = channel
        return [{**seen[name], "watchers": count} for name, count in watchers.most_common(LISTED)]

    def slow(self) -> list[dict[str, Any]]:
        """Return the connections that are behind, or have most waiting for them."""
        found = [
            {**connection, "url": view.url}
            for view in self.nodes
            if view.now is not None
            for connection in view.now.connections["connections"]
            if connection["slow"] or connection["queued_bytes"]
        ]
        return sorted(found, key=lambda found: -found["queued_bytes"])[:LISTED]

    def document(self) -> dict[str, Any]:
        """Return everything for programs."""
        return {
            "at_ms": time.time_ns() // 1_000_000,
            "nodes": [view.document() for view in self.nodes],
            "channels": self.channels(),
            "slow": self.slow(),
        }


async def _get(client: httpx.AsyncClient, path: str) -> httpx.Response:
    response = await client.get(path)
    if not response.is_success:
        raise ProblemAnswerError(path.partition("?")[0], response)
    return response


def _figures(text: str) -> Figures:
    """Read `/metrics`.

    Raises:
        ValueError: it is no such text.
    """
    values: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            label = next(iter(sample.labels.values()), "")
            values[sample.name, label] = values.get((sample.name, label), 0.0) + sample.value
    return values
