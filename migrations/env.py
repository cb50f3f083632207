"""Alembic's environment for its command line, on which revisions are written.

The service migrates without it, see `db.migrate`. Usage, beside `alembic.ini`:
`alembic -x url=sqlite+aiosqlite:///zonecast.db revision --autogenerate -m "..."`.
"""

from __future__ import annotations

import asyncio

from alembic import context
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from db.models import Base


def _run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()


async def _connect_and_run(url: str) -> None:
    engine = create_async_engine(url, poolclass=NullPool)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(_run)
    finally:
        await engine.dispose()


asyncio.run(_connect_and_run(context.get_x_argument(as_dictionary=True)["url"]))
