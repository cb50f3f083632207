"""The topology of compose.yaml as local processes: clients behind nginx, and a node drained."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.async_api import Browser, Page

from tests.balancers import LoadBalancer, find_nginx, make_certificate
from tests.browsers import running_browser
from tests.clients.screens import Screen, javascript_sdk, until_at
from tests.nodes import NodeProcess, running_nodes
from tests.processes import Account, Scratch

POLL_S = 0.02
USERS = 20
WRITES = 30
"""Before, while and after the node is drained."""

# A page as anybody would write it, which keeps what a test asks about.
PAGE = """
(zones) => {
    window.zones = {};
    const source = new EventSource('/sse?' + zones.map((zone) => 'zone=' + zone).join('&'));
    source.addEventListener('snapshot', (event) => {
        const data = JSON.parse(event.data);
        const id = data.zone.zone_id;
        const states = (window.zones[id] || {states: 0}).states + 1;
        const users = Object.fromEntries(data.users.map((user) => [user.id, user.version]));
        window.zones[id] = {rev: data.rev, users, states, gaps: 0, repeated: 0};
    });
    source.addEventListener('changes', (event) => {
        for (const part of JSON.parse(event.data).zones) {
            const zone = window.zones[part.zone_id];
            if (part.rev <= zone.rev) { zone.repeated += 1; continue; }
            if (part.rev !== zone.rev + 1) zone.gaps += 1;
            zone.rev = part.rev;
            for (const item of part.events) {
                if (item.type === 'left') delete zone.users[item.user_id];
                else if (item.user) zone.users[item.user.id] = item.user.version;
            }
        }
    });
}
"""


@dataclass
class Topology:
    """Two nodes behind nginx.

    Attributes:
        nodes: The nodes.
        balancer: What is in front of them.
        http: A client of the balancer.
        direct: A client of each node.
    """

    nodes: list[NodeProcess]
    balancer: LoadBalancer
    http: httpx.AsyncClient
    direct: list[httpx.AsyncClient]

    async def connections(self, node: int) -> list[dict[str, Any]]:
        """Return who is connected to a node."""
        rows: list[dict[str, Any]] = (await self.direct[node].get("/admin/connections")).json()[
            "connections"
        ]
        return rows

    async def transports(self) -> list[set[str]]:
        """Return which transports each node serves."""
        return [{row["transport"] for row in await self.connections(node)} for node in (0, 1)]

    async def write(self, user: int, zone: str) -> None:
        """Move a user, again for as long as it isn't done: a move done twice changes nothing."""
        while True:
            answer = await self.http.post(f"/users/{user}/transfer", json={"zone_id": zone})
            if answer.status_code == 200:
                return
            assert answer.status_code in {502, 503}, answer.text
            await asyncio.sleep(POLL_S)


@pytest.fixture
def balancer_folder(scratch: Scratch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a certificate that Node trusts."""
    account = Account.unprivileged()
    folder = scratch.new_folder("nginx", account)
    make_certificate(folder, tmp_path / "operator")
    monkeypatch.setenv("NODE_EXTRA_CA_CERTS", str(folder / "tls_certificate"))
    return folder


@pytest.fixture
async def topology(
    production: dict[str, object], balancer_folder: Path, tmp_path: Path
) -> AsyncIterator[Topology]:
    """PostgreSQL, Redis, two nodes, nginx."""
    program = find_nginx()
    settings = {**production, "trusted_proxies": "127.0.0.1", "sse_retry_ms": 100}
    tls = ssl.create_default_context(cafile=balancer_folder / "tls_certificate")
    async with AsyncExitStack() as stack:
        nodes = await stack.enter_async_context(running_nodes(tmp_path, 2, settings))
        ports = [node.port for node in nodes]
        balancer = LoadBalancer(balancer_folder, Account.unprivileged(), program, ports)
        await balancer.start()
        stack.push_async_callback(balancer.stop)
        clients = [
            await stack.enter_async_context(
                httpx.AsyncClient(base_url=url, verify=tls, trust_env=False, timeout=20)
            )
            for url in (balancer.url, *(node.url for node in nodes))
        ]
        yield Topology(nodes, balancer, clients[0], clients[1:])


@pytest.fixture
async def browser(chromium: Path) -> AsyncIterator[Browser]:
    """A headless Chromium."""
    async with running_browser(chromium) as browser:
        yield browser


async def until_served(
    topology: Topology, transport: str, make: Callable[[], Any], most: int = 8
) -> None:
    """Make clients until both nodes have one of this transport."""
    for _ in range(most):
        await make()
        if all(transport in served for served in await topology.transports()):
            return
    pytest.fail(f"the balancer gave all {transport} clients to one node")


@pytest.mark.timeout(240)
async def test_a_drained_node_hands_its_clients_over_without_a_lost_or_doubled_change(
    topology: Topology, node: Path, browser: Browser
) -> None:
    """SDKs and a browser's event sources, all through nginx, while somebody writes through it."""
    for zone in ("A", "B"):
        assert (await topology.http.post("/zones", json={"zone_id": zone, "name": zone})).is_success
    rows = [{"global_id": number, "name": "u", "zone_id": "A"} for number in range(1, USERS + 1)]
    made = (await topology.http.post("/users/bulk", json={"users": rows})).json()
    users = [user["id"] for user in made["users"]]
    screens: list[Screen] = []
    pages: list[Page] = []
    async with AsyncExitStack() as stack:
        context = await browser.new_context(ignore_https_errors=True)

        async def open_screen() -> None:
            watching = javascript_sdk(node, "wss")(topology.balancer.port, ["A", "B"])
            screens.append(await stack.enter_async_context(watching))
            await until_at(screens[-1], {"A": 0, "B": 0})

        async def open_page() -> None:
            pages.append(await context.new_page())
            await pages[-1].goto(f"{topology.balancer.url}/healthz")
            await pages[-1].evaluate(PAGE, ["A", "B"])
            await pages[-1].wait_for_function("() => window.zones.A && window.zones.B")

        await until_served(topology, "websocket", open_screen)
        await until_served(topology, "sse", open_page)
        protocol = "() => performance.getEntriesByType('navigation')[0].nextHopProtocol"
        assert await pages[0].evaluate(protocol) == "h2"
        written = 0
        drained = asyncio.Event()

        async def write() -> None:
            nonlocal written
            after = 0
            while after < WRITES:
                turn = written // USERS
                await topology.write(users[written % USERS], "BA"[turn % 2])
                written += 1
                after += drained.is_set()

        async def drain() -> None:
            while written < WRITES:  # noqa: ASYNC110 - counted by the other task
                await asyncio.sleep(POLL_S)
            os.kill(topology.nodes[0].pid, signal.SIGTERM)
            # uvicorn ends by the signal once its shutdown is complete.
            assert await topology.nodes[0].wait_exit() in {0, -signal.SIGTERM}
            drained.set()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(write())
            tasks.create_task(drain())

        await check_clients(topology, screens, pages)
        moved = await topology.connections(1)
        assert len(moved) == len(screens) + len(pages)
        # Without a port: it is the address that nginx passed on, and not nginx's own.
        assert {row["peer"] for row in moved} == {"127.0.0.1:0"}


async def check_clients(topology: Topology, screens: list[Screen], pages: list[Page]) -> None:
    """Check that all show what the database has, and how they came there."""
    truth = {}
    for zone in ("A", "B"):
        truth[zone] = (
            await topology.direct[1].get(f"/zones/{zone}/snapshot?source=database")
        ).json()
    revs = {zone: state["rev"] for zone, state in truth.items()}
    expected = {
        zone: {user["id"]: user["version"] for user in state["users"]}
        for zone, state in truth.items()
    }
    recoveries: list[bool] = []
    for screen in screens:
        pictures = await until_at(screen, revs)
        for zone, picture in pictures.items():
            assert picture.users == expected[zone]
            assert (picture.rev, picture.gaps, picture.repeated) == (revs[zone], 0, 0)
        recoveries += screen.recoveries
    assert recoveries, "nobody moved"
    assert all(recoveries), "a client that moved got the state instead of what it missed"
    reached = "(revs) => Object.entries(revs).every(([id, rev]) => window.zones[id].rev >= rev)"
    for page in pages:
        await page.wait_for_function(reached, arg=revs)
        for zone, picture in (await page.evaluate("window.zones")).items():
            assert {int(user): v for user, v in picture["users"].items()} == expected[zone]
            assert (picture["rev"], picture["gaps"], picture["repeated"]) == (revs[zone], 0, 0)
            assert picture["states"] == 1, "a page that moved got the state anew"


async def test_the_balancer_keeps_what_operators_see_from_everybody_else(
    topology: Topology,
) -> None:
    """Metrics and administration are for those inside."""
    for path in ("/metrics", "/admin/connections", "/admin/channels"):
        assert (await topology.http.get(path)).status_code == 404
        assert (await topology.direct[0].get(path)).status_code == 200
    assert (await topology.http.get("/readyz")).status_code == 200
