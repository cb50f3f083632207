"""A node as the README furnishes it, and a page of a browser."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Page

from tests.browsers import running_browser
from tests.documentation.samples import done
from tests.realtime.conftest import LiveNode, serving, settings_of_test


@pytest.fixture
async def furnished(sqlite_url: str) -> AsyncIterator[LiveNode]:
    """A node with what the README makes."""
    async with serving(settings_of_test(database_url=sqlite_url)) as live:
        printed = await done("make", live.port)
        assert '"name":"Ada"' in printed.replace(": ", ":")
        yield live


@pytest.fixture
async def page(chromium: Path) -> AsyncIterator[Page]:
    """A page of a headless Chromium."""
    async with running_browser(chromium) as browser:
        yield await browser.new_page()
