"""The `zonecast` command: each command run as a process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from tests.nodes import NodeProcess, running_nodes
from tests.realtime.command_line import PROGRAM, environment, zonecast

INTERRUPTED = 130


def test_help_names_every_command() -> None:
    """And succeeds."""
    code, printed, errors = zonecast("--help")
    assert (code, errors) == (0, "")
    for command in ("serve", "migrate", "replay", "watch", "resync", "prune", "verify"):
        assert command in printed


def test_migrate_brings_a_database_to_this_release_and_repeats(empty_sqlite_url: str) -> None:
    """The revision is told each time."""
    for _ in range(2):
        code, printed, _ = zonecast("migrate", database_url=empty_sqlite_url)
        assert code == 0
        assert printed.startswith("the database is at revision ")


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


@pytest.fixture
async def two_new_nodes(
    empty_postgres_url: str, redis_url: str, tmp_path: Path
) -> AsyncIterator[list[NodeProcess]]:
    """Two nodes started at once on a database without tables."""
    settings = {"database_url": empty_postgres_url, "redis_url": redis_url}
    async with running_nodes(tmp_path, 2, settings) as nodes:
        yield nodes


async def test_two_nodes_may_start_at_once_on_an_empty_database(
    two_new_nodes: list[NodeProcess],
) -> None:
    """One migrates, the other waits, both serve."""
    async with httpx.AsyncClient(trust_env=False) as client:
        for node in two_new_nodes:
            assert (await client.get(f"{node.url}/zones")).json() == {"zones": []}


async def start(*arguments: str, **settings: str) -> asyncio.subprocess.Process:
    """Start the command."""
    return await asyncio.create_subprocess_exec(
        *PROGRAM,
        *arguments,
        env=environment(**settings),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=2**22,
    )


async def line_of(process: asyncio.subprocess.Process) -> str:
    """Return the next line that a process prints."""
    assert process.stdout is not None
    return (await process.stdout.readline()).decode().rstrip()


async def end_of(process: asyncio.subprocess.Process) -> tuple[int, str]:
    """Wait for the end; return exit code and errors."""
    _, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, errors.decode()


async def test_serve_says_where_to_look_and_stops_on_ctrl_c(sqlite_url: str) -> None:
    """The lines can be copied; the end is quick and without a trace."""
    process = await start("serve", "--port", "0", database_url=sqlite_url, log_level="warning")
    try:
        headline = await line_of(process)
        url = headline.removeprefix("Zonecast serves on ")
        hints = "\n".join([await line_of(process) for _ in range(9)])
        for hint in (
            "no token is needed",
            "/docs",
            "ws://",
            f"curl -N '{url}/sse?zone=F1-Z1'",
            "zonecast replay",
        ):
            assert hint in hints
        await until_ready(url)
        process.send_signal(signal.SIGINT)
        code, errors = await end_of(process)
        assert code == INTERRUPTED
        assert "Traceback" not in errors
    finally:
        await kill(process)


async def until_ready(url: str) -> None:
    """Wait, bounded by the test, until a node serves."""
    async with httpx.AsyncClient(trust_env=False) as client:
        while True:
            with contextlib.suppress(httpx.TransportError):
                if (await client.get(f"{url}/readyz")).status_code == 200:
                    return
            await asyncio.sleep(0.02)


async def kill(process: asyncio.subprocess.Process) -> None:
    """End a process that a failed test left."""
    if process.returncode is None:
        process.kill()
        await process.wait()


async def test_a_port_in_use_is_told(node_process: NodeProcess, empty_sqlite_url: str) -> None:
    """With the option that helps."""
    process = await start(
        "serve", "--port", str(node_process.port), database_url=empty_sqlite_url + ".other"
    )
    code, errors = await end_of(process)
    assert code == 1
    reason = f"cannot listen on 127.0.0.1:{node_process.port}: Address already in use"
    assert f"zonecast: {reason}; --port takes another\n" in errors


async def test_watch_writes_json_lines_into_a_pipe(node_process: NodeProcess) -> None:
    """State first, then changes as they come; Ctrl-C ends it with 130 and no trace."""
    process = await start("watch", "A", "--url", node_process.url)
    try:
        kinds = [json.loads(await line_of(process)) for _ in range(3)]
        assert [kind["type"] for kind in kinds] == ["status", "status", "snapshot"]
        assert kinds[2]["users"][0]["name"] == "Ada"
        async with httpx.AsyncClient(base_url=node_process.url, trust_env=False) as client:
            await client.patch("/users/1", json={"name": "Ada L."})
        changes = json.loads(await line_of(process))
        assert changes["zones"][0]["events"][0]["user"]["name"] == "Ada L."
        process.send_signal(signal.SIGINT)
        assert await end_of(process) == (INTERRUPTED, "")
    finally:
        await kill(process)


async def test_watch_ends_silently_when_nobody_reads_its_lines(node_process: NodeProcess) -> None:
    """As in `zonecast watch A | head -1`."""
    watching = " ".join(f"'{part}'" for part in PROGRAM)
    process = await asyncio.create_subprocess_exec(
        "sh",
        "-c",
        f"{watching} watch A --url {node_process.url} | head -1",
        env=environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    printed, errors = await process.communicate()
    assert json.loads(printed)["type"] == "status"
    assert errors == b""


async def test_resync_makes_running_nodes_send_everything_anew(
    node_process: NodeProcess, sqlite_url: str
) -> None:
    """Watchers get a snapshot of another epoch within seconds."""
    watching = await start("watch", "A", "--json", "--url", node_process.url)
    try:
        first = [json.loads(await line_of(watching)) for _ in range(3)][2]
        resync = await start("resync", database_url=sqlite_url)
        assert resync.stdout is not None
        printed = (await resync.stdout.read()).decode()
        assert printed.startswith("renewed the epochs of ")
        assert (await end_of(resync))[0] == 0
        again = json.loads(await line_of(watching))
        assert again["type"] == "snapshot"
        assert again["epoch"] != first["epoch"]
        assert again["users"] == first["users"]
    finally:
        await kill(watching)


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """A terminal of 80 columns: our side and the program's."""
    ours, theirs = pty.openpty()
    yield ours, theirs
    for side in (ours, theirs):
        with contextlib.suppress(OSError):
            os.close(side)


async def test_watch_draws_a_table_in_a_terminal(
    node_process: NodeProcess, terminal: tuple[int, int]
) -> None:
    """It fits 80 columns, follows the changes, and ends on Ctrl-C."""
    ours, theirs = terminal
    process = await asyncio.create_subprocess_exec(
        *PROGRAM,
        *("watch", "A", "--url", node_process.url),
        env=environment() | {"COLUMNS": "80", "LINES": "24", "TERM": "xterm", "NO_COLOR": "1"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    screen = Terminal(ours)
    try:
        await screen.until("live")
        await screen.until("Ada")
        async with httpx.AsyncClient(base_url=node_process.url, trust_env=False) as client:
            await client.patch("/users/1", json={"name": "Grace"})
        await screen.until("Grace")
        process.send_signal(signal.SIGINT)
        assert await process.wait() == INTERRUPTED
        assert "Traceback" not in screen.shown
    finally:
        await kill(process)


class Terminal:
    """Reads what a program draws.

    Attributes:
        shown: All of it so far.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.shown = ""

    async def until(self, text: str) -> None:
        """Read until some text was drawn."""
        while text not in self.shown:
            data = await asyncio.to_thread(os.read, self._descriptor, 65_536)
            self.shown += data.decode(errors="replace")
