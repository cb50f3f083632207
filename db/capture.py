"""Change capture: whatever a session commits about users and zones goes to the change log.

It listens on SQLAlchemy's `Session` class and on the two models, so that every session that
writes them is captured, also one that knows nothing of this package. Each write is noted in
the journal of its database transaction; right before the transaction's real COMMIT the net
effect is written to the log, on the same connection; and when a session knows that its
transaction has committed, the effect goes to the engine's outlet.

So SAVEPOINTs, sessions that join a transaction of somebody else's, and objects flushed at the
last moment need no rules of their own: the COMMIT of the connection is the one that counts. In
a transaction that the session doesn't own, the log is written when its owner commits; nobody
is told then, and head checks of running nodes find it.

Refused, because no write to the log would come of it: UPDATE, DELETE and INSERT statements on
the two tables through a session, and `Session.bulk_*`. Not seen, and so to be followed by
`zonecast resync`: `text()`, statements on a plain connection, statements hidden in a CTE,
two-phase commits (neither driver has them), and what other programs do to the tables.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from sqlalchemy import Connection, Engine, event, inspect, select
from sqlalchemy.orm import (
    InstanceState,
    Mapper,
    Session,
    SessionTransaction,
    UOWTransaction,
    object_session,
)
from sqlalchemy.orm.exc import StaleDataError

from channels.changes import Transaction
from db import refusals
from db.history import identity_of, known_before, known_version, state_of, user_refreshed
from db.journal import OUTLET_OPTION, Journal
from db.models import User, Zone
from db.net_effect import UserBefore
from db.rows import USERS, ZONES, among

_JOURNALS: Final = "zonecast.journals"
_COMMITTED: Final = "zonecast.committed"
_BEFORES: Final = "zonecast.befores"
_log = logging.getLogger(__name__)


def listen() -> None:
    """Begin to capture what sessions of this process commit; called when `db` is imported."""
    event.listen(Session, "before_flush", _before_flush)
    event.listen(Session, "after_commit", _after_commit)
    event.listen(Session, "after_transaction_create", _after_transaction_create)
    event.listen(Session, "after_transaction_end", _after_transaction_end)
    refusals.listen()
    for model, name, listener in (
        (User, "refresh", user_refreshed),
        (User, "before_update", _before_user_update),
        (User, "after_update", _after_user_update),
        (User, "after_insert", _after_user_insert),
        (User, "before_delete", _before_user_delete),
        (User, "after_delete", _after_user_delete),
        (Zone, "before_update", _before_zone_update),
        (Zone, "after_update", _after_zone_update),
        (Zone, "after_insert", _after_zone_insert),
        (Zone, "after_delete", _after_zone_delete),
    ):
        event.listen(model, name, listener, propagate=True)


def journal_of(session: Session, connection: Connection) -> Journal:
    """Return the journal of the session's transaction on this connection.

    Set-based statements note in it what they wrote.

    Raises:
        UncapturedWriteError: it is a transaction whose commit can't be seen.
    """
    journal = journal_on(connection)
    journals: list[Journal] = session.info.setdefault(_JOURNALS, [])
    if not any(journal is known for known in journals):
        journals.append(journal)
    return journal


def journal_on(connection: Connection) -> Journal:
    """Return the journal of the connection's transaction; who commits it has to hand it over.

    Raises:
        UncapturedWriteError: it is a transaction whose commit can't be seen.
    """
    journal = Journal.of(connection)
    if OUTLET_OPTION not in connection.get_execution_options():
        _listen_on(connection)
    return journal


def committed_transaction(session: Session) -> Transaction | None:
    """Return what the session's last transaction changed, `None` when no channel changed."""
    committed: Transaction | None = session.info.get(_COMMITTED)
    return committed


# --- The database transaction, however it was begun ------------------------------------------


def listen_on_engine(engine: Engine) -> None:
    """Begin to write what is noted in journals when connections of an engine of ours commit.

    An engine that has `OUTLET_OPTION`; those made of it, with other options, are heard by it.
    """
    event.listen(engine, "commit", _on_commit)
    event.listen(engine, "savepoint", _on_savepoint)
    event.listen(engine, "release_savepoint", _on_release_savepoint)
    event.listen(engine, "rollback_savepoint", _on_rollback_savepoint)


def _listen_on(connection: Connection) -> None:
    # Of a foreign engine: on the connection, which is made anew for each transaction of a
    # session, as which engines are made of one another can't be told.
    if not event.contains(connection, "commit", _on_commit):
        event.listen(connection, "commit", _on_commit)
        event.listen(connection, "savepoint", _on_savepoint)
        event.listen(connection, "release_savepoint", _on_release_savepoint)
        event.listen(connection, "rollback_savepoint", _on_rollback_savepoint)


def _on_commit(connection: Connection) -> None:
    journal = Journal.find(connection)
    if journal is None:
        return
    try:
        journal.record(connection)
    except BaseException:
        _abandon(connection)
        raise


def _abandon(connection: Connection) -> None:
    """End the transaction in the database.

    After a failed COMMIT SQLAlchemy takes it that there is nothing to roll back, and would
    put the connection back into the pool with the transaction still open.
    """
    if connection.closed or connection.invalidated:
        return
    try:
        connection.engine.dialect.do_rollback(connection.connection)
    except Exception as error:  # noqa: BLE001 - what made the commit fail says more
        _log.debug("rollback of a failed commit failed", exc_info=error)
        connection.invalidate()
    except BaseException:
        connection.invalidate()
        raise


def _on_savepoint(connection: Connection, _name: str | None) -> None:
    journal = Journal.find(connection)
    if journal is not None:
        journal.begin_savepoint()


def _on_release_savepoint(connection: Connection, _name: str, _context: None) -> None:
    journal = Journal.find(connection)
    if journal is not None:
        journal.release_savepoint()


def _on_rollback_savepoint(connection: Connection, _name: str, _context: None) -> None:
    journal = Journal.find(connection)
    if journal is not None:
        journal.roll_back_savepoint()


# --- The session -----------------------------------------------------------------------------


def _after_commit(session: Session) -> None:
    # Fires at the release of SAVEPOINTs, too, and in a transaction of somebody else's: then
    # nothing was recorded yet.
    for journal in session.info.get(_JOURNALS, ()):
        committed = journal.hand_over()
        if committed is not None:
            session.info[_COMMITTED] = committed


def _after_transaction_end(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        session.info.pop(_JOURNALS, None)


def _after_transaction_create(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        session.info.pop(_COMMITTED, None)


def _before_flush(session: Session, _context: UOWTransaction, _instances: object) -> None:
    # Of this flush only: what an earlier one found out may have been rolled back.
    session.info[_BEFORES] = {}
    deleted = [obj for obj in session.deleted if isinstance(obj, User)]
    unknown = [obj for obj in session.dirty if isinstance(obj, User) and not known_before(obj)]
    deleted_zones = [obj for obj in session.deleted if isinstance(obj, Zone)]
    if deleted or unknown:
        _lock_users(session, deleted, unknown)
    if deleted_zones:
        _lock_zones(session, deleted_zones)
    if deleted or deleted_zones:
        _note_replacements(session, deleted, deleted_zones)


def _lock_users(session: Session, deleted: list[User], unknown: list[User]) -> None:
    """Learn where users are, and hold their rows, in one statement and in the order of ids.

    Deletes need it because asyncpg doesn't tell how many rows several DELETEs met, so that a
    lost race would go unnoticed; changes, when the object doesn't know the old values: they
    could be others by the time of the UPDATE.
    """
    connection = session.connection(bind_arguments={"mapper": inspect(User)})
    ids = {identity_of(obj): obj for obj in (*deleted, *unknown)}
    query = (
        select(USERS.c.id, USERS.c.zone_id, USERS.c.version)
        .where(among(USERS.c.id, list(ids), connection.dialect.name))
        .order_by(USERS.c.id)
        .with_for_update()
    )
    rows = {row.id: UserBefore(row.zone_id, row.version) for row in connection.execute(query)}
    for user_id, user in ids.items():
        known, row = known_version(user), rows.get(user_id)
        if row is None or known not in (None, row.version):
            raise StaleDataError(f"user {user_id} is gone or was changed by another transaction")
        _befores(user)[state_of(user)] = row


def _lock_zones(session: Session, deleted: list[Zone]) -> None:
    connection = session.connection(bind_arguments={"mapper": inspect(Zone)})
    wanted = {str(identity_of(zone)) for zone in deleted}
    query = (
        select(ZONES.c.zone_id)
        .where(among(ZONES.c.zone_id, sorted(wanted), connection.dialect.name))
        .order_by(ZONES.c.zone_id)
        .with_for_update()
    )
    if wanted.difference(connection.execute(query).scalars()):
        raise StaleDataError("a zone was deleted by another transaction")


def _note_replacements(session: Session, users: list[User], zones: list[Zone]) -> None:
    """Tell new objects what they replace: deleted and made anew in one flush is an UPDATE."""
    befores: dict[InstanceState[Any], Any] = session.info[_BEFORES]
    by_identity = {identity_of(user): befores[state_of(user)] for user in users}
    replaced = {identity_of(zone) for zone in zones}
    for obj in session.new:
        if isinstance(obj, User) and obj.id in by_identity:
            befores[state_of(obj)] = by_identity[obj.id]
        elif isinstance(obj, Zone) and obj.zone_id in replaced:
            befores[state_of(obj)] = True


# --- The objects -----------------------------------------------------------------------------


def _before_user_update(_mapper: Mapper[User], connection: Connection, user: User) -> None:
    for name in ("id", "version"):
        if state_of(user).attrs[name].history.added:
            refusals.refuse(f"a change of users.{name}")
    _ensure_before(connection, user)


def _after_user_update(_mapper: Mapper[User], connection: Connection, user: User) -> None:
    before: UserBefore = _befores(user)[state_of(user)]
    # Also called for objects with nothing to write; then the version stays.
    if user.version != before.version:
        _journal(user, connection).touch_user(user.id, before)


def _after_user_insert(_mapper: Mapper[User], connection: Connection, user: User) -> None:
    before: UserBefore | None = _befores(user).get(state_of(user))
    _journal(user, connection).touch_user(user.id, before)


def _before_user_delete(_mapper: Mapper[User], connection: Connection, user: User) -> None:
    _ensure_before(connection, user)


def _after_user_delete(_mapper: Mapper[User], connection: Connection, user: User) -> None:
    before: UserBefore = _befores(user)[state_of(user)]
    _journal(user, connection).touch_user(user.id, before)


def _before_zone_update(_mapper: Mapper[Zone], _connection: Connection, zone: Zone) -> None:
    if state_of(zone).attrs["zone_id"].history.deleted:
        refusals.refuse("a change of zones.zone_id")


def _after_zone_update(_mapper: Mapper[Zone], connection: Connection, zone: Zone) -> None:
    if _session(zone).is_modified(zone, include_collections=False):
        _journal(zone, connection).touch_zone(zone.zone_id, existed=True)


def _after_zone_insert(_mapper: Mapper[Zone], connection: Connection, zone: Zone) -> None:
    replaces = state_of(zone) in _befores(zone)
    _journal(zone, connection).touch_zone(zone.zone_id, existed=replaces)


def _after_zone_delete(_mapper: Mapper[Zone], connection: Connection, zone: Zone) -> None:
    _journal(zone, connection).touch_zone(zone.zone_id, existed=True)


def _ensure_before(connection: Connection, user: User) -> None:
    """Find out where the user was, unless the flush did already.

    It did, but for an object that another listener of before_flush changed after ours.
    """
    state = state_of(user)
    befores = _befores(user)
    if state in befores:
        return
    before = known_before(user)
    if before is None:
        query = (
            select(USERS.c.zone_id, USERS.c.version)
            .where(USERS.c.id == identity_of(user))
            .with_for_update()
        )
        row = connection.execute(query).one_or_none()
        if row is None or known_version(user) not in (None, row.version):
            raise StaleDataError(f"user {identity_of(user)} is gone or was changed")
        before = UserBefore(row.zone_id, row.version)
    befores[state] = before


def _session(obj: User | Zone) -> Session:
    session = object_session(obj)
    assert session is not None  # noqa: S101 - it is being flushed
    return session


def _befores(obj: User | Zone) -> dict[InstanceState[Any], Any]:
    befores: dict[InstanceState[Any], Any] = _session(obj).info[_BEFORES]
    return befores


def _journal(obj: User | Zone, connection: Connection) -> Journal:
    return journal_of(_session(obj), connection)
