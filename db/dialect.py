"""The dialect: PostgreSQL asked without round trips that only try a connection."""

from __future__ import annotations

import time
from typing import Any, Final

from sqlalchemy import URL, event, exc
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import await_only

DRIVER: Final = "postgresql+zonecast_asyncpg"
"""SQLAlchemy's dialect of asyncpg, with transactions that begin when they are begun."""

TRUSTED_S: Final = 1.0
"""A connection used since is not tried: who begins a transaction finds out by itself."""

_IDLE_SINCE: Final = "zonecast.idle_since_s"


class BeginningDialect(PGDialect_asyncpg):
    """Sends BEGIN at the begin of a transaction, and not before its first statement.

    So a connection that died without a word fails where nothing was asked yet, and another
    can take its place.
    """

    driver = "zonecast_asyncpg"
    supports_statement_cache = True

    def do_begin(self, dbapi_connection: Any) -> None:
        """Send BEGIN, in the mode of the connection."""
        adapted = dbapi_connection.dbapi_connection
        if adapted._transaction is None:  # noqa: SLF001 - pinned; a contract test names them
            await_only(adapted._start_transaction())  # noqa: SLF001 - as above


registry.register("postgresql.zonecast_asyncpg", __name__, BeginningDialect.__name__)


def quick_dialect(url: URL) -> URL:
    """Return the URL with this dialect in the place of SQLAlchemy's own."""
    return url.set(drivername=DRIVER)


def try_when_idle(engine: AsyncEngine) -> None:
    """Try a connection before it is used only when nobody used it for `TRUSTED_S`.

    One that the driver knows to be closed is replaced without being asked.
    """
    dialect = engine.sync_engine.dialect

    def on_checkin(_connection: object, record: Any) -> None:
        record.info[_IDLE_SINCE] = time.monotonic()

    def on_checkout(connection: Any, record: Any, _proxy: object) -> None:
        idle_since_s = record.info.get(_IDLE_SINCE)
        if connection.driver_connection.is_closed():
            raise exc.InvalidatePoolError("closed")
        if idle_since_s is None or time.monotonic() - idle_since_s < TRUSTED_S:
            return
        if not dialect._do_ping_w_event(connection):  # noqa: SLF001 - what pre-ping does
            raise exc.InvalidatePoolError("lost")

    event.listen(engine.sync_engine, "checkin", on_checkin)
    event.listen(engine.sync_engine, "checkout", on_checkout)
