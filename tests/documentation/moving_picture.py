"""Records the README's moving picture: `python3 dev.py docs picture`."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import sys
import tempfile
import time
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from PIL import Image
from playwright.async_api import Page, async_playwright
from rich.progress import track

from tests.documentation.pages import DOCS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PICTURE: Final = DOCS / "pictures" / "dashboard.webp"
FRAMES: Final = 70
FRAME_PAUSE_S: Final = 0.04
FRAME_MIN_MS: Final = 60
FRAME_MAX_MS: Final = 200
"""A frame that took longer to take is shown no longer: the machine was busy, not the page."""
WIDTH, HEIGHT = 1000, 620
QUALITY: Final = 55
WARM_UP_S: Final = 6
DEMO: Final = ["--people", "60", "--floors", "1", "--speed", "150", "--begin", "08:05"]
BROWSERS: Final = ("chromium-headless-shell", "chromium", "google-chrome")


@asynccontextmanager
async def _demo() -> AsyncIterator[str]:
    """Run `zonecast demo`; its dashboard's address."""
    command = Path(sys.executable).with_name("zonecast")
    with tempfile.TemporaryDirectory() as folder:
        process = await asyncio.create_subprocess_exec(
            command,
            "demo",
            *DEMO,
            cwd=folder,
            env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200"},
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        try:
            async for line in process.stdout:
                if b"dashboard is at" in line:
                    yield line.decode().split()[-1]
                    break
        finally:
            process.terminate()
            await process.communicate()


async def _frames(page: Page) -> tuple[list[Image.Image], list[int]]:
    """Take pictures of the page, and how long each is to be shown, in milliseconds."""
    pictures, durations_ms = [], []
    for _ in track(range(FRAMES), "recording"):
        began_s = time.monotonic()
        data = await page.screenshot(type="png")
        pictures.append(Image.open(io.BytesIO(data)).convert("RGB"))
        await asyncio.sleep(FRAME_PAUSE_S)
        took_ms = round((time.monotonic() - began_s) * 1000)
        durations_ms.append(min(FRAME_MAX_MS, max(FRAME_MIN_MS, took_ms)))
    return pictures, durations_ms


async def record() -> None:
    """Record the dashboard of the demo into `PICTURE`."""
    browser_path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser_path is None:
        sys.exit("dev.py docs picture: needs Chromium")
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(_demo())
        playwright = await stack.enter_async_context(async_playwright())
        browser = await playwright.chromium.launch(executable_path=browser_path)
        page = await browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        await page.goto(url)
        await asyncio.sleep(WARM_UP_S)
        pictures, durations_ms = await _frames(page)
        await browser.close()
    first, *others = pictures
    first.save(
        PICTURE,
        save_all=True,
        append_images=others,
        duration=durations_ms,
        loop=0,
        quality=QUALITY,
        method=4,
    )


if __name__ == "__main__":
    asyncio.run(record())
