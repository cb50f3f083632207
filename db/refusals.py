"""Writes that the change capture can't see, refused before they happen.

An UPDATE, DELETE or INSERT statement through a session, and `Session.bulk_*`, write the tables
without telling what they met.
"""

from __future__ import annotations

from typing import Any, Final, NoReturn

from sqlalchemy import Connection, event, exc, inspect
from sqlalchemy.orm import (
    ORMExecuteState,
    Session,
    SessionTransaction,
    SessionTransactionOrigin,
    UOWTransaction,
)
from sqlalchemy.sql.dml import UpdateBase

from db.errors import UncapturedWriteError
from db.models import User
from db.rows import USERS, ZONES

_FLUSHING: Final = "zonecast.flushing"
_GUARDED: Final = "zonecast.guarded"
_INSTEAD: Final = (
    "change objects and commit, or use bulk_create_users, transfer_users or delete_zone"
)


def listen() -> None:
    """Begin to refuse, in all sessions of this process."""
    event.listen(Session, "before_flush", _before_flush)
    event.listen(Session, "after_transaction_create", _after_transaction_create)
    event.listen(Session, "after_transaction_end", _after_transaction_end)
    event.listen(Session, "do_orm_execute", _do_orm_execute)


def refuse(what: str) -> NoReturn:
    """Refuse a write, naming the way that works.

    Raises:
        UncapturedWriteError: always.
    """
    raise UncapturedWriteError(what, _INSTEAD)


def _do_orm_execute(state: ORMExecuteState) -> None:
    if not (state.is_insert or state.is_update or state.is_delete):
        return
    statement: Any = state.statement
    if state.is_from_statement:
        statement = statement.element
    if statement.table in (USERS, ZONES):
        refuse(f"{type(statement).__name__.upper()} {statement.table} through a session")


def _before_flush(session: Session, _context: UOWTransaction, _instances: object) -> None:
    session.info[_FLUSHING] = True


def _after_transaction_create(session: Session, transaction: SessionTransaction) -> None:
    if transaction.origin is not SessionTransactionOrigin.SUBTRANSACTION:
        return
    # A flush announces itself with before_flush; bulk_save_objects and its like don't, and
    # call no other listener either.
    if session.info.pop(_FLUSHING, False):
        return
    try:
        connection = session.connection(bind_arguments={"mapper": inspect(User)})
    except exc.UnboundExecutionError:
        return  # This session has nothing to do with our tables.
    event.listen(connection, "before_execute", _before_bulk_execute)
    session.info[_GUARDED] = connection


def _after_transaction_end(session: Session, _transaction: SessionTransaction) -> None:
    session.info.pop(_FLUSHING, None)
    guarded: Connection | None = session.info.pop(_GUARDED, None)
    if guarded is not None:
        event.remove(guarded, "before_execute", _before_bulk_execute)


def _before_bulk_execute(_connection: Connection, statement: Any, *_rest: object) -> None:
    if isinstance(statement, UpdateBase) and statement.table in (USERS, ZONES):
        refuse(f"Session.bulk_* on {statement.table}")
