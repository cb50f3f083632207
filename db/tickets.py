"""Tickets in the database: each is good once, on whichever node it is shown."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from db.errors import FullError
from db.models import Base, Ticket
from db.translation import driver_errors

TICKETS: Final = Base.metadata.tables[Ticket.__tablename__]


async def keep_ticket(
    db: AsyncSession,
    digest: str,
    principal: dict[str, Any],
    *,
    now_ms: int,
    until_ms: int,
    max_rows: int,
) -> None:
    """Write a ticket; those that are too old are deleted.

    Args:
        db: In a writing transaction.
        digest: What the ticket is found by; not the ticket, so that who reads the table can't
            use what is in it.
        principal: Whom it lets in, as JSON.
        now_ms: Unix milliseconds.
        until_ms: When it ends.
        max_rows: How many there may be.

    Raises:
        FullError: there are as many.
    """
    with driver_errors():
        connection = await db.connection()
        await connection.execute(delete(TICKETS).where(TICKETS.c.until_ms <= now_ms))
        count = await connection.scalar(select(func.count()).select_from(TICKETS))
        if (count or 0) >= max_rows:
            raise FullError("tickets", max_rows)
        row = {"digest": digest, "principal": principal, "until_ms": until_ms}
        await connection.execute(insert(TICKETS).values(row))


async def take_ticket(db: AsyncSession, digest: str, *, now_ms: int) -> dict[str, Any] | None:
    """Delete a ticket and return whom it lets in, `None` when there is none that is still good.

    The row's lock decides between two who show it at once: one of them finds it gone.
    """
    statement = (
        delete(TICKETS)
        .where(TICKETS.c.digest == digest)
        .returning(TICKETS.c.principal, TICKETS.c.until_ms)
    )
    with driver_errors():
        connection = await db.connection()
        row = (await connection.execute(statement)).one_or_none()
    if row is None or row.until_ms <= now_ms:
        return None
    principal: dict[str, Any] = row.principal
    return principal
