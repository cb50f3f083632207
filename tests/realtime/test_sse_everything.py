"""Streams on a real node: all zones there are and will be, a bare browser, and curl."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from playwright.async_api import Page

from tests.browsers import running_browser
from tests.realtime.conftest import LiveNode, serving
from tests.realtime.event_source import EventSource, StreamEndedError, event_source

if TYPE_CHECKING:
    from realtime.settings import Settings

Json = dict[str, Any]


@pytest.fixture
async def http(live_node: LiveNode) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of the node, with zones A and B, and a user in A."""
    async with httpx.AsyncClient(base_url=live_node.url, trust_env=False) as client:
        for zone in "AB":
            await make_zone(client, zone)
        user = {"global_id": 1, "name": "Ada", "zone_id": "A"}
        assert (await client.post("/users", json=user)).status_code == 201
        yield client


async def make_zone(client: httpx.AsyncClient, zone: str) -> None:
    """Make a zone."""
    answer = await client.post("/zones", json={"zone_id": zone, "name": zone})
    assert answer.status_code == 201, answer.text


async def move(client: httpx.AsyncClient, zone: str) -> None:
    """Move the user."""
    rows = [{"global_id": 1, "zone_id": zone}]
    assert (await client.post("/transfers", json={"transfers": rows})).status_code == 200


async def snapshots(source: EventSource, count: int) -> set[str]:
    """Read snapshots and return their zones."""
    return {(await source.next("snapshot"))["zone"]["zone_id"] for _ in range(count)}


def types_of(changes: Json, zone: str) -> list[str]:
    """Return what happened in one zone."""
    return [
        event["type"]
        for part in changes["zones"]
        if part["zone_id"] == zone
        for event in part["events"]
    ]


async def test_a_stream_of_all_zones_follows_the_directory(
    live_node: LiveNode, http: httpx.AsyncClient
) -> None:
    """Zones made later join with their state, deleted ones end, made again they join again."""
    async with event_source(live_node.url, "*") as source:
        assert (await source.next("status"))["zones"] == ["A", "B"]
        assert await snapshots(source, 2) == {"A", "B"}
        await make_zone(http, "C")
        assert await snapshots(source, 1) == {"C"}
        await move(http, "C")
        changes = await source.next("changes")
        assert types_of(changes, "A") == ["left"]
        assert types_of(changes, "C") == ["entered"]
        assert (await http.delete("/zones/C?move_to=B")).status_code == 204
        changes = await source.next("changes")
        assert types_of(changes, "C") == ["left", "zone_deleted"]
        assert types_of(changes, "B") == ["entered"]
        await make_zone(http, "C")
        assert await snapshots(source, 1) == {"C"}
        await move(http, "C")
        assert types_of(await source.next("changes"), "C") == ["entered"]
        assert source.last_id == "", "such a stream can't be resumed"


async def test_a_stream_of_all_zones_is_bounded(
    sqlite_url: str, make_settings: Callable[..., Settings]
) -> None:
    """More zones than a connection may watch are refused, and one too many ends the stream."""
    settings = make_settings(database_url=sqlite_url, max_subscriptions_per_connection=3)
    async with AsyncExitStack() as stack:
        live = await stack.enter_async_context(serving(settings))
        client = await stack.enter_async_context(
            httpx.AsyncClient(base_url=live.url, trust_env=False)
        )
        await make_zone(client, "A")
        await make_zone(client, "B")
        async with event_source(live.url, "*") as source:
            await snapshots(source, 2)
            await make_zone(client, "C")
            with pytest.raises(StreamEndedError):
                await source.event()
        async with event_source(live.url, "*") as source:
            assert source.response.status_code == 422
            assert "more than 2 zones" in source.response.json()["detail"]


async def test_two_streams_of_all_zones_see_zones_renamed(
    live_node: LiveNode, http: httpx.AsyncClient
) -> None:
    """A zone's own events come on its channel, to everybody, once."""
    async with event_source(live_node.url, "*") as one, event_source(live_node.url, "*") as two:
        for source in (one, two):
            await snapshots(source, 2)
        assert (await http.patch("/zones/A", json={"name": "Atrium"})).status_code == 200
        await move(http, "B")
        for source in (one, two):
            assert types_of(await source.next("changes"), "A") == ["zone_changed"]
            assert types_of(await source.next("changes"), "B") == ["entered"]


@pytest.fixture
async def page(chromium: Path) -> AsyncIterator[Page]:
    """A page of a headless Chromium."""
    async with running_browser(chromium) as browser:
        yield await browser.new_page()


# Nothing but what a page of ten lines would do; `seen` is read by the test.
BARE_PAGE = """
(zones) => {
    window.seen = [];
    const source = new EventSource('/sse?' + zones.map((zone) => 'zone=' + zone).join('&'));
    for (const name of ['snapshot', 'changes', 'status']) {
        source.addEventListener(name, (event) => {
            window.seen.push({name, id: event.lastEventId, data: JSON.parse(event.data)});
        });
    }
    source.onerror = () => window.seen.push({name: 'error', closed: source.readyState === 2});
}
"""


async def seen(page: Page, name: str, count: int) -> list[Json]:
    """Wait until the page has seen so many events of a name, and return them."""
    condition = "([name, count]) => window.seen.filter((e) => e.name === name).length >= count"
    await page.wait_for_function(condition, arg=[name, count], timeout=20_000)
    events: list[Json] = await page.evaluate("window.seen")
    return [event for event in events if event["name"] == name]


async def test_a_bare_browser_follows_resumes_and_stops(
    live_node: LiveNode, http: httpx.AsyncClient, page: Page
) -> None:
    """`EventSource` alone gets state and changes, comes back by itself, and stops at the end."""
    await page.goto(f"{live_node.url}/healthz")
    await page.evaluate(BARE_PAGE, ["A", "B"])
    assert len(await seen(page, "snapshot", 2)) == 2
    await move(http, "B")
    (changes,) = await seen(page, "changes", 1)
    assert types_of(changes["data"], "A") == ["left"]
    assert types_of(changes["data"], "B") == ["entered"]
    assert changes["id"].count("=") == 2
    (stream,) = live_node.node.connections._live
    stream.farewell()
    await move(http, "A")
    assert types_of((await seen(page, "changes", 2))[1]["data"], "A") == ["entered"]
    assert len(await seen(page, "snapshot", 2)) == 2, "it was resumed, not begun anew"
    assert (await http.delete("/zones/A?move_to=B")).status_code == 204
    assert (await http.delete("/zones/B?unassign=true")).status_code == 204
    last = (await seen(page, "changes", 4))[-1]
    assert types_of(last["data"], "B")[-1] == "zone_deleted"
    condition = "() => window.seen.some((event) => event.closed)"
    await page.wait_for_function(condition, timeout=20_000)


@pytest.fixture
def curl() -> str:
    """The path of curl."""
    found = shutil.which("curl")
    if found is None:
        pytest.skip("requires curl: install curl")
    return found


async def test_curl_shows_a_stream_as_it_comes(
    live_node: LiveNode, http: httpx.AsyncClient, curl: str
) -> None:
    """`curl -N` prints events at once, without waiting for more."""
    process = await asyncio.create_subprocess_exec(
        *(curl, "-sN", "--noproxy", "*", f"{live_node.url}/sse?zone=A"),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None

    async def data_after(line: str) -> Json:
        assert process.stdout is not None
        while (await process.stdout.readline()).decode().rstrip() != line:
            pass
        data = (await process.stdout.readline()).decode()
        body: Json = json.loads(data.removeprefix("data: "))
        return body

    try:
        assert len((await data_after("event: snapshot"))["users"]) == 1
        await move(http, "B")
        assert types_of(await data_after("event: changes"), "A") == ["left"]
    finally:
        process.terminate()
        await process.wait()
