"""Faults of the change log: compacted past clients and nodes that are behind."""

from __future__ import annotations

import contextlib

from channels.ports import UnavailableError
from db.engine import Database, DatabaseConfig
from db.retention import Retention, RetentionConfig
from tests.db.pruned_rows import KEEP_ON_POSTGRES
from tests.faults.breaker import Breaker, FaultOf
from tests.faults.eras import LogRow
from tests.servers import DATABASE, PostgresServer

EXISTS_SQL = "SELECT to_regclass('pruned_changes') IS NOT NULL"
PRUNED_SQL = "SELECT channel, rev, tx_id, span, events::text AS events FROM pruned_changes"
KEPT = (0, 0, 1, 2, 6)
BATCH_CHANGES = 40
PASSES = 12
SILENCE_MS = 1_500


async def compact(breaker: Breaker) -> None:
    """Prune all channels to their newest few changes, again and again, while the bus is silent.

    So nodes look into a log that is shorter each time.
    """
    postgres = breaker.cluster.postgres
    await _keep_pruned_rows(postgres)
    database = Database(DatabaseConfig(postgres.url))
    try:
        # Redis may be broken at the same time.
        with contextlib.suppress(OSError, TimeoutError):
            await breaker.cluster.redis.call(f"CLIENT PAUSE {SILENCE_MS} ALL", timeout_s=0.5)
        for _ in range(PASSES):
            most = breaker.random.choice(KEPT)
            config = RetentionConfig(max_changes=most, batch_changes=BATCH_CHANGES)
            with contextlib.suppress(UnavailableError):
                await Retention(database, config).prune()
            await breaker.wait(0.05, 0.3)
    finally:
        await database.close()
        breaker.recorder.history.kept_rows += await read_pruned_rows(postgres)


async def _keep_pruned_rows(postgres: PostgresServer) -> None:
    """Keep from now on what is pruned, whoever prunes: the judge of the history needs it all."""
    async with postgres.connect(DATABASE) as connection:
        if not await connection.fetchval(EXISTS_SQL):
            async with connection.transaction():
                for statement in KEEP_ON_POSTGRES:
                    await connection.execute(statement)


async def read_pruned_rows(postgres: PostgresServer) -> list[LogRow]:
    """Read all that was pruned since it is kept."""
    async with postgres.connect(DATABASE) as connection:
        rows = await connection.fetch(PRUNED_SQL)
    return [
        LogRow(row["channel"], row["rev"], row["tx_id"], row["span"], row["events"].encode())
        for row in rows
    ]


FAULTS: dict[str, FaultOf] = {
    "log compacted": compact,
}
