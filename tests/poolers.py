"""PgBouncer in front of a PostgreSQL, as a real process, in transaction mode."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from tests.processes import Account, Scratch, ServerProcess, ServerStartError
from tests.servers import DATABASE, ROLE, START_TRIES, PostgresServer

SESSIONS = 6
"""How many of the server's sessions all clients share."""


def find_pgbouncer() -> Path | None:
    """Find PgBouncer, which Debian keeps where only administrators look."""
    found = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
    return Path(found) if found else None


class PgBouncer(ServerProcess):
    """A PgBouncer that hands each transaction to any of a few sessions.

    Args:
        program: The program.
        folder: Its settings and log.
        account: It refuses to be root.
        server: Where it connects.
    """

    def __init__(
        self, program: Path, folder: Path, account: Account | None, server: PostgresServer
    ) -> None:
        super().__init__(folder, account)
        self._program = program
        self._settings = folder / "pgbouncer.ini"
        users = folder / "users.txt"
        users.write_text(f'"{ROLE}" ""\n', encoding="utf-8")
        lines = [
            "[databases]",
            f"* = host=127.0.0.1 port={server.port}",
            "[pgbouncer]",
            "listen_addr = 127.0.0.1",
            f"listen_port = {self.port}",
            "unix_socket_dir =",
            "auth_type = trust",
            f"auth_file = {users}",
            "pool_mode = transaction",
            f"default_pool_size = {SESSIONS}",
            "max_client_conn = 500",
            # A session kept for ever would show nothing that a real one doesn't.
            "server_idle_timeout = 5",
        ]
        self._settings.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def url_of(self, database: str = DATABASE) -> str:
        """The SQLAlchemy URL of a database through it."""
        return f"postgresql+asyncpg://{ROLE}@127.0.0.1:{self.port}/{database}"

    def command(self) -> list[str]:
        """Run it in the foreground."""
        return [str(self._program), str(self._settings)]

    async def answers(self) -> bool:
        """Tell whether a question to the server comes back through it."""
        with contextlib.suppress(OSError, TimeoutError, asyncpg.PostgresError):
            connection = await asyncpg.connect(
                host="127.0.0.1",
                port=self.port,
                user=ROLE,
                database="postgres",
                ssl=False,
                timeout=2,
                statement_cache_size=0,
            )
            await connection.execute("SELECT 1")
            await connection.close()
            return True
        return False


@asynccontextmanager
async def running_pgbouncer(
    program: Path, scratch: Scratch, server: PostgresServer
) -> AsyncIterator[PgBouncer]:
    """Run one until the body ends."""
    account = Account.unprivileged()
    for tries_left in reversed(range(START_TRIES)):
        pooler = PgBouncer(program, scratch.new_folder("pgbouncer", account), account, server)
        try:
            await pooler.start()
            break
        except ServerStartError:
            if not tries_left:
                raise
    try:
        yield pooler
    finally:
        await pooler.stop()
