"""The React recipe as it stands in the documentation: bundled, in Chromium, at a real node."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import httpx
import pytest
from playwright.async_api import Page, Route, expect

from tests.conftest import REQUIRES
from tests.documentation.samples import PACKAGES, SAMPLES, done
from tests.realtime.conftest import LiveNode

pytestmark = [pytest.mark.timeout(240), pytest.mark.usefixtures("node")]

MODULES: Final = PACKAGES / "node_modules"
# What an application has around the recipe. React's strict mode begins every effect twice.
APPLICATION: Final = """\
import { StrictMode, useState } from 'react'
import { createRoot } from 'react-dom/client'
import { ZoneCard } from './ZoneCard.jsx'

function Application() {
  const [id, setId] = useState('F1-Z1')
  return (
    <>
      <button onClick={() => setId('F1-Z2')}>Workshop</button>
      <button onClick={() => setId(null)}>Nothing</button>
      {id && <ZoneCard id={id} />}
    </>
  )
}

createRoot(document.querySelector('main')).render(<StrictMode><Application /></StrictMode>)
"""
PAGE: Final = '<!doctype html><main></main><script type="module" src="/application.js"></script>'


def bundle(folder: Path, port: int) -> str:
    """Return the application as a bundler makes it of the recipe's files."""
    if not all((MODULES / name).is_dir() for name in ("react", "react-dom", "esbuild")):
        pytest.skip(f"{REQUIRES}React and esbuild: run `npm ci` in tests/clients")
    (folder / "useZones.js").write_text(SAMPLES["react-hook"].at(port))
    (folder / "ZoneCard.jsx").write_text(SAMPLES["react-component"].at(port))
    (folder / "application.jsx").write_text(APPLICATION)
    built = subprocess.run(
        [
            *(MODULES / "esbuild" / "bin" / "esbuild", "application.jsx"),
            *("--bundle", "--format=esm", "--jsx=automatic", "--log-level=warning"),
        ],
        cwd=folder,
        env=os.environ | {"NODE_PATH": str(MODULES)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (built.returncode, built.stderr) == (0, "")
    return built.stdout


@pytest.fixture
async def application(furnished: LiveNode, page: Page, tmp_path: Path) -> AsyncIterator[Page]:
    """The application on a page of the node's origin; what it throws fails the test."""
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    program = await asyncio.to_thread(bundle, tmp_path, furnished.port)

    async def answer_page(route: Route) -> None:
        await route.fulfill(body=PAGE, content_type="text/html")

    async def answer_program(route: Route) -> None:
        await route.fulfill(body=program, content_type="text/javascript")

    await page.route("**/application", answer_page)
    await page.route("**/application.js", answer_program)
    await page.goto(f"{furnished.url}/application")
    yield page
    assert failures == []


async def until_watching(live: LiveNode, channels: dict[str, int]) -> None:
    """Wait, bounded by the test, until a node has these watchers by channel, one a connection."""
    while live.node.feed.watcher_counts() != channels:  # noqa: ASYNC110 - a page lets go
        await asyncio.sleep(0.02)
    async with httpx.AsyncClient(base_url=live.url, trust_env=False) as api:
        while True:
            rows = (await api.get("/admin/connections")).json()["connections"]
            if len(rows) == sum(channels.values()):
                return
            await asyncio.sleep(0.02)


async def test_a_component_shows_a_zone_and_what_changes_in_it(
    application: Page, furnished: LiveNode
) -> None:
    """Ada is there, and is not there any more when she has moved."""
    people = application.get_by_role("region", name="Lobby").get_by_role("listitem")
    await expect(people).to_have_text(["Ada"])
    await done("move", furnished.port)
    await expect(people).to_have_count(0)


async def test_a_component_that_is_given_another_zone_watches_that(
    application: Page, furnished: LiveNode
) -> None:
    """And the one before no more."""
    await expect(application.get_by_role("region", name="Lobby")).to_be_visible()
    await done("move", furnished.port)
    await application.get_by_role("button", name="Workshop").click()
    people = application.get_by_role("region", name="Workshop").get_by_role("listitem")
    await expect(people).to_have_text(["Ada"])
    await until_watching(furnished, {"zone:F1-Z2": 1})


async def test_a_component_that_is_gone_watches_no_more(
    application: Page, furnished: LiveNode
) -> None:
    """One connection while it is shown, also in strict mode; none afterwards."""
    await expect(application.get_by_role("listitem")).to_have_text(["Ada"])
    await until_watching(furnished, {"zone:F1-Z1": 1})
    await application.get_by_role("button", name="Nothing").click()
    await expect(application.get_by_role("region")).to_have_count(0)
    await until_watching(furnished, {})
