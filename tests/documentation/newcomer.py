"""Takes a newcomer's way, from a clone to a screen that moves: `python3 dev.py newcomer`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from playwright.async_api import async_playwright, expect

ROOT: Final = Path(__file__).parents[2]
BROWSERS: Final = ("chromium-headless-shell", "chromium", "google-chrome")
LIMIT_S: Final = 120.0
PATIENCE_S: Final = 900.0
# What the user's shell has of an environment of ours is none of a newcomer's.
FOREIGN: Final = ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME")


@asynccontextmanager
async def _running(
    folder: Path, *command: str, **settings: str
) -> AsyncIterator[asyncio.StreamReader]:
    """Run a command in a clone until the body ends; what it prints."""
    environment = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env=environment | {"NO_COLOR": "1"} | settings,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        yield process.stdout
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        await process.communicate()


async def _line_with(text: str, printed: asyncio.StreamReader) -> str:
    """Return the first line that holds a text."""
    lines = ""
    while line := (await printed.readline()).decode():
        if text in line:
            return line.strip()
        lines += line
    sys.exit(f"newcomer: {text!r} was not printed, but:\n{lines}")


async def _see_it_move(url: str, chromium: str) -> None:
    """Open the board, and wait until people have moved on it."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        page = await browser.new_page()
        await page.goto(url)
        moves = page.locator("#feed li", has_text="→")
        await expect(moves.first).to_be_visible(timeout=PATIENCE_S * 1000)
        await browser.close()


async def take_the_way(chromium: str) -> float:
    """Clone this checkout, run it, run the demo, and look; return how many seconds that took."""
    began_s = time.monotonic()

    def tell(what: str) -> None:
        sys.stdout.write(f"{time.monotonic() - began_s:6.1f} s  {what}\n")
        sys.stdout.flush()

    with tempfile.TemporaryDirectory(prefix="zonecast-newcomer-") as place:
        folder = Path(place) / "zonecast"
        async with _running(Path(place), "git", "clone", "-q", str(ROOT), "zonecast") as printed:
            complaint = (await printed.read()).decode()
        if not folder.is_dir():
            sys.exit(f"newcomer: git clone failed: {complaint}")
        tell("git clone")
        async with _running(folder, "python3", "dev.py", "run", "--port", "0") as printed:
            tell(f"python3 dev.py run: {await _line_with('serves on', printed)}")
            demo = (".venv/bin/zonecast", "demo", "--open")
            async with _running(folder, *demo, BROWSER="echo %s") as shown:
                await _line_with("dashboard is at", shown)
                url = await _line_with("http://", shown)
                tell(f"{' '.join(demo)}: {url}")
                await _see_it_move(url, chromium)
        tell("people move on the board in Chromium")
    return time.monotonic() - began_s


def main() -> int:
    """Take the way; returns the exit code: 1 where it took longer than two minutes."""
    chromium = next(filter(None, map(shutil.which, BROWSERS)), None)
    if chromium is None:
        sys.exit("newcomer: needs Chromium")
    return int(asyncio.run(take_the_way(chromium)) > LIMIT_S)


if __name__ == "__main__":
    sys.exit(main())
