"""Sessions of PostgreSQL, bounded and durable; behind a pooler each transaction is it by itself."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, event, text

_BOUND_TRANSACTION: Final = text(
    """SELECT set_config('statement_timeout', :statement_ms, true),
        set_config('lock_timeout', :lock_ms, true),
        set_config('synchronous_commit', replace(
            current_setting('synchronous_commit'), 'off', 'on'), true)"""
)
"""What a session's settings are elsewhere, for one transaction."""


def set_up_sessions(engine: Engine, *, statement_timeout_s: float, lock_timeout_s: float) -> None:
    """Let every session that is opened begin with its bounds, and commit durably."""
    settings = {
        "application_name": "zonecast",
        "default_transaction_isolation": "read committed",
        "statement_timeout": _milliseconds(statement_timeout_s),
        # Who waits for rows keeps a connection from all others.
        "lock_timeout": _milliseconds(lock_timeout_s),
    }

    def give(_dialect: object, _record: object, _args: object, options: dict[str, Any]) -> None:
        options["server_settings"] = settings

    event.listen(engine, "do_connect", give)
    event.listen(engine, "connect", _make_commits_durable)


def nameless(url: URL) -> URL:
    """Return the URL with which SQLAlchemy keeps no statement for later."""
    return url.update_query_dict({"prepared_statement_cache_size": "0"})


def set_up_transactions(
    engine: Engine, *, statement_timeout_s: float, lock_timeout_s: float
) -> None:
    """Do the same for a pooler, where each transaction may run in another session.

    So nothing is left in one: settings are the transaction's, and statements have no name.
    """
    limits = {
        "statement_ms": _milliseconds(statement_timeout_s),
        "lock_ms": _milliseconds(lock_timeout_s),
    }

    def give(_dialect: object, _record: object, _args: object, options: dict[str, Any]) -> None:
        options["statement_cache_size"] = 0
        options["prepared_statement_name_func"] = str
        options["server_settings"] = {"application_name": "zonecast"}

    def bound(connection: Connection) -> None:
        connection.execute(_BOUND_TRANSACTION, limits)

    event.listen(engine, "do_connect", give)
    event.listen(engine, "begin", bound)


def _milliseconds(duration_s: float) -> str:
    # At least one: zero would mean no bound.
    return str(max(1, round(duration_s * 1000)))


def _make_commits_durable(connection: Any, _record: object) -> None:
    """Let a commit that subscribers see survive a crash; a stricter setting is left alone."""
    cursor = connection.cursor()
    cursor.execute(
        "SELECT set_config('synchronous_commit', 'on', false)"
        " WHERE current_setting('synchronous_commit') = 'off'"
    )
    cursor.close()
    connection.commit()
