"""Retention of a node: in the background, counted, patient with failures, and as a command."""

from __future__ import annotations

import asyncio
import pty
from collections.abc import AsyncIterator
from os import close, read

import httpx
import pytest
from prometheus_client import generate_latest
from sqlalchemy import text

from db.engine import Database, DatabaseConfig
from db.retention import Retention, RetentionConfig
from realtime.metrics import Metrics
from realtime.retention import Pruning
from tests.realtime.command_line import PROGRAM, environment, zonecast
from tests.realtime.conftest import LiveNode, serving, settings_of_test
from tests.servers import PostgresServer

KEPT = 5
CHANGES = 20
"""Revisions of zone A: it was made with Ada in it, who was renamed."""
FAILURES = "zonecast_failures_total"
PASSES = "zonecast_prune_seconds_count"


@pytest.fixture
async def live(database_url: str) -> AsyncIterator[LiveNode]:
    """A node that prunes all the time, and keeps few changes."""
    settings = settings_of_test(
        database_url=database_url,
        resume_max_changes=KEPT,
        retention_max_changes=KEPT,
        retention_interval_s=0.05,
        retention_batch_changes=4,
    )
    async with serving(settings) as live:
        yield live


async def make_changes(http: httpx.AsyncClient) -> None:
    """Bring zone A to revision `CHANGES`."""
    assert (await http.post("/zones", json={"zone_id": "A", "name": "a"})).is_success
    user = {"global_id": 1, "name": "Ada", "zone_id": "A"}
    assert (await http.post("/users", json=user)).is_success
    for n in range(CHANGES - 1):
        assert (await http.patch("/users/1", json={"name": f"n{n}"})).is_success


def figure(metrics: str, name: str) -> float:
    """Return the value of a metric without labels, or the sum over its labels."""
    found = [line for line in metrics.splitlines() if line.split("{")[0].split(" ")[0] == name]
    return sum(float(line.rsplit(" ", 1)[1]) for line in found)


async def rendered(metrics: Metrics) -> str:
    """Render metrics as `/metrics` does."""
    return (await asyncio.to_thread(generate_latest, metrics.registry)).decode()


async def test_a_node_prunes_in_the_background_while_it_is_written_to(live: LiveNode) -> None:
    """It keeps the newest changes, says where the log begins, and counts what it deleted."""
    async with httpx.AsyncClient(base_url=live.url, trust_env=False) as http:
        await make_changes(http)
        while True:
            answer = await http.get("/zones/A/changes?since_rev=0")
            if answer.status_code == 410 and answer.json()["floor"] == CHANGES - KEPT:
                break
        assert answer.json()["reason"] == "compacted"
        page = (await http.get(f"/zones/A/changes?since_rev={CHANGES - KEPT}")).json()
        assert [change["rev"] for change in page["changes"]] == [16, 17, 18, 19, 20]
        assert (await http.get("/zones/A/snapshot")).json()["users"][0]["name"] == "n18"
        metrics = ""
        while not figure(metrics, PASSES):
            metrics = (await http.get("/metrics")).text
        assert figure(metrics, "zonecast_pruned_changes_total") == CHANGES - KEPT
        assert figure(metrics, "zonecast_prune_last_timestamp_seconds") > 1e9


async def test_an_interval_of_zero_leaves_pruning_to_others(sqlite_url: str) -> None:
    """Then the node has no figures of it either."""
    settings = settings_of_test(database_url=sqlite_url, retention_interval_s=0)
    async with serving(settings) as live:
        assert "zonecast_prune" not in await rendered(live.node.metrics)


async def test_pruning_survives_a_database_that_is_down(own_postgres: PostgresServer) -> None:
    """It counts the failures, each later than the one before, and goes on when it is back."""
    database = Database(DatabaseConfig(own_postgres.url, connect_timeout_s=1))
    metrics = Metrics()
    retention = Retention(database, RetentionConfig(max_changes=0))
    await own_postgres.stop()
    try:
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(Pruning(retention, metrics, 0.02).run())
            failures = 0.0
            while failures < 3:
                await asyncio.sleep(0.01)
                failures = figure(await rendered(metrics), FAILURES)
            await own_postgres.start()
            passes = 0.0
            while not passes:
                await asyncio.sleep(0.01)
                passes = figure(await rendered(metrics), PASSES)
            running.cancel()
    finally:
        await database.close()


@pytest.fixture
async def filled_url(sqlite_url: str) -> str:
    """A database with `CHANGES` changes of zone A, which no node uses."""
    settings = settings_of_test(database_url=sqlite_url, retention_interval_s=0)
    async with serving(settings) as live, httpx.AsyncClient(base_url=live.url) as http:
        await make_changes(http)
    return sqlite_url


async def prune_command(url: str, *options: str) -> tuple[int, str, str]:
    """Run `zonecast prune` to its end."""
    return await asyncio.to_thread(
        zonecast, "prune", *options, database_url=url, resume_max_changes="5"
    )


async def test_the_command_prunes_once_and_tells_what_it_did(filled_url: str) -> None:
    """And does nothing the second time; a pipe gets one line and no progress bar."""
    code, printed, errors = await prune_command(filled_url, "--max-changes", "5")
    assert (code, errors) == (0, "")
    assert printed == "deleted 15 changes in 1 of 4 channels\n"
    code, printed, _ = await prune_command(filled_url, "--max-changes", "5")
    assert (code, printed) == (0, "deleted 0 changes in 0 of 4 channels\n")


async def test_the_command_refuses_to_keep_too_little(sqlite_url: str) -> None:
    """What may be resumed from has to stay."""
    code, printed, errors = await prune_command(sqlite_url, "--max-changes", "4")
    assert (code, printed) == (1, "")
    assert "ZONECAST_RETENTION_MAX_CHANGES must not be below" in errors
    assert errors.count("\n") == 1


async def test_the_command_leaves_a_database_that_is_being_pruned_alone(postgres_url: str) -> None:
    """One at a time; whoever calls it knows."""
    database = Database(DatabaseConfig(postgres_url))
    try:
        async with Retention(database, RetentionConfig())._alone() as is_alone:
            assert is_alone
            code, _, errors = await prune_command(postgres_url)
    finally:
        await database.close()
    assert (code, errors.count("\n")) == (1, 1)
    assert "another process is pruning" in errors


async def test_the_command_shows_its_progress_in_a_terminal(filled_url: str) -> None:
    """A bar on standard error."""
    main_fd, terminal = pty.openpty()
    settings = {"database_url": filled_url, "resume_max_changes": "5"}
    process = await asyncio.create_subprocess_exec(
        *PROGRAM,
        "prune",
        "--max-changes",
        "5",
        env={**environment(**settings), "TERM": "xterm", "COLUMNS": "120"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=terminal,
    )
    close(terminal)
    printed, _ = await process.communicate()
    shown = (await asyncio.to_thread(read, main_fd, 65_536)).decode()
    close(main_fd)
    assert printed == b"deleted 15 changes in 1 of 4 channels\n"
    assert "4/4" in shown
    assert "15 changes deleted" in shown
    database = Database(DatabaseConfig(filled_url))
    async with database.snapshot() as connection:
        left = await connection.scalar(text("SELECT count(*) FROM changes WHERE rev > 1"))
    await database.close()
    assert left == KEPT
