"""A headless Chromium for tests of what pages see."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
from playwright.async_api import Browser, async_playwright
from playwright.async_api import Error as PlaywrightError

ARGUMENTS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@asynccontextmanager
async def running_browser(chromium: Path) -> AsyncIterator[Browser]:
    """Run a Chromium until the body ends; where it doesn't start, the test is skipped."""
    async with async_playwright() as playwright:
        try:
            browser = await playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        except PlaywrightError as error:
            pytest.skip(f"requires a Chromium that starts: {error.message.splitlines()[0]}")
        try:
            yield browser
        finally:
            await browser.close()
