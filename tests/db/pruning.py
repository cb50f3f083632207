"""Making changes and pruning them, and what is left: floors and revisions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from sqlalchemy import text

from db import user_crud
from db.engine import Database
from db.retention import PruneReport, Retention, RetentionConfig
from tests.db.replay import read_log

CHANGES = 12
"""Revisions of zone A in most tests: Ada came, and was renamed so often."""


async def rename(database: Database, times: int) -> None:
    """Change Ada's name so often."""
    for n in range(times):
        fields = {"name": f"n{n}"}
        await database.run_transaction(partial(user_crud.update_user, user_id=1, changes=fields))


def pruner(
    database: Database, max_changes: int = 1_000, age_s: float = 1e6, **config: float
) -> Retention:
    """Make what keeps so much; 1e6 seconds are longer than any test."""
    return Retention(database, RetentionConfig(max_changes, age_s, **config))  # type: ignore[arg-type]  # ints


async def prune(
    database: Database,
    max_changes: int = 1_000,
    progressed: Callable[[PruneReport], None] = lambda _: None,
    **config: float,
) -> PruneReport:
    """Do one pass."""
    report = await pruner(database, max_changes, **config).prune(progressed)
    assert report is not None
    return report


async def revs_of(database: Database) -> dict[str, list[int]]:
    """Read which revisions the log has, by channel."""
    revs: dict[str, list[int]] = {}
    for row in await read_log(database):
        revs.setdefault(row.channel, []).append(row.rev)
    return revs


async def floors_of(database: Database) -> dict[str, int]:
    """Read the floors."""
    async with database.snapshot() as connection:
        rows = await connection.execute(text("SELECT channel, floor FROM channel_heads"))
        return {row.channel: row.floor for row in rows}
