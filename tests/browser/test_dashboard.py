"""The dashboard in Chromium: what is seen of what is written, and how true it is."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.async_api import Browser, Page, expect

from tests.browser.building import chip, make_building, move, open_dashboard, tile
from tests.clients.tcp_proxy import tcp_proxy
from tests.nodes import NodeProcess
from tests.realtime.conftest import LiveNode

pytestmark = pytest.mark.timeout(240)

AXE = Path(__file__).parents[1] / "clients" / "node_modules" / "axe-core" / "axe.min.js"
# Note whose chips are set in motion from now on.
COUNT_TRAVELS = """
() => {
    window.travels = []
    const animate = Element.prototype.animate
    Element.prototype.animate = function (...given) {
        window.travels.push(this.dataset.userId)
        return animate.apply(this, given)
    }
}
"""


@pytest.fixture(scope="module")
def axe() -> str:
    """The program that looks for what keeps people out."""
    if not AXE.exists():
        pytest.skip("requires axe-core: run `npm ci` in tests/clients")
    return AXE.read_text()


async def test_people_travel_from_tile_to_tile_once_for_each_move(
    page: Page, browser: Browser, service: LiveNode, api: httpx.AsyncClient
) -> None:
    """On two pages; who asked for less motion sees them where they are at once."""
    ada, grace, _ = await make_building(api)
    calm = await browser.new_page(reduced_motion="reduce")
    for each in (page, calm):
        await open_dashboard(each, service.url)
        await expect(chip(each, ada, "Z1")).to_have_text("ALAda Lovelace")
        await each.evaluate(COUNT_TRAVELS)
    await move(api, ada, "Z2")
    for each in (page, calm):
        await expect(chip(each, ada, "Z2")).to_be_visible()
        await expect(each.locator(f'[data-user-id="{ada}"]')).to_have_count(1)
        await expect(each.locator('[data-zone-id="Z1"] .count')).to_have_text("2")
        await expect(each.locator("#feed li").first).to_contain_text("Ada Lovelace Hall 1 → Hall 2")
    assert await page.evaluate("travels") == [str(ada)]
    assert await calm.evaluate("travels") == []
    await api.patch(f"/users/{grace}", json={"name": "Rear Admiral Hopper"})
    await expect(chip(page, grace, "Z1")).to_contain_text("Rear Admiral Hopper")
    await api.delete(f"/users/{grace}")
    await expect(page.locator(f'[data-user-id="{grace}"]')).to_have_count(0)
    await calm.close()


async def test_it_says_since_when_it_is_old_and_goes_on_from_there(
    page: Page, process: NodeProcess
) -> None:
    """The node is killed and comes back; nothing is taken anew on the way but what must be."""
    async with httpx.AsyncClient(base_url=process.url, trust_env=False, timeout=60) as api:
        ada, *_ = await make_building(api)
        await open_dashboard(page, process.url)
        await process.kill()
        await expect(page.locator("#state-text")).to_contain_text("Connecting · as of")
        await expect(chip(page, ada, "Z1")).to_be_visible()
        await process.start()
        await expect(page.locator("#state-text")).to_have_text("Live")
        await move(api, ada, "Z3")
        await expect(chip(page, ada, "Z3")).to_be_visible()
    await page.click("#state")
    await expect(page.locator("#reconnects")).to_have_text("1")
    await expect(page.locator("#delay")).to_contain_text("ms, 95 %:")
    await page.click("#check")
    await expect(page.locator("#checked")).to_contain_text("3 of 3 zones equal")


async def test_what_was_missed_is_resumed(
    page: Page, service: LiveNode, api: httpx.AsyncClient
) -> None:
    """A cut connection costs no state."""
    ada, *_ = await make_building(api)
    async with tcp_proxy(urlsplit(service.url).port or 0) as proxy:
        await open_dashboard(page, f"http://127.0.0.1:{proxy.port}")
        proxy.is_open = False
        proxy.cut()
        await expect(page.locator("#state-text")).to_contain_text("Connecting")
        await move(api, ada, "Z2")
        proxy.is_open = True
        await expect(page.locator("#state-text")).to_have_text("Live")
        await expect(chip(page, ada, "Z2")).to_be_visible()
        await expect(page.locator("#snapshots")).to_have_text("0")


async def test_zones_and_people_are_found_by_name(
    page: Page, service: LiveNode, api: httpx.AsyncClient
) -> None:
    """What doesn't fit is hidden, and comes back."""
    await make_building(api)
    await open_dashboard(page, service.url)
    await page.fill("#zone-filter", "hall 2")
    await expect(page.locator(".tile:visible")).to_have_count(1)
    await page.fill("#zone-filter", "")
    await expect(page.locator(".tile:visible")).to_have_count(3)
    await page.fill("#name-filter", "turing")
    await expect(page.locator("[data-user-id]:visible")).to_have_count(1)
    await expect(page.locator(".tile:visible")).to_have_count(1)


async def test_zones_come_and_go(page: Page, service: LiveNode, api: httpx.AsyncClient) -> None:
    """Also those that were not there when the page was opened, and people in none."""
    ada, *_ = await make_building(api)
    await open_dashboard(page, service.url)
    await api.post("/zones", json={"zone_id": "Z9", "name": "Attic"})
    await expect(page.locator('[data-zone-id="Z9"] h3')).to_have_text("Attic")
    await api.delete("/zones/Z1?move_to=Z9")
    await expect(chip(page, ada, "Z9")).to_be_visible()
    await expect(page.locator('[data-zone-id="Z1"]')).to_have_count(0)
    await move(api, ada, None)
    await expect(chip(page, ada, "")).to_be_visible()


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
async def test_everybody_can_use_it(
    browser: Browser, service: LiveNode, api: httpx.AsyncClient, axe: str, look: str
) -> None:
    """No serious finding of axe, and nothing that a narrow screen would cut off."""
    await make_building(api)
    page = await browser.new_page(
        color_scheme="dark" if look == "dark" else "light",
        viewport={"width": 360, "height": 780} if look == "phone" else None,
        # The page's own policy lets nothing foreign in, such as what is to check it.
        bypass_csp=True,
    )
    await open_dashboard(page, service.url)
    await page.click("#state")
    await page.evaluate(axe)
    await check_with_axe(page)
    widths = await page.evaluate(
        "() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert widths[0] <= widths[1]
    for opens in (".chip", ".tile .open", "#add-person"):
        await page.locator(opens).first.click()
        await expect(page.get_by_role("dialog")).to_be_visible()
        await check_with_axe(page)
        await page.keyboard.press("Escape")
    await page.close()


async def check_with_axe(page: Page) -> None:
    """Fail for what keeps people out."""
    found = await page.evaluate("() => axe.run()")
    serious = [
        (rule["id"], [node["html"] for node in rule["nodes"]])
        for rule in found["violations"]
        if rule["impact"] in {"serious", "critical"}
    ]
    assert serious == [], json.dumps(serious, indent=2)


@pytest.mark.timeout(240)
async def test_two_hundred_zones_are_a_board_too(
    page: Page, service: LiveNode, api: httpx.AsyncClient
) -> None:
    """Each with its count and the latest who came."""
    ids = await make_building(api, zones=200, people=60)
    await open_dashboard(page, service.url)
    await expect(page.locator(".tile")).to_have_count(200)
    await expect(page.locator("#zone-count")).to_have_text("200")
    first = page.locator('[data-zone-id="Z1"]')
    await expect(first.locator(".count")).to_have_text("60")
    await expect(first.locator(".more")).to_have_text("and 54 more")
    await move(api, ids[0], "Z1")
    await move(api, ids[0], "Z200")
    await move(api, ids[0], "Z1")
    await expect(chip(page, ids[0], "Z1")).to_be_visible()


async def test_of_many_zones_those_out_of_sight_are_not_painted(
    page: Page, service: LiveNode, api: httpx.AsyncClient
) -> None:
    """Until they are scrolled to; those in sight cut nobody off who travels out of them."""
    ada, *_ = await make_building(api, zones=60)
    await open_dashboard(page, service.url)
    painted = "zone => getComputedStyle(zone).contentVisibility"
    await expect(tile(page, "Z60")).to_have_css("content-visibility", "auto")
    assert await tile(page, "Z1").evaluate(painted) == "visible"
    await move(api, ada, "Z60")
    await expect(chip(page, ada, "Z60")).to_be_attached()
    await tile(page, "Z60").scroll_into_view_if_needed()
    await expect(tile(page, "Z60")).to_have_css("content-visibility", "visible")
    await expect(tile(page, "Z1")).to_have_css("content-visibility", "auto")
    await expect(chip(page, ada, "Z60")).to_have_text("ALAda Lovelace")


@pytest.mark.parametrize("width", [1440, 390])
async def test_of_many_zones_a_full_one_stays_within_its_tile(
    page: Page, service: LiveNode, api: httpx.AsyncClient, width: int
) -> None:
    """With a name of two lines; on a phone, too."""
    await make_building(api, zones=60, people=30)
    await api.patch("/zones/Z1", json={"name": "Open space north, floor 1"})
    await page.set_viewport_size({"width": width, "height": 844})
    await open_dashboard(page, service.url)
    await expect(tile(page, "Z1").locator(".more")).to_have_text("and 24 more")
    low = "element => element.getBoundingClientRect().bottom"
    more_px = await tile(page, "Z1").locator(".more").evaluate(low)
    assert more_px <= await tile(page, "Z1").evaluate(low)
    assert await tile(page, "Z1").locator("h3").evaluate("h => h.scrollHeight <= h.clientHeight")
