"""What an operator does on the dashboard, by mouse and by keyboard."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from playwright.async_api import Page, Route, expect

from tests.browser.building import chip, make_building, move, open_dashboard, tile, zone_of
from tests.realtime.conftest import LiveNode

pytestmark = pytest.mark.timeout(240)

# Note what a count becomes from now on.
NOTE_COUNTS = """
(count) => {
    window.counts = []
    const note = () => window.counts.push(count.textContent)
    new MutationObserver(note).observe(count, { childList: true })
}
"""
TWO_FRAMES = """
() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))
"""


async def test_a_person_is_dragged_to_another_zone(
    page: Page, service: LiveNode, api: httpx.AsyncClient
) -> None:
    """They are shown there before the service has answered, and stay."""
    ada, *_ = await make_building(api)
    await open_dashboard(page, service.url)
    answered = asyncio.Event()

    async def hold(route: Route) -> None:
        await answered.wait()
        await route.continue_()

    await page.route("**/transfer", hold)
    await chip(page, ada, "Z1").drag_to(tile(page, "Z2"))
    await expect(chip(page, ada, "Z2")).to_have_class("pending")
    await expect(tile(page, "Z1").locator(".count")).to_have_text("2")
    assert await zone_of(api, ada) == "Z1"
    answered.set()
    await expect(page.locator(".pending")).to_have_count(0)
    await expect(chip(page, ada, "Z2")).to_be_visible()
    assert await zone_of(api, ada) == "Z2"


async def test_a_refused_move_is_taken_back_with_the_reason(
    page: Page, service: LiveNode, api: httpx.AsyncClient
) -> None:
    """What the service says about it is what is read."""
    ada, *_ = await make_building(api)
    await open_dashboard(page, service.url)

    async def misdirect(route: Route) -> None:
        # The zone was deleted in the moment of the drop, as far as the service is concerned.
        await route.continue_(post_data=json.dumps({"zone_id": "gone"}))

    await page.route("**/transfer", misdirect)
    await chip(page, ada, "Z1").drag_to(tile(page, "Z3"))
    reason = page.locator(".toast.error")
    await expect(reason).to_contain_text("Ada Lovelace was not moved to Hall 3: ")
    await expect(reason).to_contain_text("gone")
    await expect(chip(page, ada, "Z1")).to_be_visible()
    await expect(tile(page, "Z3").locator(".count")).to_have_text("0")
    await expect(page.locator(".pending")).to_have_count(0)


async def test_a_refused_move_does_not_take_back_a_later_one(
    page: Page, service: LiveNode, api: httpx.AsyncClient
) -> None:
    """Who was dragged on meanwhile stays there."""
    ada, *_ = await make_building(api)
    await open_dashboard(page, service.url)
    refused, allowed = asyncio.Event(), asyncio.Event()

    async def hold(route: Route) -> None:
        zone = json.loads(route.request.post_data or "")["zone_id"]
        await (refused if zone == "Z2" else allowed).wait()
        await route.continue_(post_data=json.dumps({"zone_id": "gone" if zone == "Z2" else zone}))

    await page.route("**/transfer", hold)
    await chip(page, ada, "Z1").drag_to(tile(page, "Z2"))
    await chip(page, ada, "Z2").drag_to(tile(page, "Z3"))
    count = tile(page, "Z3").locator(".count")
    await expect(count).to_have_text("1")
    await count.evaluate(NOTE_COUNTS)
    refused.set()
    await expect(page.locator(".toast.error")).to_contain_text("was not moved to Hall 2: ")
    await page.evaluate(TWO_FRAMES)
    allowed.set()
    await expect(page.locator(".pending")).to_have_count(0)
    await expect(chip(page, ada, "Z3")).to_be_visible()
    assert await page.evaluate("counts") == []


async def test_all_of_it_works_without_a_mouse(
    page: Page, service: LiveNode, api: httpx.AsyncClient
) -> None:
    """From person to person by arrows, and to another zone by a dialog."""
    ada, grace, _ = await make_building(api)
    await open_dashboard(page, service.url)
    await chip(page, ada, "Z1").locator(".chip").focus()
    await page.keyboard.press("ArrowRight")
    assert await page.evaluate("() => document.activeElement.textContent") == "GHGrace Hopper"
    await page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Grace Hopper")
    await expect(dialog).to_be_visible()
    await dialog.get_by_label("Move to").focus()
    await page.keyboard.type("Hall 3")
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await expect(chip(page, grace, "Z3")).to_be_visible()
    await expect(dialog).to_have_count(0)
    # They are shown there before the service has said so.
    await expect(page.locator(".pending")).to_have_count(0)
    assert await zone_of(api, grace) == "Z3"
    await chip(page, grace, "Z3").locator(".chip").press("Enter")
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog")).to_have_count(0)


async def test_zones_and_people_are_made_renamed_and_removed(
    page: Page, service: LiveNode, api: httpx.AsyncClient
) -> None:
    """Each by its form; what is refused says why and stays open."""
    await make_building(api)
    await open_dashboard(page, service.url)
    await page.click("#add-zone")
    dialog = page.get_by_role("dialog", name="New zone")
    await dialog.get_by_label("Id").fill("Z1")
    await dialog.get_by_label("Name").fill("Attic")
    await dialog.get_by_role("button", name="Make it").click()
    await expect(dialog.locator(".problem")).to_contain_text("Z1")
    await dialog.get_by_label("Id").fill("Z9")
    await dialog.get_by_role("button", name="Make it").click()
    await expect(tile(page, "Z9").locator("h3")).to_have_text("Attic")
    await page.click("#add-person")
    dialog = page.get_by_role("dialog", name="Add person")
    await dialog.get_by_label("Name").fill("Radia Perlman")
    await dialog.get_by_label("Zone").select_option("Z9")
    await dialog.get_by_role("button", name="Add").click()
    person = tile(page, "Z9").locator("[data-user-id]")
    await expect(person).to_contain_text("Radia Perlman")
    await person.click()
    dialog = page.get_by_role("dialog", name="Radia Perlman")
    await dialog.get_by_label("Name").fill("R. Perlman")
    await dialog.get_by_role("button", name="Rename").click()
    await expect(person).to_contain_text("R. Perlman")
    await person.click()
    dialog = page.get_by_role("dialog", name="R. Perlman")
    await dialog.get_by_role("button", name="Remove this person").click()
    await dialog.get_by_role("button", name="Really remove?").click()
    await expect(person).to_have_count(0)
    assert (await api.get("/users/count")).json() == {"count": 3}


async def test_a_large_zone_opens_to_a_list_and_shows_how_it_was(
    page: Page, service: LiveNode, api: httpx.AsyncClient
) -> None:
    """Back through the retained changes, and to the present again."""
    ids = await make_building(api, people=60)
    await move(api, ids[0], "Z2")
    await move(api, ids[1], "Z2")
    await move(api, ids[0], "Z1")
    await open_dashboard(page, service.url)
    await expect(tile(page, "Z1").locator(".more")).to_have_text("and 19 more")
    await tile(page, "Z1").locator(".more").click()
    dialog = page.get_by_role("dialog", name="Hall 1")
    people = dialog.locator("[data-person]")
    await expect(people).to_have_count(59)
    await dialog.get_by_label("Find a person").fill("person 7")
    await expect(people).to_have_count(1)
    await dialog.get_by_label("Find a person").fill("")
    slider = dialog.get_by_role("slider")
    await expect(slider).to_be_enabled()
    await expect(slider).to_have_value("4")
    # 60 came at once, two left, one returned.
    for index, count in ((4, 59), (3, 58), (2, 59), (1, 60), (0, 0)):
        await slider.fill(str(index))
        await expect(people).to_have_count(count)
    await move(api, ids[2], "Z2")
    await expect(people).to_have_count(0)
    await dialog.get_by_role("button", name="Back to live").click()
    await expect(people).to_have_count(58)
