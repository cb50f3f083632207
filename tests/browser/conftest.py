"""A Chromium, and a node for its pages."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Browser, Page, async_playwright
from playwright.async_api import Error as PlaywrightError

from tests.nodes import NodeProcess, running_nodes


@pytest.fixture
async def browser(chromium: Path) -> AsyncIterator[Browser]:
    """A headless Chromium."""
    async with async_playwright() as playwright:
        try:
            browser = await playwright.chromium.launch(
                executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-quic"]
            )
        except PlaywrightError as error:
            pytest.skip(f"requires a Chromium that starts: {error.message.splitlines()[0]}")
        try:
            yield browser
        finally:
            await browser.close()


@pytest.fixture
async def page(browser: Browser) -> AsyncIterator[Page]:
    """A page that may not fail silently: what it logs as an error, or throws, fails the test."""
    failures: list[str] = []
    page = await browser.new_page()
    page.on("pageerror", lambda error: failures.append(str(error)))
    yield page
    assert failures == []


@pytest.fixture
async def service(sqlite_url: str, tmp_path: Path) -> AsyncIterator[NodeProcess]:
    """One node on SQLite."""
    async with running_nodes(tmp_path, 1, {"database_url": sqlite_url}) as (node,):
        yield node


@pytest.fixture
async def api(service: NodeProcess) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the node's HTTP API."""
    async with httpx.AsyncClient(base_url=service.url, trust_env=False, timeout=20) as client:
        yield client
