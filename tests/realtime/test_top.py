"""`zonecast top` over real nodes: rates, channels, slow clients, and nodes that are away."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import httpx
import pytest
from rich.console import Console

from realtime.client import watch
from realtime.top import NodeView, Sample, Top
from realtime.top_command import picture
from tests.processes import free_port
from tests.realtime.command_line import zonecast
from tests.realtime.conftest import LiveNode


@pytest.fixture
async def busy(live_node: LiveNode) -> AsyncIterator[LiveNode]:
    """A node with a zone, a user in it, and two who watch."""
    # Without TLS: to read the certificates would block the loop.
    async with httpx.AsyncClient(base_url=live_node.url, verify=False) as http:  # noqa: S501
        await http.post("/zones", json={"zone_id": "A", "name": "A"})
        await http.post("/users", json={"global_id": 1, "name": "Ada", "zone_id": "A"})
        async with AsyncExitStack() as stack:
            for _ in range(2):
                await stack.enter_async_context(watch(live_node.url, ["A"]))
            yield live_node


def drawn(top: Top) -> list[str]:
    """Draw it 80 columns wide."""
    out = io.StringIO()
    Console(file=out, width=80).print(picture(top))
    return out.getvalue().splitlines()


async def test_rates_channels_and_an_absent_node_are_shown(busy: LiveNode) -> None:
    """What rises between two looks, in 80 columns; the absent one spoils nothing."""
    away = f"http://127.0.0.1:{free_port()}"
    async with Top([busy.url, away], None) as top:
        await top.look()
        assert top.nodes[0].document()["deliveries_per_s"] is None
        async with httpx.AsyncClient(base_url=busy.url, verify=False) as http:  # noqa: S501
            for name in ("Eve", "Bob", "Joe"):
                await http.patch("/users/1", json={"name": name})
        await top.look()
    document = top.document()
    here, there = document["nodes"]
    assert (here["connections"], here["subscriptions"], here["error"]) == (2, 2, None)
    assert here["changes_per_s"] > 0
    assert here["deliveries_per_s"] > 0
    assert here["requests_per_s"] > 0
    assert there["url"] == away
    assert there["error"]
    (channel,) = [found for found in document["channels"] if found["channel"] == "zone:A"]
    assert (channel["watchers"], channel["users"]) == (2, 1)
    lines = drawn(top)
    assert max(map(len, lines)) <= 80
    assert any("zone:A" in line and line.split()[1:3] == ["2", "1"] for line in lines)
    assert any(line.startswith("http://127.0.0.1") and "away" in line for line in lines)


def sample(node: str, at_s: float, sent: float) -> Sample:
    """Make a sample."""
    connection = {
        "id": "c1",
        "transport": "sse",
        "peer": "10.0.0.1",
        "channels": 3,
        "queued_bytes": 2048,
        "slow": True,
    }
    connections = {"node": node, "total": 1, "slow": 1, "limit": 9, "stopping": False}
    return Sample(
        at_s,
        {("zonecast_deliveries_total", "sse"): sent},
        {**connections, "connections": [connection]},
        {"channels": [], "total": 0, "unverified_ms": 1, "stale_since_ms": 7, "bus": "live"},
    )


def test_a_restarted_node_has_no_rate_and_slow_clients_are_listed() -> None:
    """Its counters begin at 0 again."""
    top = Top(["http://node1"], None)
    (view,) = top.nodes
    view.take(sample("n1", 10, 100))
    view.take(sample("n1", 12, 150))
    assert view.rate("zonecast_deliveries_total") == 25
    view.take(sample("n2", 14, 3))
    assert view.rate("zonecast_deliveries_total") is None
    lines = drawn(top)
    assert any("stale" in line for line in lines)
    assert any(line.split()[:3] == ["c1", "sse", "10.0.0.1"] for line in lines)
    assert NodeView("http://x").document() == {"url": "http://x", "error": None}


@pytest.mark.timeout(240)
async def test_in_a_pipe_it_prints_once_and_its_exit_code_tells_of_absent_nodes() -> None:
    """One table, one line on what is wrong."""
    url = f"http://127.0.0.1:{free_port()}"
    code, printed, errors = await asyncio.to_thread(
        zonecast, "top", "--url", url, "--interval-s", "0.2"
    )
    assert (code, errors) == (1, "")
    assert "away" in printed
    assert url in printed
