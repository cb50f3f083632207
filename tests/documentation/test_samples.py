"""The samples of README and documentation, run as they stand there against a real node."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import Page

from tests.browsers import running_browser
from tests.documentation.samples import ROOT, samples
from tests.realtime.conftest import LiveNode, serving, settings_of_test

SAMPLES = samples()
BIN = Path(sys.executable).parent
RUN = {
    "bash": ["bash", "-ec"],
    "sh": ["bash", "-ec"],
    "python": [sys.executable, "-u", "-c"],
}


def port_of(live: LiveNode) -> int:
    """Return where a node listens."""
    return int(live.url.rpartition(":")[2])


@asynccontextmanager
async def started(
    name: str, port: int, **settings: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a sample until the body ends."""
    sample = SAMPLES[name]
    if sample.language == "js":
        # Beside the packages that `npm install` would bring.
        command = ["node", "--input-type=module", "-e"]
        folder = ROOT / "tests" / "clients"
    else:
        command, folder = RUN[sample.language], ROOT
    process = await asyncio.create_subprocess_exec(
        *command,
        sample.at(port),
        cwd=folder,
        env=os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "NO_COLOR": "1"} | settings,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        # A pipe is several processes.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()


async def until_printed(process: Process, *texts: str) -> None:
    """Read what a sample prints until it has printed these, in this order."""
    assert process.stdout is not None
    printed = ""
    for text in texts:
        while text not in printed:
            line = (await process.stdout.readline()).decode()
            assert line, f"{text!r} was not printed, but: {printed}"
            printed += line
        printed = printed.partition(text)[2]


async def done(name: str, port: int, **settings: str) -> str:
    """Run a sample to its end; return what it printed."""
    async with started(name, port, **settings) as process:
        printed, _ = await process.communicate()
        assert process.returncode == 0, printed.decode()
        return printed.decode()


@pytest.fixture
async def furnished(sqlite_url: str) -> AsyncIterator[LiveNode]:
    """A node with what the README makes."""
    async with serving(settings_of_test(database_url=sqlite_url)) as live:
        printed = await done("make", port_of(live))
        assert '"name":"Ada"' in printed.replace(": ", ":")
        yield live


@pytest.fixture
async def page(chromium: Path) -> AsyncIterator[Page]:
    """A page of a headless Chromium."""
    async with running_browser(chromium) as browser:
        yield await browser.new_page()


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
    port = port_of(furnished)
    async with started(name, port) as process:
        await until_printed(process, *ready)
        await done("move", port)
        await until_printed(process, *told)


@pytest.mark.timeout(300)
async def test_the_command_in_a_pipe_writes_a_line_for_a_move(furnished: LiveNode) -> None:
    """Lines come at once."""
    port = port_of(furnished)
    async with started("pipe", port) as process:
        while not furnished.node.feed.watcher_counts():  # noqa: ASYNC110 - another process comes
            await asyncio.sleep(0.05)
        await done("move", port)
        await until_printed(process, '"type":"changes"', '"left"', '"entered"')


@pytest.mark.timeout(240)
async def test_a_page_shows_the_state_and_then_a_move(furnished: LiveNode, page: Page) -> None:
    """In the console of a real browser, on the page that the README names."""
    port = port_of(furnished)
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
    await done("move", port_of(furnished))
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
        await done("make", port_of(live))
        await done("move", port_of(live))
        async with started("stream", port_of(live)) as process:
            await until_printed(process, "event: snapshot", "event: snapshot")
            await done(
                "worker",
                0,
                ZONECAST_DATABASE_URL=postgres_url,
                ZONECAST_REDIS_URL=redis_url,
                PYTHONPATH=str(ROOT),
            )
            await until_printed(process, "event: changes", '"entered"')
