"""The module `zonecast.js` in a browser's page."""

from __future__ import annotations

from urllib.parse import urlsplit

import httpx
from playwright.async_api import Page

from tests.clients.tcp_proxy import tcp_proxy
from tests.clients.test_recovery import Writer
from tests.realtime.conftest import LiveNode

# Watch from a page of the node's own origin, and keep what a test asks about.
WATCH = """
async ([module, options]) => {
    const { watch } = await import(module)
    window.states = []
    window.changes = []
    window.zones = watch(options)
    zones.on('status', ({ state }) => states.push(state))
    zones.on('change', ({ users }) => changes.push(users.map(({ id, from, to }) => [id, from, to])))
    await zones.ready
}
"""
SHOWN = "() => Object.fromEntries([...zones].map(({ id, users }) => [id, [...users.keys()]]))"
# What a browser does when another tab is chosen, which a headless one never does by itself.
SHOW = """
(state) => {
    Object.defineProperty(document, 'hidden', { configurable: true, value: state === 'hidden' })
    document.dispatchEvent(new Event('visibilitychange'))
}
"""


async def watch(page: Page, url: str, **options: object) -> None:
    """Open a page and watch both zones."""
    await page.goto(f"{url}/healthz")
    await page.evaluate(WATCH, ["/zonecast.js", {"zones": ["A", "B"], **options}])


async def test_a_page_follows_what_is_written(
    page: Page, service: LiveNode, api: httpx.AsyncClient
) -> None:
    """With nothing but the module's own address."""
    writer = Writer(api)
    await writer.set_up()
    await watch(page, service.url)
    assert await page.evaluate(SHOWN) == {"A": [1, 2, 3, 4, 5], "B": []}
    await page.evaluate("changes.length = 0")
    await writer.move(2, "B")
    await page.wait_for_function("changes.length")
    assert await page.evaluate("changes") == [[[2, "A", "B"]]]
    assert await page.evaluate(SHOWN) == {"A": [1, 3, 4, 5], "B": [2]}


async def test_a_page_goes_on_after_its_connection_was_cut(
    page: Page, service: LiveNode, api: httpx.AsyncClient
) -> None:
    """By event stream as well, where no WebSocket is let through."""
    writer = Writer(api)
    await writer.set_up()
    async with tcp_proxy(urlsplit(service.url).port or 0) as proxy:
        for lets_sockets_through in (True, False):
            proxy.lets_sockets_through = lets_sockets_through
            url = f"http://127.0.0.1:{proxy.port}"
            await watch(page, url, backoffMinMs=50)
            transport = "websocket" if lets_sockets_through else "sse"
            assert await page.evaluate("zones.status.transport") == transport
            proxy.cut()
            await page.wait_for_function("states.includes('connecting')")
            zone = "B" if lets_sockets_through else "A"
            await writer.move(2, zone)
            await page.wait_for_function("zone => zones.find(2).id === zone", arg=zone)
            await page.wait_for_function("zones.status.state === 'live'")
            assert await page.evaluate("zones.status.snapshots") == 0


async def test_a_hidden_page_lets_go_and_comes_back(
    page: Page, service: LiveNode, api: httpx.AsyncClient
) -> None:
    """Not at once, and with what it missed when it is seen again."""
    writer = Writer(api)
    await writer.set_up()
    await watch(page, service.url, pauseAfterMs=50)
    await page.evaluate(SHOW, "hidden")
    await page.wait_for_function("zones.status.state === 'paused'")
    connections = (await api.get("/admin/connections")).json()["connections"]
    assert [row["transport"] for row in connections] == []
    await writer.move(2, "B")
    await page.evaluate(SHOW, "visible")
    await page.wait_for_function("zones.status.state === 'live'")
    assert await page.evaluate("zones.find(2).id") == "B"
    assert await page.evaluate("zones.status.resumed") == 2


async def test_a_frozen_page_connects_anew(
    page: Page, service: LiveNode, api: httpx.AsyncClient
) -> None:
    """As after a night in a closed laptop: its clock jumped, and it asks what it missed."""
    writer = Writer(api)
    await writer.set_up()
    await page.clock.install()
    await watch(page, service.url)
    await writer.move(2, "B")
    await page.wait_for_function("zones.find(2).id === 'B'", polling=100)
    await page.clock.fast_forward("08:00:00")
    await page.wait_for_function("states.includes('connecting')", polling=100)
    await page.clock.run_for(1_000)
    await page.wait_for_function("zones.status.state === 'live'", polling=100)
    assert await page.evaluate("zones.status.connections") == 2
