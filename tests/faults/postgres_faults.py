"""Faults of PostgreSQL: its connections cut, itself restarted."""

from __future__ import annotations

import contextlib

from tests.faults.breaker import Breaker, FaultOf
from tests.faults.truth import DATABASE_ERRORS

TERMINATE_ALL = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"""


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


FAULTS: dict[str, FaultOf] = {
    "postgres connections terminated": cut,
    "postgres restarted": restart,
}
