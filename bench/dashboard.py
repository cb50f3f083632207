"""The dashboard: frames a second in headless Chromium while many people move."""

from __future__ import annotations

import asyncio
import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from playwright.async_api import Page, async_playwright, expect

from bench.machine import MissingError
from db.migrate import upgrade
from tests.nodes import NodeProcess

ZONES = 200
PEOPLE = 5_000
MOVES_PER_S = 200
MOVES_PER_TRANSACTION = 10
RUNS = 3
SECONDS = 8.0

# Count frames, and the longest pause between two, until asked.
COUNT = """
() => {
    window.frames_seen = 0
    window.longest_ms = 0
    let before = performance.now()
    const count = (at) => {
        window.frames_seen++
        window.longest_ms = Math.max(window.longest_ms, at - before)
        before = at
        requestAnimationFrame(count)
    }
    requestAnimationFrame(count)
}
"""
COUNTED = """
() => {
    const counted = [window.frames_seen, window.longest_ms]
    window.frames_seen = window.longest_ms = 0
    return counted
}
"""


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


async def _look(page: Page, http: httpx.AsyncClient, url: str) -> dict[str, list[float]]:
    zones = await _furnish(http)
    await page.goto(url)
    await expect(page.locator("body")).to_have_attribute("data-state", "live", timeout=60_000)
    await page.evaluate(COUNT)
    found: dict[str, list[float]] = {"quiet": [], "moving": [], "longest_ms": [], "moves": []}
    for _ in range(RUNS):
        await page.evaluate(COUNTED)
        await asyncio.sleep(SECONDS)
        frames, _longest = await page.evaluate(COUNTED)
        found["quiet"].append(frames / SECONDS)
        began_s = time.perf_counter()
        found["moves"].append(await _move(http, zones, SECONDS))
        frames, longest_ms = await page.evaluate(COUNTED)
        found["moving"].append(frames / (time.perf_counter() - began_s))
        found["longest_ms"].append(longest_ms)
    return found


async def _measure(folder: Path, chromium: str) -> dict[str, list[float]]:
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
            page = await browser.new_page(viewport={"width": 1440, "height": 900})
            try:
                return await _look(page, http, node.url)
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
    value, peer_value = statistics.median(found["moving"]), statistics.median(found["quiet"])
    return {
        "what": f"dashboard, {ZONES} zones, {PEOPLE} people,"
        f" {statistics.median(found['moves']):.0f} moves/s,"
        f" longest frame {max(found['longest_ms']):.0f} ms",
        "value": value,
        "unit": "frames per second",
        "peer": "the same page, nobody moving",
        "peer_value": peer_value,
        "ratio": value / peer_value,
        "runs": RUNS,
    }
