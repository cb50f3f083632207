"""Import and export against a live node: whole, interrupted and gone on with, refused by line."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from realtime import user_import
from realtime.service_api import ServiceApi, ServiceError
from realtime.user_file import RefusedLine
from realtime.user_import import ImportReport, UserImport
from tests.clients.tcp_proxy import TcpProxy, tcp_proxy
from tests.realtime.command_line import PROGRAM, environment
from tests.realtime.conftest import LiveNode

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes lines below the header."""

    def write(*lines: str) -> Path:
        path = tmp_path / "users.csv"
        path.write_text("\n".join(["global_id,name,zone_id", *lines]) + "\n")
        return path

    return write


@pytest.fixture
async def http(live_node: LiveNode) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the node, which has a zone A."""
    # Without TLS: to read the certificates would block the loop.
    async with httpx.AsyncClient(base_url=live_node.url, verify=False) as client:  # noqa: S501
        await client.post("/zones", json={"zone_id": "A", "name": "A"})
        yield client


async def names(http: httpx.AsyncClient) -> list[str]:
    """Return who is there."""
    users: list[dict[str, Any]] = (await http.get("/users?limit=1000")).json()["users"]
    return [user["name"] for user in users]


class Run:
    """An import that is watched.

    Attributes:
        refused: The lines that it refused.
        parts: How far it was after each batch.
    """

    def __init__(self) -> None:
        self.refused: list[tuple[int, str]] = []
        self.parts: list[float] = []

    def refuse(self, line: RefusedLine) -> None:
        """Note a refused line."""
        self.refused.append((line.line, line.reason))

    def progressed(self, report: ImportReport, part: float) -> None:
        """Note how far it is."""
        self.parts.append(part)

    async def run(self, path: Path, url: str, *, makes_zones: bool = False) -> ImportReport:
        """Import a file."""
        async with ServiceApi(url, 1) as api:
            importing = UserImport(
                path,
                url,
                api,
                refuse=self.refuse,
                progressed=self.progressed,
                makes_zones=makes_zones,
            )
            return await importing.run()


async def beside(path: Path) -> list[str]:
    """Return the files that stand beside a file with its name, and itself."""
    return await asyncio.to_thread(lambda: sorted(p.name for p in path.parent.glob("users.csv*")))


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of 100 lines, so that few users make several."""
    monkeypatch.setattr(user_import, "BATCH_MAX_ROWS", 100)


async def written(write: Write, *lines: str) -> Path:
    """Write a file beside the loop."""
    return await asyncio.to_thread(write, *lines)


async def test_all_users_are_made_and_a_second_import_changes_nothing(
    live_node: LiveNode, http: httpx.AsyncClient, write: Write
) -> None:
    """The mark beside the file is gone in the end."""
    path = await written(write, "1,Ada,A", "2,Eve,")
    run = Run()
    report = await run.run(path, live_node.url)
    assert (report.made, report.unchanged, run.refused) == (2, 0, [])
    assert run.parts[-1] == 1
    assert await names(http) == ["Ada", "Eve"]
    again = await Run().run(path, live_node.url)
    assert (again.made, again.unchanged, again.refused) == (0, 2, 0)
    assert await beside(path) == ["users.csv"]


async def test_lines_that_are_refused_are_told_one_by_one_and_the_others_made(
    live_node: LiveNode, http: httpx.AsyncClient, write: Write
) -> None:
    """Unknown zones, ids that are taken here or there, and what the reader refuses."""
    made = await http.post("/users", json={"global_id": 7, "name": "Else"})
    lines = [f"{number},User {number},A" for number in range(100, 150)]
    lines[10] = "7,Ada,A"
    lines[20] = "120,Nowhere,nowhere"
    lines[30] = "100,Again,A"
    lines[40] = "x,Bad,A"
    run = Run()
    report = await run.run(await written(write, *lines), live_node.url)
    assert (report.made, report.refused) == (46, 4)
    reasons = dict(run.refused)
    assert sorted(reasons) == [12, 22, 32, 42]
    assert reasons[12] == f"global_id 7 is another user's, with id {made.json()['id']}"
    assert "nowhere" in reasons[22]
    assert reasons[32] == "global_id 100 is in line 2 already"
    assert len(await names(http)) == 47


async def test_zones_are_made_on_demand(
    live_node: LiveNode, http: httpx.AsyncClient, write: Write
) -> None:
    """Only where that was asked for."""
    path = await written(write, "1,Ada,F1", "2,Eve,F1", "3,Bob,F2")
    report = await Run().run(path, live_node.url, makes_zones=True)
    assert report.made == 3
    assert len((await http.get("/zones")).json()["zones"]) == 3


async def test_an_interrupted_import_goes_on_behind_the_last_batch(
    live_node: LiveNode, http: httpx.AsyncClient, write: Write, small_batches: None
) -> None:
    """Nobody is missing and nobody double, also of a batch whose answer was lost."""
    path = await written(write, *(f"{number},User {number},A" for number in range(1, 251)))
    port = int(live_node.url.rpartition(":")[2])
    async with tcp_proxy(port) as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        first = Closing(proxy)
        with pytest.raises(ServiceError):
            await first.run(path, url)
        assert first.parts == [pytest.approx(100 / 250, abs=0.05)]
        # The second batch was committed, and nobody heard of it.
        rows = [
            {"global_id": number, "name": f"User {number}", "zone_id": "A"}
            for number in range(101, 201)
        ]
        assert (await http.post("/users/bulk", json={"users": rows})).status_code == 201
        proxy.is_open = True
        report = await Run().run(path, url)
    assert report.resumed_line == 101
    assert (report.made, report.unchanged, report.refused) == (150, 100, 0)
    assert (await http.get("/users/count")).json() == {"count": 250}


class Closing(Run):
    """An import that loses its service after the first batch."""

    def __init__(self, proxy: TcpProxy) -> None:
        super().__init__()
        self._proxy = proxy

    def progressed(self, report: ImportReport, part: float) -> None:
        """Note how far it is, and cut the line."""
        super().progressed(report, part)
        self._proxy.is_open = False
        self._proxy.cut()


async def test_a_file_that_was_changed_is_imported_from_its_beginning(
    live_node: LiveNode, http: httpx.AsyncClient, write: Write, small_batches: None
) -> None:
    """The mark is of another one."""
    path = await written(write, *(f"{number},User {number},A" for number in range(1, 151)))
    port = int(live_node.url.rpartition(":")[2])
    async with tcp_proxy(port) as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        with pytest.raises(ServiceError):
            await Closing(proxy).run(path, url)
        proxy.is_open = True
        report = await Run().run(await written(write, "5000,New,A"), url)
    assert (report.made, report.resumed_line) == (1, 0)


async def command(*arguments: str) -> tuple[int, str, str]:
    """Run a command; return exit code, output and errors."""
    process = await asyncio.create_subprocess_exec(
        *PROGRAM,
        *arguments,
        env=environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    printed, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, printed.decode(), errors.decode()


@pytest.mark.timeout(300)
async def test_what_was_exported_can_be_imported_elsewhere(
    live_node: LiveNode, http: httpx.AsyncClient, write: Write, tmp_path: Path
) -> None:
    """Names with commas and quotes, attributes and all; refused lines make exit code 1."""
    users = [
        {"global_id": 1, "name": 'A "quoted", name', "zone_id": "A", "attributes": {"k": [1, "x"]}},
        {"global_id": 2, "name": "Åsa", "zone_id": None, "attributes": {}},
    ]
    assert (await http.post("/users/bulk", json={"users": users})).status_code == 201
    out = tmp_path / "out.csv"
    part = tmp_path / "out.csv.part"
    # Left by an export that was interrupted in the middle of a line.
    text = "id,global_id,name,zone_id,attributes,version\n1,1,kept,A,,1\n2,2,Å"
    await asyncio.to_thread(part.write_text, text)
    code, _, errors = await command("export", str(out), "--url", live_node.url)
    assert (code, errors) == (0, f"2 users in {out}\n")
    kept, last = (await asyncio.to_thread(out.read_text)).splitlines()[1:]
    assert (kept, last) == ("1,1,kept,A,,1", "2,2,Åsa,,,1")
    code, printed, _ = await command("export", "--url", live_node.url)
    assert code == 0
    await asyncio.to_thread(out.write_text, printed + "x,x,x,x,x,x\n")
    code, printed, errors = await command("import", str(out), "--url", live_node.url, "--json")
    refused, end = map(json.loads, printed.splitlines())
    assert (code, errors) == (1, "")
    assert (refused["type"], refused["line"]) == ("refused", 4)
    assert end == {
        "type": "end",
        "complete": True,
        "reason": None,
        "made": 0,
        "unchanged": 2,
        "refused": 1,
        "line": 4,
        "resumed_line": None,
    }
    missing = str(tmp_path / "missing.csv")
    code, printed, errors = await command("import", missing, "--url", live_node.url)
    assert (code, printed, errors.count("\n")) == (1, "", 1)
    assert "No such file" in errors
    assert "nothing was made" in errors


@pytest.mark.timeout(300)
async def test_ctrl_c_says_how_far_it_came(
    live_node: LiveNode, http: httpx.AsyncClient, write: Write
) -> None:
    """Exit code 130 and one line; the next run goes on."""
    path = await written(write, *(f"{number},User {number},A" for number in range(1, 30_001)))
    process = await asyncio.create_subprocess_exec(
        *PROGRAM,
        *("import", str(path), "--url", live_node.url),
        env=environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    while (await http.get("/users/count")).json()["count"] < 2_000:  # noqa: ASYNC110 - no event
        await asyncio.sleep(0.05)
    process.send_signal(signal.SIGINT)
    printed, errors = await process.communicate()
    assert (process.returncode, printed, errors.count(b"\n")) == (130, b"", 1)
    assert b"interrupted; stopped after line " in errors
    assert await beside(path) == ["users.csv", "users.csv.import"]
