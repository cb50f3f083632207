"""Where errors of drivers end: the one table that says what each of them means."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy import exc
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.orm.exc import StaleDataError

from channels.ports import UnavailableError
from db.errors import (
    ConflictError,
    DatabaseError,
    DuplicateError,
    InvalidValueError,
    NotFoundError,
    OutcomeUnknownError,
    RowsLockedError,
    ZoneOccupiedError,
)

_LOCKED: Final = "55P03"
_READ_ONLY: Final = "25006"

_CONFLICTS: Final = {
    "40001": "serialization",
    "40P01": "deadlock",
}
"""SQLSTATEs after which the same transaction, tried anew, may succeed."""

_UNAVAILABLE: Final = {
    "08": "connection lost",
    "28": "not authorised",
    "3D": "no such database",
    "53": "out of resources",
    "53100": "no room on its disk",
    "57": "interrupted or shutting down",
    "58": "system error",
    _READ_ONLY: "read-only",
    "42P01": "tables are missing: migrate first",
    "42703": "tables are of another release: migrate first",
}
"""SQLSTATEs, or their first two characters, of a database that can't serve now."""

_LOST: Final = ("08", "57P", "40003")
"""What SQLSTATEs begin with after which a COMMIT may have been done all the same."""

_ENDED: Final = ("08", "57P")
"""What SQLSTATEs begin with after which a connection is of no use."""

_UNFIT: Final = "not a value that the column takes"
_INVALID: Final = {
    "22": _UNFIT,
    "23502": "missing",
    "23514": "out of range",
}
"""SQLSTATEs, or their first two characters, of values that no table can hold."""

_USER_KEYS: Final = ("uq_users_global_id", "users.global_id", "pk_users", "users.id")
_ZONE_KEYS: Final = ("pk_zones", "zones.zone_id")
_KEY: Final = re.compile(r"\(\w+\)=\((.*?)\)")


@contextmanager
def session_errors() -> Iterator[None]:
    """Translate what SQLAlchemy raises in a block that holds other people's code, too.

    Their own errors, and mistakes in the use of SQLAlchemy, are no driver's errors and pass.

    Raises:
        DatabaseError: or one of its kinds.
        UnavailableError: the database can't be asked.
    """
    try:
        yield
    except (StaleDataError, exc.DBAPIError, exc.TimeoutError) as error:
        raise translate(error) from error


@contextmanager
def driver_errors() -> Iterator[None]:
    """Translate what comes out of a driver in a block that holds only code of this package.

    That are also errors that SQLAlchemy lets pass as they are: of connecting, of waiting, of
    values that can't be sent.

    Raises:
        DatabaseError: or one of its kinds.
        UnavailableError: the database can't be asked.
    """
    try:
        with session_errors():
            yield
    except (OSError, TimeoutError, OverflowError, UnicodeEncodeError) as error:
        raise translate(error) from error


@contextmanager
def connection_errors() -> Iterator[None]:
    """Translate as `driver_errors` does in a block that also gets a connection from the pool.

    Raises:
        DatabaseError: or one of its kinds.
        UnavailableError: the database can't be asked, or each new connection is lost at once.
    """
    try:
        with driver_errors():
            yield
    except exc.InvalidRequestError as error:
        raise UnavailableError("database", "connections are lost as they are made") from error


@contextmanager
def commit_errors() -> Iterator[None]:
    """Translate as `driver_errors` does in a block that commits.

    Raises:
        DatabaseError: or one of its kinds; nothing was written.
        OutcomeUnknownError: the database was lost on the way.
        UnavailableError: the database can't commit now; nothing was written.
    """
    try:
        with driver_errors():
            yield
    except UnavailableError as error:
        if _is_rolled_back(error.__cause__):
            raise
        raise OutcomeUnknownError(error.what, error.reason) from error


def _is_rolled_back(cause: BaseException | None) -> bool:
    """Tell whether a commit surely failed: the server said so, or it never came to COMMIT."""
    if not isinstance(cause, exc.DBAPIError):
        return False
    state = getattr(cause.orig, "sqlstate", None)
    return cause.statement is not None or not (state or _LOST[0]).startswith(_LOST)


def notice_read_only(context: ExceptionContext) -> None:
    """Drop the connections of a writer that finds the database read-only.

    A session keeps what it began with: they would refuse writes long after the database takes
    them again, or stay with the server that another one has taken over from. To be listened
    with to `handle_error` of an engine on PostgreSQL.
    """
    state = getattr(context.original_exception, "sqlstate", None)
    connection = context.connection
    if state == _READ_ONLY and connection is not None:
        # A reader is read-only because it asked for that.
        options = connection.get_execution_options()
        context.is_disconnect = not options.get("postgresql_readonly", False)


def notice_lost(context: ExceptionContext) -> None:
    """Drop connections whose server said that it ends them, also before they are seen closed.

    To be listened with to `handle_error` of an engine on PostgreSQL.
    """
    state = getattr(context.original_exception, "sqlstate", None) or ""
    if context.connection is not None and state.startswith(_ENDED):
        context.is_disconnect = True


def translate_in_driver(context: ExceptionContext) -> Exception | None:
    """Translate where a driver raises, what could not be told from other people's errors later.

    To be listened with to `handle_error` of an engine.
    """
    error = context.original_exception
    if isinstance(error, OSError | TimeoutError | OverflowError | UnicodeEncodeError):
        return translate(error)
    return None


def translate(error: Exception) -> Exception:
    """Say what a driver's error means; the message never holds values or secrets."""
    match error:
        case StaleDataError():
            meaning: Exception = ConflictError("stale")
        case exc.TimeoutError():
            meaning = UnavailableError("database", "no connection is free")
        case TimeoutError():
            meaning = UnavailableError("database", "no answer in time")
        case OSError():
            meaning = UnavailableError("database", error.strerror or type(error).__name__)
        case OverflowError() | UnicodeEncodeError():
            meaning = InvalidValueError("value", _UNFIT)
        case exc.IntegrityError():
            meaning = _broken_constraint(error)
        case exc.DBAPIError():
            meaning = _dbapi_error(error)
        case _:
            meaning = error
    return meaning


def _dbapi_error(error: exc.DBAPIError) -> Exception:
    state = getattr(error.orig, "sqlstate", None)
    if state is None:
        return _without_sqlstate(error)
    if state in _CONFLICTS:
        return ConflictError(_CONFLICTS[state])
    if state == _LOCKED:
        return RowsLockedError()
    for table, make in (
        (_UNAVAILABLE, lambda reason: UnavailableError("database", reason)),
        (_INVALID, lambda reason: InvalidValueError("value", reason)),
    ):
        reason = table.get(state) or table.get(state[:2])
        if reason is not None:
            return make(reason)
    return DatabaseError(f"the database refused: SQLSTATE {state}")


def _without_sqlstate(error: exc.DBAPIError) -> Exception:
    """Tell apart what SQLite, and a driver that lost its connection, say only in words."""
    words = str(error.orig)
    if "database is locked" in words or "database table is locked" in words:
        return ConflictError("locked")
    if "no such table" in words or "no such column" in words:
        return UnavailableError("database", "tables are missing: migrate first")
    if "disk is full" in words:
        return UnavailableError("database", "no room on its disk")
    # asyncpg checks values itself before it sends them.
    cause = error.orig.__cause__ if error.orig is not None else None
    if isinstance(error, exc.DataError) or isinstance(cause, ValueError | OverflowError):
        return InvalidValueError("value", _UNFIT)
    # SQLite says of a file that isn't a database, or is damaged, that it is a DatabaseError.
    # An internal error without a SQLSTATE is asyncpg's own: a session that the server has ended.
    failed = isinstance(error, exc.OperationalError | exc.InterfaceError | exc.InternalError)
    if failed or type(error) is exc.DatabaseError or error.connection_invalidated:
        # SQLite's own name says more than a class that it has for everything.
        kind = getattr(error.orig, "sqlite_errorname", type(error.orig or error).__name__)
        return UnavailableError("database", f"connection or storage failed: {kind}")
    return DatabaseError(f"the database refused: {type(error.orig).__name__}")


def _broken_constraint(error: exc.IntegrityError) -> Exception:
    """Name the rule of ours that a constraint stands for."""
    # asyncpg's own error is the cause; PostgreSQL may be speaking any language, but the names
    # of constraints and the form of keys are the same in all.
    cause = error.orig.__cause__ if error.orig is not None else None
    detail = getattr(cause, "detail", None) or ""
    words = f"{error.orig} {getattr(cause, 'constraint_name', None)}"
    found = _KEY.search(detail)
    key = found[1] if found else None
    if any(name in words for name in _USER_KEYS):
        return DuplicateError("user", int(key) if key else None)
    if any(name in words for name in _ZONE_KEYS):
        return DuplicateError("zone", key)
    if "fk_users_zone_id_zones" in words or "FOREIGN KEY constraint failed" in words:
        deleting = (error.statement or "").lstrip().upper().startswith("DELETE")
        return ZoneOccupiedError(key, None) if deleting else NotFoundError("zone", key)
    return InvalidValueError("value", "breaks a rule of the tables")
