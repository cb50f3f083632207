"""Faults of PostgreSQL that lose commits: a backup put back, and a standby that was behind."""

from __future__ import annotations

from pathlib import Path

from tests.faults.breaker import Breaker, FaultOf
from tests.faults.truth import read_lost, read_tables
from tests.servers import PostgresServer
from tests.standbys import cut_off, remove_copy, start_standby


async def put_back(breaker: Breaker) -> None:
    """Put a base backup back in place, after more was committed than it holds."""
    postgres = breaker.cluster.postgres
    heads = await _revs(postgres)
    backup = await postgres.back_up("backup")
    await breaker.wait(1, 3)
    await postgres.stop()
    await _lose(breaker, heads, backup)


async def fail_over(breaker: Breaker) -> None:
    """Promote a standby that lacks the last commits, in the primary's place."""
    postgres = breaker.cluster.postgres
    heads = await _revs(postgres)
    standby = await start_standby(postgres, "standby")
    try:
        await cut_off(standby)
        await breaker.wait(0.5, 2)
    finally:
        await standby.stop()
    await postgres.kill()
    await _lose(breaker, heads, standby.data)
    # It has answered reads since it was started there.
    await postgres.execute("SELECT pg_promote()")


async def _revs(postgres: PostgresServer) -> dict[str, int]:
    heads = (await read_tables(postgres)).heads
    return {channel: head.rev for channel, head in heads.items()}


async def _lose(breaker: Breaker, heads: dict[str, int], data: Path) -> None:
    """Start on another data folder, and note what the one in place held."""
    postgres, history = breaker.cluster.postgres, breaker.recorder.history
    era = history.begin_era(breaker.recorder.now_s(), heads)
    lost = await postgres.put_back(data)
    await breaker.wait(0, 1)
    await postgres.start()
    await read_lost(postgres.on(lost), history.base, era)
    await remove_copy(lost)


FAULTS: dict[str, FaultOf] = {
    "postgres restored": put_back,
    "postgres failed over": fail_over,
}
