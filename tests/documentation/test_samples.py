"""The samples of README and documentation, run as they stand there against a real node."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, expect

from db.models import User
from tests.documentation.samples import (
    BIN,
    ROOT,
    SAMPLES,
    done,
    started,
    unmarked,
    until_printed,
)
from tests.realtime.conftest import LiveNode, serving, settings_of_test


def test_every_sample_is_run_or_says_why_not() -> None:
    """A mark before the code, and a test that takes it by its name."""
    assert unmarked() == []
    tests = "".join(file.read_text() for file in Path(__file__).parent.glob("[ct]*t*.py"))
    assert [name for name in SAMPLES if not re.search(f"[\"']{name}[\"']", tests)] == []


@pytest.mark.parametrize(
    "name", ["nginx-nodes", "nginx-upgrade", "nginx-headers", "nginx-streams", "nginx-inside"]
)
def test_what_a_page_has_of_nginx_is_in_the_file_that_tests_run(name: str) -> None:
    """See `tests/balancers.py`; the file indents it more."""
    file = (ROOT / "docs" / "operations" / "nginx.conf").read_text()
    lines = [line.strip() for line in SAMPLES[name].code.splitlines()]
    assert "\n".join(lines) in "\n".join(line.strip() for line in file.splitlines())


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
    # Not `/docs`, whose policy keeps a page from evaluating what is waited for.
    await page.goto(f"{furnished.url}/healthz")
    # `const` would be gone with the call.
    code = SAMPLES["sse-feed"].code.replace("const zones", "globalThis.zones")
    await page.evaluate(f"() => {{ {code} }}")
    await page.wait_for_function("zones.get('F1-Z1')?.size === 1 && zones.has('F1-Z2')")
    await done("move", furnished.port)
    await page.wait_for_function(
        "zones.get('F1-Z1').size === 0 && [...zones.get('F1-Z2').values()][0]?.name === 'Ada'"
    )


@pytest.mark.timeout(240)
async def test_a_page_with_the_module_shows_a_move(furnished: LiveNode, page: Page) -> None:
    """Loaded from the node, as the README has it."""
    await page.goto(f"{furnished.url}/healthz")
    code = SAMPLES["module"].at(furnished.port)
    async with page.expect_console_message(lambda told: told.text.endswith("Map(1)")):
        await page.add_script_tag(content=code, type="module")
    async with page.expect_console_message(lambda told: told.text.endswith("Map(0)")):
        await done("move", furnished.port)


@pytest.mark.timeout(240)
async def test_the_quick_start_of_the_site_shows_a_move(sqlite_url: str) -> None:
    """From an empty node on."""
    async with (
        serving(settings_of_test(database_url=sqlite_url)) as live,
        started("start", live.port) as process,
    ):
        await until_printed(process, "event: snapshot", "event: snapshot")
        await done("start-move", live.port)
        await until_printed(process, "event: changes", '"left"', '"entered"')


@pytest.mark.timeout(240)
async def test_a_feed_from_a_position_of_another_history_begins_anew(furnished: LiveNode) -> None:
    """The position is the page's."""
    async with started("feed-since", furnished.port) as process:
        await until_printed(process, "event: snapshot", "Ada")


@pytest.mark.timeout(240)
async def test_the_demo_opens_a_dashboard_with_people_who_move(page: Page) -> None:
    """In the browser that is the user's; here it is told which."""
    async with started("demo", 0, BROWSER="echo %s") as process:
        assert process.stdout is not None
        opened = ""
        while not opened.startswith("http://"):
            opened = (await process.stdout.readline()).decode()
            assert opened, "no dashboard was opened"
        await page.goto(opened.strip())
        await expect(page.locator("#feed li").nth(3)).to_be_visible(timeout=60_000)


@pytest.mark.timeout(240)
async def test_what_is_written_in_a_transaction_of_ones_own_is_told(furnished: LiveNode) -> None:
    """By a function that knows nothing of watchers."""
    names: dict[str, Any] = {}
    exec(SAMPLES["own-transaction"].code, names)  # noqa: S102 - what the page has
    async with started("stream", furnished.port) as process:
        await until_printed(process, "event: snapshot", "event: snapshot")
        async with furnished.node.database.get_db() as db:
            await names["badge_in"](db, await db.get_one(User, 1), "F1-Z2")
        await until_printed(process, "event: changes", '"left"', '"entered"')


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
