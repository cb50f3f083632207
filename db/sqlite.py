"""SQLite as it has to be set up to be safe with several tasks and processes."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from typing import Any, Final

import aiosqlite
from sqlalchemy import URL, Connection, Engine, event
from sqlalchemy.ext.asyncio import AsyncEngine

_log = logging.getLogger(__name__)

BUSY_TIMEOUT_MS: Final = 5_000
"""How long a writer waits for another process's write, by default."""
WAL_RETRY_S: Final = 0.02
"""How long to wait until the switch to WAL is tried again."""


def is_in_memory(url: URL) -> bool:
    """Tell whether the database lives in its only connection."""
    return url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:")


async def switch_to_wal(engine: AsyncEngine, timeout_s: float) -> None:
    """Let readers and a writer of this file not wait for each other; the file remembers it.

    Raises:
        TimeoutError: others were using the file all the time.
    """
    async with asyncio.timeout(timeout_s), engine.connect() as connection:
        raw = await connection.get_raw_connection()
        driver = raw.driver_connection
        assert isinstance(driver, aiosqlite.Connection)  # noqa: S101 - the only driver
        while True:
            try:
                await driver.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError:
                # For this lock SQLite itself doesn't wait.
                await asyncio.sleep(WAL_RETRY_S)
            else:
                return


def set_up(
    engine: Engine,
    *,
    read_only: bool,
    busy_timeout_ms: int = BUSY_TIMEOUT_MS,
    uses_wal: bool = True,
) -> None:
    """Set pragmas on each new connection, and begin transactions in the mode that is safe.

    A writer takes the write lock when it begins: a transaction that reads first and writes
    later would fail at once, without waiting, when somebody wrote in between. A reader never
    takes the lock, and can't write.

    Args:
        engine: An engine without connections yet.
        read_only: Whether its transactions only read.
        busy_timeout_ms: How long to wait for another connection's lock.
        uses_wal: Whether to switch a file to WAL that isn't yet, which nobody else may be using.
    """
    uses_wal = uses_wal and not is_in_memory(engine.url)

    def on_connect(connection: Any, _record: object) -> None:
        # No transaction begun by the driver: it would begin only before the first write.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {busy_timeout_ms}")
        if uses_wal:
            cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA foreign_keys = ON")
        if read_only:
            cursor.execute("PRAGMA query_only = ON")
        cursor.close()

    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "invalidate", _roll_back)
    event.listen(engine, "begin", on_begin)


def _roll_back(connection: Any, _record: object, _error: object) -> None:
    """Let go of the write lock before a connection is given up, as when a task is cancelled.

    Closing alone doesn't: a statement that was cut off keeps the transaction open until its
    cursor is garbage, and all writers waiting.
    """
    try:
        connection.rollback()
    except BaseException as error:  # noqa: BLE001 - the connection is closed next, anyway
        _log.debug("rollback of a connection given up failed", exc_info=error)
