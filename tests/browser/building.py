"""A building for tests of the dashboard: zones, people, and where they are on a page."""

from __future__ import annotations

import httpx
from playwright.async_api import Locator, Page, expect

NAMES = ("Ada Lovelace", "Grace Hopper", "Alan Turing")


async def make_building(api: httpx.AsyncClient, zones: int = 3, people: int = 3) -> list[int]:
    """Make zones `Z1`, `Z2` ... with all people in the first; return the people's ids."""
    for number in range(1, zones + 1):
        zone = {"zone_id": f"Z{number}", "name": f"Hall {number}"}
        assert (await api.post("/zones", json=zone)).status_code == 201
    rows = [
        {"global_id": n + 1, "name": NAMES[n] if n < len(NAMES) else f"Person {n}", "zone_id": "Z1"}
        for n in range(people)
    ]
    made = await api.post("/users/bulk", json={"users": rows})
    assert made.status_code == 201, made.text
    return [user["id"] for user in made.json()["users"]]


async def move(api: httpx.AsyncClient, user_id: int, zone: str | None) -> None:
    """Move a person."""
    answer = await api.post(f"/users/{user_id}/transfer", json={"zone_id": zone})
    assert answer.status_code == 200, answer.text


async def zone_of(api: httpx.AsyncClient, user_id: int) -> str | None:
    """Return where the service has a person."""
    zone: str | None = (await api.get(f"/users/{user_id}")).json()["zone_id"]
    return zone


async def open_dashboard(page: Page, url: str) -> None:
    """Open the dashboard and wait until it is live."""
    await page.goto(url)
    await expect(page.locator("body")).to_have_attribute("data-state", "live")


def chip(page: Page, user_id: int, zone: str) -> Locator:
    """Return where a person is in a zone."""
    return page.locator(f'[data-zone-id="{zone}"] [data-user-id="{user_id}"]')


def tile(page: Page, zone: str) -> Locator:
    """Return a zone's tile."""
    return page.locator(f'[data-zone-id="{zone}"]')
