"""The servers and fixtures that all other tests stand on are real and independent."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest
from blockbuster import BlockingError
from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy import inspect
from sqlalchemy.ext.asyncio import create_async_engine

from tests.conftest import REQUIRES, BlockingCalls
from tests.processes import Account, Scratch, spawn
from tests.servers import PostgresServer, RedisServer


def dsn(url: str) -> str:
    return url.replace("+asyncpg", "")


async def tables_of(url: str) -> set[str]:
    connection = await asyncpg.connect(dsn(url))
    rows = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    await connection.close()
    return {row["tablename"] for row in rows}


@pytest.mark.parametrize("_time", ["first", "second"])
async def test_each_test_gets_a_database_of_its_own(empty_postgres_url: str, _time: str) -> None:
    """What one test created, the next doesn't find."""
    assert await tables_of(empty_postgres_url) == set()
    connection = await asyncpg.connect(dsn(empty_postgres_url))
    await connection.execute("CREATE TABLE left_over (id int)")
    await connection.close()
    assert await tables_of(empty_postgres_url) == {"left_over"}


async def test_a_migrated_database_has_the_tables(postgres_url: str) -> None:
    """The clone of the template carries the schema."""
    assert {"users", "zones", "channel_heads", "changes"} <= await tables_of(postgres_url)


async def test_both_kinds_of_database_are_migrated(database_url: str) -> None:
    """A test that runs on both finds the same tables."""
    engine = create_async_engine(database_url)
    async with engine.connect() as connection:
        names = await connection.run_sync(lambda sync: set(inspect(sync).get_table_names()))
    await engine.dispose()
    assert {"users", "zones", "channel_heads", "changes"} <= names


async def test_dropping_a_database_cuts_connections_left_open(
    postgres_server: PostgresServer,
) -> None:
    """A test that leaks a connection doesn't keep its database alive."""
    await postgres_server.create_database("leaky")
    connection = await asyncpg.connect(dsn(postgres_server.url_of("leaky")))
    await postgres_server.drop_database("leaky")
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
        await connection.fetch("SELECT 1")


async def test_redis_is_empty_at_the_start_of_a_test(
    redis_url: str, request: pytest.FixtureRequest
) -> None:
    """Keys of an earlier test are gone."""
    async with Redis.from_url(redis_url) as redis:
        assert await redis.dbsize() == 0
        await redis.set("left-over", "1")


test_redis_is_empty_again = test_redis_is_empty_at_the_start_of_a_test


async def test_a_killed_redis_refuses_and_answers_again_on_its_port(own_redis: RedisServer) -> None:
    """`kill` is a crash: connections break and what it held is gone; `start` keeps the URL."""
    url, pid = own_redis.url, own_redis.pid
    async with Redis.from_url(url) as redis:
        await redis.set("key", "1")
    await own_redis.kill()
    assert not own_redis.running
    assert not await own_redis.answers()
    await own_redis.start()
    assert (own_redis.url, own_redis.pid == pid) == (url, False)
    async with Redis.from_url(url) as redis:
        assert await redis.get("key") is None


async def test_a_frozen_redis_keeps_connections_and_answers_when_it_goes_on(
    own_redis: RedisServer,
) -> None:
    """`sigstop` hangs a call without an error, `sigcont` lets the same call finish."""
    async with Redis.from_url(own_redis.url) as redis:
        await redis.ping()
        own_redis.sigstop()
        async with asyncio.TaskGroup() as group:
            call: asyncio.Task[int] = group.create_task(size_of(redis))
            done, _ = await asyncio.wait([call], timeout=0.2)
            assert not done
            own_redis.sigcont()
        assert call.result() == 0


async def size_of(redis: Redis) -> int:
    return int(await redis.dbsize())


async def test_a_frozen_redis_can_be_stopped(own_redis: RedisServer) -> None:
    """The end of a test doesn't hang on a server that the test froze."""
    own_redis.sigstop()
    await own_redis.stop()
    assert not own_redis.running


async def test_own_servers_are_not_the_shared_ones(
    own_redis: RedisServer, redis_server: RedisServer
) -> None:
    """Stopping one's own Redis leaves the test run's alone."""
    await own_redis.stop()
    with pytest.raises(RedisError):
        async with Redis.from_url(own_redis.url, retry=None) as redis:
            await redis.ping()
    assert await redis_server.answers()


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_an_own_postgres_keeps_commits_over_a_restart(
    own_postgres: PostgresServer, end: str
) -> None:
    """What was acknowledged is there after an orderly end and after a crash."""
    connection = await asyncpg.connect(dsn(own_postgres.url))
    await connection.execute("CREATE TABLE kept (id int)")
    await connection.execute("INSERT INTO kept VALUES (1)")
    await (own_postgres.stop() if end == "stop" else own_postgres.kill())
    with pytest.raises((OSError, asyncpg.PostgresError, asyncpg.InterfaceError)):
        await connection.fetch("SELECT 1")
    await own_postgres.start()
    connection = await asyncpg.connect(dsn(own_postgres.url))
    assert await connection.fetchval("SELECT count(*) FROM kept") == 1
    await connection.close()


async def test_a_frozen_postgres_answers_nobody(own_postgres: PostgresServer) -> None:
    """`sigstop` reaches the process that serves the connection, too."""
    connection = await asyncpg.connect(dsn(own_postgres.url))
    own_postgres.sigstop()
    with pytest.raises(TimeoutError):
        await connection.fetchval("SELECT 1", timeout=0.2)
    own_postgres.sigcont()
    await connection.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has death signals")
def test_servers_die_with_the_test_run(tmp_path: Path) -> None:
    """A killed test run leaves no process behind."""
    program = (
        "import shutil, time; from pathlib import Path; from tests.processes import spawn\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "command = [shutil.which('sleep'), '60']\n"
        "print(spawn(command, log=folder / 'log', folder=folder).pid, flush=True)\n"
        "time.sleep(60)"
    )
    root = Path(__file__).parent.parent
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=root, stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        pid = int(run.stdout.readline())
        # The launcher announces nothing; the program it becomes shows in the process list.
        wait_until(lambda: "sleep" in command_line(pid))
        run.kill()
    wait_until(lambda: command_line(pid) == "")


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def wait_until(happened: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(0.01)


def test_a_server_runs_without_roots_rights(tmp_path: Path) -> None:
    """Under root, the process belongs to another account and has its groups only."""
    account = Account.unprivileged()
    if account is None:
        assert os.geteuid() != 0
        return
    log = tmp_path / "log"
    program = shutil.which("id")
    assert program is not None
    process = spawn([program, "-u"], log=log, folder=tmp_path, account=account)
    assert process.wait(10) == 0
    assert log.read_text().strip() == str(account.uid)


def test_stale_scratch_is_swept_and_scratch_in_use_is_not(tmp_path: Path) -> None:
    """A killed run's folder goes, a running one's stays."""
    stale, used, young = (tmp_path / f"{Scratch.PREFIX}{name}" for name in ("old", "used", "new"))
    for folder in (stale, used, young):
        folder.mkdir()
    (stale / "lock").touch()
    with (used / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert Scratch.sweep(tmp_path) == [stale]
    assert used.exists()
    assert young.exists()


async def test_blocking_the_event_loop_fails_a_test(blocking_calls: BlockingCalls) -> None:
    """A blocking call raises in place, and is noted even where its error is swallowed."""
    with pytest.raises(BlockingError):
        time.sleep(0)  # noqa: ASYNC251 - the offence itself.
    assert [call.splitlines()[0] for call in blocking_calls.seen] == ["time.sleep"]
    blocking_calls.seen.clear()


async def test_a_swallowed_blocking_call_still_fails() -> None:
    """A task that catches all errors and goes on doesn't hide one."""
    guard = BlockingCalls()
    with (
        pytest.raises(pytest.fail.Exception, match=r"blocked the event loop: time\.sleep"),
        guard.forbidden(),
        contextlib.suppress(BlockingError),
    ):
        time.sleep(0)  # noqa: ASYNC251 - the offence itself.


@pytest.mark.parametrize(("required", "outcome"), [("1", "1 error"), ("", "1 skipped")])
def test_a_missing_program_fails_where_all_is_required(
    tmp_path: Path, required: str, outcome: str
) -> None:
    """With `ZONECAST_REQUIRE_ALL`, a skip for a missing server is a failure."""
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = session\n"
    )
    (tmp_path / "test_one.py").write_text(
        "import pytest\n"
        "@pytest.fixture\n"
        f"def program(): pytest.skip({REQUIRES!r} 'a program')\n"
        "def test_one(program): pass\n"
    )
    answer = run_pytest(tmp_path, {"ZONECAST_REQUIRE_ALL": required})
    assert outcome in answer


def test_a_wrong_path_to_a_server_stops_the_run_with_its_name(tmp_path: Path) -> None:
    """A mistyped setting doesn't silently fall back to another server."""
    answer = run_pytest(tmp_path, {"ZONECAST_TEST_REDIS_BIN": "no/such/redis"})
    assert "ZONECAST_TEST_REDIS_BIN: no program " in answer
    assert "no/such/redis" in answer


def run_pytest(folder: Path, settings: dict[str, str]) -> str:
    answer = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", str(folder)],
        cwd=Path(__file__).parent.parent,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    return answer.stdout + answer.stderr
