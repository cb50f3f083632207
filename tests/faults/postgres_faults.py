"""Faults of PostgreSQL: cut, restarted, frozen, full, and refusing what it is asked for."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from tests.faults.breaker import Breaker, FaultOf
from tests.faults.database_trouble import failing_commits, free_connections_taken, locked
from tests.faults.truth import DATABASE_ERRORS
from tests.faults.workload import HOT

TERMINATE_ALL = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"""
LOCK_HEADS = """SELECT 1 FROM channel_heads
    WHERE channel = $1 OR random() < 0.2 ORDER BY channel COLLATE "C" FOR UPDATE"""
LOCK_USERS = "SELECT 1 FROM users WHERE random() < 0.2 ORDER BY id FOR UPDATE"
FAILURES = ("40001", "40P01", "53100", "57P03", "55P03")
"""What COMMITs end with; a 500 would be as right for other kinds, but is taken for a bug."""


async def cut(breaker: Breaker) -> None:
    """Terminate all connections to the database."""
    for _ in range(breaker.random.randint(1, 3)):
        with contextlib.suppress(*DATABASE_ERRORS):
            await breaker.cluster.postgres.execute(TERMINATE_ALL)
        await breaker.wait(0.1, 0.8)


async def restart(breaker: Breaker) -> None:
    """Restart the database, with a pause or without."""
    await breaker.cluster.postgres.stop()
    await breaker.wait(0, 1.5)
    await breaker.cluster.postgres.start()


async def freeze(breaker: Breaker) -> None:
    """Have a database that takes connections and answers nothing, also for long enough to tell."""
    async with _away(breaker, "frozen"):
        breaker.cluster.postgres.sigstop()
        try:
            await breaker.wait(1, 7)
        finally:
            breaker.cluster.postgres.sigcont()


async def fill(breaker: Breaker) -> None:
    """Take all connections of the server, those of the nodes, too."""
    async with (
        free_connections_taken(breaker.cluster.postgres) as connections,
        # Over when giving back begins: with the first that is free a node may be served again.
        _away(breaker, "no connection left"),
    ):
        await connections.take_from_nodes()
        await breaker.wait(1, 6)


async def lock(breaker: Breaker) -> None:
    """Hold some users and some heads, the hot zone's among them, like a forgotten session."""
    server = breaker.cluster.postgres
    async with AsyncExitStack() as stack:
        # One session for each: together they could wait for a writer that waits for them.
        await stack.enter_async_context(locked(server, LOCK_USERS))
        await stack.enter_async_context(locked(server, LOCK_HEADS, f"zone:{HOT}"))
        await breaker.wait(3, 6)


async def refuse(breaker: Breaker) -> None:
    """Let all commits fail for a moment, in one way after the other."""
    for sqlstate in breaker.random.sample(FAILURES, 2):
        async with failing_commits(breaker.cluster.postgres, sqlstate):
            await breaker.wait(0.5, 1)


@asynccontextmanager
async def _away(breaker: Breaker, cause: str) -> AsyncIterator[None]:
    """Note that the nodes can't ask the database in the meantime."""
    from_s = breaker.recorder.now_s()
    try:
        yield
    finally:
        breaker.recorder.outage(from_s, "database", cause)


FAULTS: dict[str, FaultOf] = {
    "postgres connections terminated": cut,
    "postgres restarted": restart,
    "postgres frozen": freeze,
    "postgres connections all taken": fill,
    "postgres rows locked": lock,
    "postgres commits failing": refuse,
}
