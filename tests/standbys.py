"""Standbys, which follow another server until they are cut off from it; copies that are done."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from tests.processes import POLL_INTERVAL_S, START_TIMEOUT_S
from tests.servers import PostgresServer

REPLAYED_SQL = "SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn"


async def start_standby(primary: PostgresServer, name: str) -> PostgresServer:
    """Start a standby in a folder of this name, with all that was committed before the call.

    Raises:
        ServerStartError: It could not be made, or did not start.
        TimeoutError: It did not come so far in time.
    """
    standby = primary.on(await primary.back_up(name, "-R"))
    await standby.start()
    position = await primary.value("SELECT pg_current_wal_lsn()::text")
    async with asyncio.timeout(START_TIMEOUT_S):
        # It tells in no other way.
        while not await standby.value(REPLAYED_SQL, position):  # noqa: ASYNC110
            await asyncio.sleep(POLL_INTERVAL_S)
    return standby


async def cut_off(standby: PostgresServer) -> None:
    """Let a standby follow nobody any more; raises `TimeoutError` when it goes on."""
    await standby.execute("ALTER SYSTEM SET primary_conninfo = ''")
    await standby.execute("SELECT pg_reload_conf()")
    async with asyncio.timeout(START_TIMEOUT_S):
        # It tells in no other way.
        while await standby.value("SELECT count(*) FROM pg_stat_wal_receiver"):  # noqa: ASYNC110
            await asyncio.sleep(POLL_INTERVAL_S)


async def remove_copy(data: Path) -> None:
    """Remove a data folder on which nothing runs any more."""
    await asyncio.to_thread(shutil.rmtree, data)
