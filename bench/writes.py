"""Writes: live transfers against the same UPDATE with nothing behind it, on one SQLite file."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from db.engine import Database, DatabaseConfig
from db.migrate import upgrade
from db.user_crud import create_user, transfer_user_to_zone
from db.zone_crud import create_zone

MOVES = 300
ROUNDS = 5


async def _prepare(db: AsyncSession) -> int:
    for zone_id in ("A", "B"):
        await create_zone(db, zone_id=zone_id, name=zone_id)
    user = await create_user(db, global_id=1, name="Ada", zone_id="A")
    return int(user.id)


async def _live(database: Database, user_id: int) -> float:
    began_s = time.perf_counter()
    for move in range(MOVES):
        await database.run_transaction(
            partial(transfer_user_to_zone, user_id=user_id, zone_id="AB"[move % 2])
        )
    return MOVES / (time.perf_counter() - began_s)


async def _bare(database: Database) -> float:
    update = text("UPDATE bare SET zone_id = :zone, version = version + 1 WHERE id = 1")
    began_s = time.perf_counter()
    for move in range(MOVES):
        async with database.engine.begin() as connection:
            await connection.execute(update, {"zone": "AB"[move % 2]})
    return MOVES / (time.perf_counter() - began_s)


async def _measure(folder: Path) -> tuple[list[float], list[float]]:
    url = f"sqlite+aiosqlite:///{folder / 'bench.db'}"
    await upgrade(url)
    database = Database(DatabaseConfig(url))
    live, bare = [], []
    try:
        user_id = (await database.run_transaction(_prepare)).value
        async with database.engine.begin() as connection:
            await connection.execute(
                text("CREATE TABLE bare (id INTEGER PRIMARY KEY, zone_id TEXT, version INTEGER)")
            )
            await connection.execute(text("INSERT INTO bare VALUES (1, 'A', 1)"))
        for _ in range(ROUNDS):
            live.append(await _live(database, user_id))
            bare.append(await _bare(database))
    finally:
        await database.close()
    return live, bare


def writes() -> dict[str, Any]:
    """Measure transfers per second, one after the other, interleaved with bare updates."""
    with tempfile.TemporaryDirectory() as folder:
        live, bare = asyncio.run(_measure(Path(folder)))
    value, peer_value = statistics.median(live), statistics.median(bare)
    return {
        "what": "transfers/s, one at a time, SQLite file, captured",
        "value": value,
        "unit": "transfers per second",
        "peer": "the bare UPDATE in a transaction",
        "peer_value": peer_value,
        "ratio": value / peer_value,
        "runs": ROUNDS,
    }
