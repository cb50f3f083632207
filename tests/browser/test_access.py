"""Signing in on the dashboard, where a node asks for tokens."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import pytest
from playwright.async_api import Page, expect

from tests.browser.building import chip, make_building, move, tile
from tests.realtime.auth.minter import Minter
from tests.realtime.conftest import LiveNode, serving, settings_of_test

pytestmark = pytest.mark.timeout(240)

EVERYTHING = {"zones": ["*"], "scope": "read write admin"}


@dataclass
class Guarded:
    """A node that asks for tokens, and a building in it.

    Attributes:
        live: The node.
        minter: Makes tokens for it.
        api: A client that may do everything.
        ada: Somebody's id.
    """

    live: LiveNode
    minter: Minter
    api: httpx.AsyncClient
    ada: int


@pytest.fixture
async def guarded(sqlite_url: str) -> AsyncIterator[Guarded]:
    """A node that asks for tokens."""
    minter = Minter()
    settings = settings_of_test(database_url=sqlite_url, token_grace_s=0.5, **minter.settings())
    async with (
        serving(settings) as live,
        httpx.AsyncClient(
            base_url=live.url,
            headers=minter.header(**EVERYTHING, sub="root"),
            trust_env=False,
            timeout=60,
        ) as api,
    ):
        ada, *_ = await make_building(api)
        yield Guarded(live, minter, api, ada)


async def sign_in(page: Page, text: str) -> None:
    """Paste a token, or a link."""
    dialog = page.get_by_role("dialog", name="Sign in")
    await dialog.get_by_label("Token").fill(text)
    await dialog.get_by_role("button", name="Sign in").click()


async def test_a_token_lets_in_and_is_kept_until_signed_out(page: Page, guarded: Guarded) -> None:
    """Not where a script could read it; a bad one says why."""
    await page.goto(guarded.live.url)
    await sign_in(page, "nonsense")
    await expect(page.locator(".sign-in .problem")).not_to_be_empty()
    await expect(page.locator("[data-user-id]")).to_have_count(0)
    await sign_in(page, guarded.minter.token(**EVERYTHING))
    await expect(chip(page, guarded.ada, "Z1")).to_be_visible()
    assert await page.evaluate("() => document.cookie") == ""
    await page.reload()
    await expect(chip(page, guarded.ada, "Z1")).to_be_visible()
    await page.click("#add-zone")
    await page.get_by_role("dialog").get_by_label("Id").fill("Z9")
    await page.get_by_role("dialog").get_by_label("Name").fill("Attic")
    await page.get_by_role("button", name="Make it").click()
    await expect(tile(page, "Z9")).to_be_visible()
    await page.click("#sign-out")
    await expect(page.get_by_role("dialog", name="Sign in")).to_be_visible()
    await expect(page.locator("[data-user-id]")).to_have_count(0)


async def test_a_token_for_some_zones_shows_those(page: Page, guarded: Guarded) -> None:
    """And offers nothing that it doesn't allow."""
    await page.goto(guarded.live.url)
    await sign_in(page, guarded.minter.token(zones=["Z1", "Z2"], scope="read"))
    await expect(chip(page, guarded.ada, "Z1")).to_be_visible()
    await expect(page.locator(".tile")).to_have_count(2)
    await expect(page.locator("#add-person")).to_be_hidden()
    await move(guarded.api, guarded.ada, "Z2")
    await expect(chip(page, guarded.ada, "Z2")).to_be_visible()
    await move(guarded.api, guarded.ada, "Z3")
    await expect(page.locator(f'[data-user-id="{guarded.ada}"]')).to_have_count(0)


async def test_a_zone_that_is_taken_back_is_shown_no_more(page: Page, guarded: Guarded) -> None:
    """Who saw all goes on with the others, also with those made later."""
    await page.goto(guarded.live.url)
    issued_s = int(time.time()) - 60
    await sign_in(page, guarded.minter.token(**EVERYTHING, sub="ada", iat=issued_s))
    await expect(chip(page, guarded.ada, "Z1")).to_be_visible()
    revoked = await guarded.api.post("/admin/revoke", json={"sub": "ada", "zones": ["Z1"]})
    assert revoked.status_code == 204
    await expect(tile(page, "Z1")).to_have_count(0)
    await guarded.api.post("/zones", json={"zone_id": "Z9", "name": "Attic"})
    await expect(tile(page, "Z9")).to_be_visible()
    await move(guarded.api, guarded.ada, "Z2")
    await expect(chip(page, guarded.ada, "Z2")).to_be_visible()
    await expect(page.locator("#state-text")).to_have_text("Live")


async def test_a_token_that_ends_is_asked_for_again(page: Page, guarded: Guarded) -> None:
    """What was shown by it is not taken for live, and the next one goes on."""
    await page.goto(guarded.live.url)
    await sign_in(page, guarded.minter.token(**EVERYTHING, exp=int(time.time()) + 4))
    await expect(chip(page, guarded.ada, "Z1")).to_be_visible()
    dialog = page.get_by_role("dialog", name="Sign in")
    await expect(dialog).to_be_visible()
    await expect(page.locator("#state-text")).to_contain_text("Not connected · as of")
    await sign_in(page, guarded.minter.token(**EVERYTHING))
    await expect(page.locator("#state-text")).to_have_text("Live")
    await expect(chip(page, guarded.ada, "Z1")).to_be_visible()


async def test_a_ticket_link_lets_look_once(page: Page, guarded: Guarded) -> None:
    """The ticket leaves the address at once, and lets in nobody else."""
    ticket = (await guarded.api.post("/tickets")).json()["ticket"]
    link = f"{guarded.live.url}/#ticket={ticket}"
    await page.goto(link)
    await expect(chip(page, guarded.ada, "Z1")).to_be_visible()
    assert ticket not in page.url
    await expect(page.locator("#add-zone")).to_be_hidden()
    await page.goto("about:blank")
    await page.goto(link)
    await expect(page.get_by_role("dialog", name="Sign in")).to_be_visible()
    await expect(page.locator("[data-user-id]")).to_have_count(0)
