"""SQLite as it has to be set up to be safe with several tasks and processes."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, event

BUSY_TIMEOUT_MS: Final = 5_000
"""How long a writer waits for another process's write, by default."""


def is_in_memory(url: URL) -> bool:
    """Tell whether the database lives in its only connection."""
    return url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:")


def set_up(engine: Engine, *, read_only: bool, busy_timeout_ms: int = BUSY_TIMEOUT_MS) -> None:
    """Set pragmas on each new connection, and begin transactions in the mode that is safe.

    A writer takes the write lock when it begins: a transaction that reads first and writes
    later would fail at once, without waiting, when somebody wrote in between. A reader never
    takes the lock, and can't write.

    Args:
        engine: An engine without connections yet.
        read_only: Whether its transactions only read.
        busy_timeout_ms: How long to wait for another connection's lock.
    """
    in_memory = is_in_memory(engine.url)

    def on_connect(connection: Any, _record: object) -> None:
        # No transaction begun by the driver: it would begin only before the first write.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {busy_timeout_ms}")
        if not in_memory:
            cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA foreign_keys = ON")
        if read_only:
            cursor.execute("PRAGMA query_only = ON")
        cursor.close()

    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", on_begin)
