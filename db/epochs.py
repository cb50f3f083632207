"""Beginning all histories anew, after the tables were written past the change capture."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncSession

from db import heads
from db.engine import Database


async def renew_epochs(database: Database) -> int:
    """Give every channel a new epoch, so that every subscriber takes the state anew.

    One transaction; writers of all channels wait for it. Running nodes notice when they next
    compare heads. Cancel-safe.

    Returns:
        How many channels there are.

    Raises:
        ConflictError: other writers were first in every try.
        UnavailableError: the database can't be asked.
    """

    async def work(session: AsyncSession) -> int:
        connection = await session.connection()
        return await connection.run_sync(heads.renew)

    committed = await database.run_transaction(work)
    return committed.value
