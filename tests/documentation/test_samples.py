"""The samples of README and documentation, run as they stand there against a real node."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest
from playwright.async_api import Page

from tests.documentation.samples import BIN, ROOT, SAMPLES, done, started, until_printed
from tests.realtime.conftest import LiveNode, serving, settings_of_test


@pytest.mark.parametrize(
    ("name", "ready", "told"),
    [
        (
            "stream",
            ["event: snapshot", "event: snapshot"],
            ["event: changes", '"left"', '"entered"'],
        ),
        ("javascript-sdk", ["state", "Ada"], ["change", "left"]),
        ("python", ["here: ['Ada']"], ["now: {'F1-Z1': 0, 'F1-Z2': 1}"]),
        ("python-sdk", ["state ['Ada']"], ["change ['left']"]),
    ],
)
@pytest.mark.timeout(240)
async def test_a_client_shows_the_state_and_then_a_move(
    furnished: LiveNode, node: Path, name: str, ready: list[str], told: list[str]
) -> None:
    """Each as it stands in the documentation; the move is the README's, too."""
    port = furnished.port
    async with started(name, port) as process:
        await until_printed(process, *ready)
        await done("move", port)
        await until_printed(process, *told)


@pytest.mark.timeout(300)
async def test_the_command_in_a_pipe_writes_a_line_for_a_move(furnished: LiveNode) -> None:
    """Lines come at once."""
    port = furnished.port
    async with started("pipe", port) as process:
        while not furnished.node.feed.watcher_counts():  # noqa: ASYNC110 - another process comes
            await asyncio.sleep(0.05)
        await done("move", port)
        await until_printed(process, '"type":"changes"', '"left"', '"entered"')


@pytest.mark.timeout(240)
async def test_a_page_shows_the_state_and_then_a_move(furnished: LiveNode, page: Page) -> None:
    """In the console of a real browser, on the page that the README names."""
    port = furnished.port
    await page.goto(f"{furnished.url}/docs")
    async with page.expect_console_message(lambda message: "zone:F1-Z1" in message.text):
        await page.evaluate(f"() => {{ {SAMPLES['event-source'].at(port)} }}")
    async with page.expect_console_message(lambda message: "tx" in message.text):
        await done("move", port)


@pytest.mark.timeout(240)
async def test_a_page_follows_zones_by_a_feed_of_its_own(furnished: LiveNode, page: Page) -> None:
    """The dozen lines of the page on event feeds keep a map that is right."""
    await page.goto(f"{furnished.url}/docs")
    # `const` would be gone with the call.
    code = SAMPLES["sse-feed"].code.replace("const zones", "globalThis.zones")
    await page.evaluate(f"() => {{ {code} }}")
    await page.wait_for_function("zones.get('F1-Z1')?.size === 1 && zones.has('F1-Z2')")
    await done("move", furnished.port)
    await page.wait_for_function(
        "zones.get('F1-Z1').size === 0 && [...zones.get('F1-Z2').values()][0]?.name === 'Ada'"
    )


@pytest.mark.timeout(240)
async def test_an_applications_tests_run_against_a_node_of_their_own(tmp_path: Path) -> None:
    """Fixture and test as they stand on the page, under pytest."""
    file = tmp_path / "test_application.py"
    code = "\n".join(SAMPLES[name].code for name in ("testing-fixture", "testing-test"))
    await asyncio.to_thread(file.write_text, code)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
        *("-o", "asyncio_mode=auto", "--rootdir", str(tmp_path), str(file)),
        cwd=tmp_path,
        env=os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    printed, _ = await process.communicate()
    assert process.returncode == 0, printed.decode()
    assert b"1 passed" in printed


@pytest.mark.timeout(240)
async def test_a_workers_commit_is_seen_by_a_nodes_watchers(
    postgres_url: str, redis_url: str
) -> None:
    """The worker knows nothing of the node."""
    settings = settings_of_test(database_url=postgres_url, redis_url=redis_url, pool_size=5)
    async with serving(settings) as live:
        await done("make", live.port)
        await done("move", live.port)
        async with started("stream", live.port) as process:
            await until_printed(process, "event: snapshot", "event: snapshot")
            await done(
                "worker",
                0,
                ZONECAST_DATABASE_URL=postgres_url,
                ZONECAST_REDIS_URL=redis_url,
                PYTHONPATH=str(ROOT),
            )
            await until_printed(process, "event: changes", '"entered"')
