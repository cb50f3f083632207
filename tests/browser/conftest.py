"""A Chromium, and a node for its pages."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Browser, Page, expect

from tests.browsers import running_browser
from tests.nodes import NodeProcess, running_nodes
from tests.realtime.conftest import LiveNode, serving, settings_of_test

# A busy machine draws late.
expect.set_options(timeout=30_000)


@pytest.fixture(scope="session")
async def browser(chromium: Path) -> AsyncIterator[Browser]:
    """A headless Chromium."""
    async with running_browser(chromium) as browser:
        yield browser


@pytest.fixture
async def page(browser: Browser) -> AsyncIterator[Page]:
    """A page that may not fail silently: what it throws fails the test."""
    failures: list[str] = []
    page = await browser.new_page()
    page.on("pageerror", lambda error: failures.append(str(error)))
    yield page
    await page.close()
    assert failures == []


@pytest.fixture
async def service(sqlite_url: str) -> AsyncIterator[LiveNode]:
    """One node on SQLite, in the test's loop: soon there."""
    async with serving(settings_of_test(database_url=sqlite_url)) as live:
        yield live


@pytest.fixture
async def api(service: LiveNode) -> AsyncIterator[httpx.AsyncClient]:
    """A client of its HTTP API."""
    async with httpx.AsyncClient(base_url=service.url, trust_env=False, timeout=60) as client:
        yield client


@pytest.fixture
async def process(sqlite_url: str, tmp_path: Path) -> AsyncIterator[NodeProcess]:
    """One node as a process, to be killed."""
    async with running_nodes(tmp_path, 1, {"database_url": sqlite_url}) as (node,):
        yield node
