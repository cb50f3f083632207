"""Revocations in the database: what was taken back, until no token can be alive that it meets."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from json import dumps
from typing import Any, Final

from sqlalchemy import Row, case, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from channels.events import Revoked
from db.capture import journal_of
from db.engine import Database
from db.errors import FullError
from db.models import Base, Revocation
from db.translation import driver_errors

REVOCATIONS: Final = Base.metadata.tables[Revocation.__tablename__]


class DatabaseRevocations:
    """Reads the revocations in force. Bounded in time and cancel-safe.

    Args:
        database: Where.
        timeout_s: The bound of a read.
        unix_ms: The wall clock.
    """

    def __init__(self, database: Database, *, timeout_s: float, unix_ms: Callable[[], int]) -> None:
        self._database = database
        self._timeout_s = timeout_s
        self._unix_ms = unix_ms

    async def read_all(self) -> list[Revoked]:
        """Read all that are still in force, the oldest first.

        Raises:
            UnavailableError: the database doesn't answer in time.
        """
        query = select(REVOCATIONS).where(REVOCATIONS.c.until_ms > self._unix_ms())
        async with self._database.snapshot(self._timeout_s) as connection:
            rows = await connection.execute(query.order_by(REVOCATIONS.c.at_ms))
            return [_revoked_of(row) for row in rows]


async def revoke(db: AsyncSession, revoked: Revoked, *, max_rows: int) -> None:
    """Write a revocation, which the commit publishes on its channel; rows that ended are deleted.

    The same one again is one row, with the later times.

    Args:
        db: In a transaction of `Database.run_transaction`.
        revoked: With either `sub` or `jti`.
        max_rows: How many there may be.

    Raises:
        FullError: there are as many.
    """
    with driver_errors():
        _ = await db.connection()
        await db.run_sync(_write, revoked, max_rows)


def _write(session: Session, revoked: Revoked, max_rows: int) -> None:
    connection = session.connection()
    connection.execute(delete(REVOCATIONS).where(REVOCATIONS.c.until_ms <= revoked.at_ms))
    if revoked.sub is not None and revoked.zones is None:
        # It makes pointless whatever was taken from the same subject before.
        connection.execute(
            delete(REVOCATIONS).where(
                REVOCATIONS.c.sub == revoked.sub, REVOCATIONS.c.at_ms <= revoked.at_ms
            )
        )
    count = connection.execute(select(func.count()).select_from(REVOCATIONS)).scalar_one()
    if count >= max_rows:
        raise FullError("revocations", max_rows)
    is_postgres = connection.dialect.name == "postgresql"
    insert = postgresql.insert if is_postgres else sqlite.insert
    row: dict[str, Any] = {
        "id": _id_of(revoked),
        "sub": revoked.sub,
        "jti": revoked.jti,
        "zones": None if revoked.zones is None else list(revoked.zones),
        "at_ms": revoked.at_ms,
        "until_ms": revoked.until_ms,
    }
    statement = insert(REVOCATIONS).values(row)
    # Another node's clock may be ahead: what it took back stays taken.
    later = {
        name: case((REVOCATIONS.c[name] > row[name], REVOCATIONS.c[name]), else_=row[name])
        for name in ("at_ms", "until_ms")
    }
    connection.execute(
        statement.on_conflict_do_update(index_elements=[REVOCATIONS.c.id], set_=later)
    )
    journal_of(session, connection).touch_revocation(revoked)


def _id_of(revoked: Revoked) -> str:
    """Name what is taken back, whenever that is; hashed, as an index has no room for all zones."""
    what = [revoked.sub, revoked.jti, revoked.zones and sorted(revoked.zones)]
    return hashlib.sha256(dumps(what).encode()).hexdigest()


def _revoked_of(row: Row[Any]) -> Revoked:
    zones = None if row.zones is None else tuple(row.zones)
    return Revoked(row.sub, row.jti, zones, row.at_ms, row.until_ms)
