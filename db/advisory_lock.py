"""Advisory locks of PostgreSQL, held on a connection of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import URL, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from db.address import connecting, refuse_pooler
from db.translation import driver_errors


@asynccontextmanager
async def advisory_lock(
    url: str | URL, key: int, *, is_shared: bool = False, connect_timeout_s: float = 10
) -> AsyncIterator[bool]:
    """Hold a lock until the block ends, or its connection does; it is not waited for.

    Args:
        url: A SQLAlchemy async URL of PostgreSQL. It needs one connection more than the pool.
        key: A 64-bit number, of the whole database.
        is_shared: Whether others may hold it, shared, too.
        connect_timeout_s: How long connecting may take.

    Yields:
        Whether it was to be had.

    Raises:
        PooledError: a pooler answers, which would give the lock to whoever comes next.
        UnavailableError: the database can't be asked.
    """
    address, options = connecting(url)
    engine = create_async_engine(
        address,
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
        connect_args={"timeout": connect_timeout_s, "statement_cache_size": 0, **options},
    )
    function = "pg_try_advisory_lock_shared" if is_shared else "pg_try_advisory_lock"
    try:
        with driver_errors():
            connection = await engine.connect()
        try:
            with driver_errors():
                await refuse_pooler(connection)
                got = await connection.scalar(text(f"SELECT {function}(:key)"), {"key": key})
            yield bool(got)
        finally:
            with driver_errors():
                await connection.close()
    finally:
        await engine.dispose()
