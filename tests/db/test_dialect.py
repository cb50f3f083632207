"""What is used of SQLAlchemy past its public interface is there, and is what it is taken for."""

from __future__ import annotations

import inspect
from typing import Final

from sqlalchemy import util
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_connection
from sqlalchemy.engine.default import DefaultDialect

from db.dialect import BeginningDialect
from db.engine import Database

MOVED: Final = "SQLAlchemy has no {} any more: db/dialect.py begins transactions by it"


async def test_the_driver_tells_its_transaction_and_can_begin_one(
    postgres_database: Database,
) -> None:
    """`_transaction` is there while one is open; `_start_transaction` sends BEGIN."""
    for name in ("_transaction", "_start_transaction"):
        known = hasattr(AsyncAdapt_asyncpg_connection, name) or name in (
            AsyncAdapt_asyncpg_connection.__slots__
        )
        assert known, MOVED.format(f"AsyncAdapt_asyncpg_connection.{name}")
    begin = AsyncAdapt_asyncpg_connection._start_transaction
    assert inspect.iscoroutinefunction(begin), "_start_transaction is not to be awaited any more"
    assert isinstance(postgres_database.engine.dialect, BeginningDialect)
    async with postgres_database.engine.connect() as connection:
        driver = (await connection.get_raw_connection()).dbapi_connection
        assert driver is not None
        assert driver._transaction is None, "a transaction is open before the begin"
        async with connection.begin():
            assert driver._transaction is not None, "BEGIN waits for the first statement"
            assert driver.driver_connection.is_in_transaction(), "BEGIN wasn't sent"
        assert driver._transaction is None, "a transaction is open behind its end"
        assert not driver.driver_connection.is_in_transaction()


async def test_the_pools_own_try_of_a_connection_tells_whether_it_lives(
    postgres_database: Database,
) -> None:
    """`_do_ping_w_event` is what `pool_pre_ping` calls: true, or false for one that is lost."""
    assert hasattr(DefaultDialect, "_do_ping_w_event"), MOVED.format(
        "DefaultDialect._do_ping_w_event"
    )
    async with postgres_database.engine.connect() as connection:
        raw = await connection.get_raw_connection()
        dialect = postgres_database.engine.sync_engine.dialect

        def ping(_connection: object) -> bool:
            driver = raw.dbapi_connection
            return bool(dialect._do_ping_w_event(driver))  # type: ignore[arg-type]

        assert await connection.run_sync(ping) is True
        assert raw.driver_connection is not None
        raw.driver_connection.terminate()
        assert await connection.run_sync(ping) is False
        await connection.invalidate()


async def test_sync_code_can_be_spawned_and_can_wait(postgres_database: Database) -> None:
    """Transactions without a session run so: `greenlet_spawn` and, inside, `await_only`."""
    for name in ("greenlet_spawn", "await_only"):
        assert hasattr(util, name), f"SQLAlchemy has no util.{name} any more"

    def count() -> int:
        with postgres_database.engine.sync_engine.connect() as connection:
            return int(connection.exec_driver_sql("SELECT 1").scalar_one())

    assert await util.greenlet_spawn(count) == 1
