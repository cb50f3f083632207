"""The dashboard: frames a second in headless Chromium while many move, by its own tracing."""

from __future__ import annotations

import asyncio
import random
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from playwright.async_api import Browser, async_playwright, expect

from bench import browser_trace
from bench.browser_trace import PageTrace
from bench.machine import MissingError
from db.migrate import upgrade
from tests.nodes import NodeProcess

ZONES = 200
PEOPLE = 5_000
MOVES_PER_S = 200
MOVES_PER_TRANSACTION = 10
RUNS = 3
SECONDS = 8.0

# A dot that is elsewhere in each frame, so that one that isn't drawn is one that was due.
WANT_FRAMES = """
() => {
    const dot = document.body.appendChild(document.createElement('div'))
    Object.assign(dot.style, {
        position: 'fixed', bottom: 0, width: '2px', height: '2px', background: 'red',
        willChange: 'transform',
    })
    let frames = 0
    const want = () => {
        dot.style.transform = `translateX(${++frames % 60}px)`
        requestAnimationFrame(want)
    }
    want()
}
"""


@dataclass
class Watched:
    """What was seen of a page.

    Attributes:
        moves_per_s: How many people moved while it was looked at; 0: nobody.
        seconds: How long it was looked at.
        trace: What its browser did.
    """

    moves_per_s: float
    seconds: float
    trace: PageTrace

    @property
    def frames_per_s(self) -> float:
        """Frames drawn in a second."""
        return self.trace.drawn / self.seconds


async def _furnish(http: httpx.AsyncClient) -> list[str]:
    zones = [f"Z{number}" for number in range(ZONES)]
    for zone_id in zones:
        (await http.post("/zones", json={"zone_id": zone_id, "name": zone_id})).raise_for_status()
    for begin in range(0, PEOPLE, 1_000):
        users = [
            {"global_id": n + 1, "name": f"Person {n}", "zone_id": zones[n % ZONES]}
            for n in range(begin, begin + 1_000)
        ]
        (await http.post("/users/bulk", json={"users": users})).raise_for_status()
    return zones


async def _move(http: httpx.AsyncClient, zones: list[str], seconds: float) -> float:
    """Move people evenly; return how many moves a second there were."""
    began_s = time.perf_counter()
    moves = 0
    while (passed_s := time.perf_counter() - began_s) < seconds:
        rows = [
            {"global_id": person + 1, "zone_id": random.choice(zones)}  # noqa: S311 - no secret.
            for person in random.sample(range(PEOPLE), MOVES_PER_TRANSACTION)
        ]
        (await http.post("/transfers", json={"transfers": rows})).raise_for_status()
        moves += MOVES_PER_TRANSACTION
        await asyncio.sleep(max(0, moves / MOVES_PER_S - passed_s))
    return moves / (time.perf_counter() - began_s)


async def _look(browser: Browser, http: httpx.AsyncClient, url: str) -> list[Watched]:
    """Look at the page in turn with nobody moving and with many."""
    zones = await _furnish(http)
    page = await browser.new_page(viewport={"width": 1440, "height": 900})
    await page.goto(url)
    await expect(page.locator("body")).to_have_attribute("data-state", "live", timeout=60_000)
    await page.evaluate(WANT_FRAMES)
    found = []
    for is_moving in [False, True] * RUNS:
        await browser_trace.begin(browser, page)
        began_s = time.perf_counter()
        moves_per_s = 0.0
        if is_moving:
            moves_per_s = await _move(http, zones, SECONDS)
        else:
            await asyncio.sleep(SECONDS)
        seconds = time.perf_counter() - began_s
        found.append(Watched(moves_per_s, seconds, await browser_trace.end(browser)))
    return found


async def _measure(folder: Path, chromium: str) -> list[Watched]:
    url = f"sqlite+aiosqlite:///{folder / 'bench.db'}"
    await upgrade(url)
    node = NodeProcess(folder, {"database_url": url})
    await node.start()
    try:
        async with (
            async_playwright() as playwright,
            httpx.AsyncClient(base_url=node.url, trust_env=False, timeout=60) as http,
        ):
            arguments = ["--no-sandbox", "--disable-gpu"]
            browser = await playwright.chromium.launch(executable_path=chromium, args=arguments)
            try:
                return await _look(browser, http, node.url)
            finally:
                await browser.close()
    finally:
        await node.stop()


def dashboard() -> dict[str, Any]:
    """Measure frames a second with people moving, beside the same page with nobody moving."""
    chromium = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    if chromium is None:
        raise MissingError("Chromium: install chromium-headless-shell")
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(_measure(Path(folder), chromium))
    moving = [watched for watched in found if watched.moves_per_s]
    quiet = [watched for watched in found if not watched.moves_per_s]
    value, peer_value = (
        statistics.median(watched.frames_per_s for watched in each) for each in (moving, quiet)
    )
    return {
        "what": f"dashboard, {ZONES} zones, {PEOPLE} people,"
        f" {statistics.median(watched.moves_per_s for watched in moving):.0f} moves/s",
        "value": value,
        "unit": "frames per second",
        "peer": "the same page, nobody moving",
        "peer_value": peer_value,
        "ratio": value / peer_value,
        "runs": RUNS,
        "more": _more(moving),
    }


def _more(moving: list[Watched]) -> dict[str, float]:
    """Return what the traces tell besides, of the median run."""
    of = sorted(moving, key=lambda watched: watched.frames_per_s)[len(moving) // 2]
    trace = of.trace
    return {
        "dropped frames/s": trace.dropped / of.seconds,
        "long tasks/s": trace.long_tasks / of.seconds,
        "longest task ms": trace.longest_task_ms,
        "main thread %": trace.busy_ms / of.seconds / 10,
        **{f"of it {kind} %": 100 * share for kind, share in trace.shares.items()},
    }
