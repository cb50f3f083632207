"""Occupancy: a database is served by one node alone, or by nodes that all share a bus.

A node without a bus would not hear what others commit but by its head checks, and others would
not hear it: each half of the watchers would see the other half's changes late. So a node says
how it serves, and one that doesn't go with those that already do is refused.
"""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TextIO

from sqlalchemy import URL, make_url

from db import sqlite
from db.advisory_lock import advisory_lock
from db.errors import DatabaseError

_LOCK_KEY: Final = 0x5A6F_6E65_4E6F_6465
"""The advisory lock that nodes hold while they serve: "ZoneNode" in ASCII."""


class OccupiedError(DatabaseError):
    """Another node serves this database, and the two would not hear of each other."""


@asynccontextmanager
async def occupy(url: str, *, shares_bus: bool) -> AsyncIterator[None]:
    """Hold the database for serving until the block ends, or the process does.

    On PostgreSQL by an advisory lock on a connection of its own (so it needs one more than the
    pool); on SQLite by a lock on a file beside the database. A lock that a restart of the
    server broke is not taken again: it guards starting, not running.

    Args:
        url: A SQLAlchemy async URL.
        shares_bus: Whether the node has a bus on which it hears others: those may be many.

    Raises:
        OccupiedError: a node that doesn't go with this one serves already.
        UnavailableError: the database can't be asked.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        if sqlite.is_in_memory(parsed):
            yield
            return
        lock = await asyncio.to_thread(_lock_beside, parsed)
        try:
            yield
        finally:
            await asyncio.to_thread(lock.close)
        return
    async with advisory_lock(url, _LOCK_KEY, is_shared=shares_bus) as got:
        if not got:
            raise OccupiedError(_refusal(shares_bus=shares_bus))
        yield


def _lock_beside(url: URL) -> TextIO:
    # Open for as long as the lock is held.
    lock = Path(f"{url.database}.lock").open("w", encoding="utf-8")  # noqa: SIM115 - see above
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        reason = "another process serves this SQLite file; several need PostgreSQL and Redis"
        raise OccupiedError(reason) from None
    return lock


def _refusal(*, shares_bus: bool) -> str:
    if shares_bus:
        return "a node without a bus serves this database: give it ZONECAST_REDIS_URL, too"
    return (
        "another node serves this database: several need ZONECAST_REDIS_URL, "
        "without which they would not hear of each other's changes"
    )
