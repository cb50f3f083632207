"""`zonecast verify` and its remedy, run as processes against a real node."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from tests.nodes import NodeProcess, running_nodes
from tests.processes import free_port
from tests.realtime.command_line import PROGRAM, environment, zonecast
from tests.realtime.plain_client import plain_client

EQUAL, DIFFERENT, UNANSWERED = 0, 1, 2


@pytest.fixture
async def node_process(sqlite_url: str, tmp_path: Path) -> AsyncIterator[NodeProcess]:
    """An embedded node with zone A and a user in it."""
    async with running_nodes(tmp_path, 1, {"database_url": sqlite_url}) as (node,):
        async with httpx.AsyncClient(base_url=node.url, trust_env=False) as client:
            zone = {"zone_id": "A", "name": "Hall"}
            assert (await client.post("/zones", json=zone)).status_code == 201
            user = {"global_id": 1, "name": "Ada", "zone_id": "A"}
            assert (await client.post("/users", json=user)).status_code == 201
        yield node


async def test_a_divergence_is_told_and_its_remedy_mends_it(
    node_process: NodeProcess, sqlite_url: str
) -> None:
    """Exit code 1 and JSON that says what; after `zonecast resync` 0."""

    async def verify() -> tuple[int, str, str]:
        return await asyncio.to_thread(zonecast, "verify", "--url", node_process.url, "--json")

    ws_url = f"ws://127.0.0.1:{node_process.port}/connection/websocket"
    async with plain_client(ws_url, "zone:A"):
        engine = create_async_engine(sqlite_url)
        async with engine.begin() as connection:
            await connection.execute(text("UPDATE users SET name = 'Eve'"))
        await engine.dispose()
        code, printed, errors = await verify()
        assert (code, errors) == (DIFFERENT, "")
        report = json.loads(printed)
        assert report["remedy"] == "zonecast resync"
        (divergence,) = report["different"]
        assert (divergence["zone_id"], divergence["check"]) == ("A", "contents")
        assert [side["name"] for side in divergence["users"][0]["between"]] == ["Ada", "Eve"]
        mended, _, _ = await asyncio.to_thread(zonecast, "resync", database_url=sqlite_url)
        assert mended == 0
        code, printed, _ = await verify()
    assert code == EQUAL
    assert json.loads(printed) == {
        "zones": 1,
        "equal": 1,
        "gone": [],
        "different": [],
        "unchecked": {},
        "remedy": None,
    }


async def test_a_terminal_shows_progress(node_process: NodeProcess) -> None:
    """On standard error, so that the result can be piped."""
    terminal, end = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *PROGRAM,
        "verify",
        "--url",
        node_process.url,
        env=environment() | {"TERM": "xterm", "COLUMNS": "80"},
        stdout=asyncio.subprocess.PIPE,
        stderr=end,
    )
    os.close(end)
    async with asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(asyncio.to_thread(all_of, terminal))
        printed, _ = await process.communicate()
    shown = reading.result()
    assert (process.returncode, printed) == (EQUAL, b"1 zone: 1 equal\n")
    assert b"1/1" in shown


def all_of(terminal: int) -> bytes:
    """Read what is shown on a terminal until its other end is closed, and close it."""
    shown = b""
    with contextlib.suppress(OSError):
        while chunk := os.read(terminal, 65_536):
            shown += chunk
    os.close(terminal)
    return shown


def test_nobody_there_is_one_line() -> None:
    """Exit code 2, no trace, and nothing that looks like a result."""
    url = f"http://127.0.0.1:{free_port()}"
    code, printed, errors = zonecast("verify", "--url", url, "--json")
    assert (code, printed) == (UNANSWERED, "")
    assert errors.startswith(f"zonecast: cannot watch {url}: ")
    assert errors.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--zone", "a/b"], ["--url", "ftp://x"]])
def test_bad_options_are_usage_errors(arguments: list[str]) -> None:
    """One line, exit code 2, nobody asked."""
    code, printed, errors = zonecast("verify", *arguments)
    assert (code, printed) == (UNANSWERED, "")
    assert errors.startswith("zonecast: Invalid value for --")
    assert errors.count("\n") == 1
