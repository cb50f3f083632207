"""Trouble for a PostgreSQL that goes on running: each is caused for real, and ends with a block."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import asyncpg

from tests.servers import DATABASE, ROLE, PostgresServer

TERMINATE_NODES = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE application_name LIKE 'zonecast%' AND pid <> pg_backend_pid()"""
MAX_ROUNDS = 5


_REFUSE_COMMITS = """
    CREATE SEQUENCE refusals;
    CREATE FUNCTION refuse_commit() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF nextval('refusals') <= {times} THEN
                RAISE EXCEPTION 'refused on purpose' USING ERRCODE = '{sqlstate}';
            END IF;
            RETURN NULL;
        END $$;
    CREATE CONSTRAINT TRIGGER refuse_commit AFTER INSERT ON changes
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse_commit();
"""
_ALLOW_COMMITS = """
    DROP FUNCTION IF EXISTS refuse_commit CASCADE;
    DROP SEQUENCE IF EXISTS refusals;
"""
ALWAYS = 2**62
RELEASE_TIMEOUT_S = 30
_STILL_THERE = "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY($1::int[])"


@asynccontextmanager
async def failing_commits(
    server: PostgresServer, sqlstate: str, times: int = ALWAYS
) -> AsyncIterator[None]:
    """Let COMMITs of changes end with this SQLSTATE: all statements before succeed.

    Args:
        server: The server.
        sqlstate: What they end with.
        times: How many of them; counted by a sequence, which no rollback sets back.
    """
    async with server.connect(DATABASE) as connection:
        await connection.execute(_REFUSE_COMMITS.format(sqlstate=sqlstate, times=times))
    try:
        yield
    finally:
        async with server.connect(DATABASE) as connection:
            await connection.execute(_ALLOW_COMMITS)


@asynccontextmanager
async def locked(server: PostgresServer, statement: str, *values: object) -> AsyncIterator[None]:
    """Hold what a statement locks, in a transaction that does nothing more."""
    async with server.connect(DATABASE) as connection, connection.transaction():
        await connection.execute(statement, *values)
        yield


class Connections:
    """Connections of a server that are taken from others."""

    def __init__(self, server: PostgresServer, own: asyncpg.Connection) -> None:
        self._server = server
        self._own = own
        self._held: list[asyncpg.Connection] = []

    async def take_free(self) -> None:
        """Open connections until the server refuses one."""
        with suppress(asyncpg.TooManyConnectionsError):
            while True:
                connection = await asyncpg.connect(
                    host="127.0.0.1",
                    port=self._server.port,
                    user=ROLE,
                    database="postgres",
                    ssl=False,
                )
                self._held.append(connection)

    async def take_from_nodes(self) -> None:
        """Take those, too, that nodes have, in rounds: in between they connect anew."""
        for _ in range(MAX_ROUNDS):
            if not await self._own.fetch(TERMINATE_NODES):
                return
            await self.take_free()

    async def release(self) -> None:
        """Give all back, and wait until the server has taken them."""
        pids = [connection.get_server_pid() for connection in self._held]
        for connection in self._held:
            connection.terminate()
        self._held.clear()
        # A busy server counts them for a while, and would refuse whoever connects meanwhile.
        async with asyncio.timeout(RELEASE_TIMEOUT_S):
            while await self._own.fetchval(_STILL_THERE, pids):  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0.02)


@asynccontextmanager
async def free_connections_taken(server: PostgresServer) -> AsyncIterator[Connections]:
    """Take all connections that nobody has; what nodes have can be taken, too."""
    async with server.connect() as own:
        connections = Connections(server, own)
        try:
            await connections.take_free()
            yield connections
        finally:
            await connections.release()


@asynccontextmanager
async def read_only(server: PostgresServer) -> AsyncIterator[None]:
    """Let the database take no writes, as managed ones do when their disk is full."""
    await server.execute(f"ALTER DATABASE {DATABASE} SET default_transaction_read_only = on")
    try:
        await server.execute(TERMINATE_NODES)
        yield
    finally:
        await server.execute(f"ALTER DATABASE {DATABASE} RESET default_transaction_read_only")
