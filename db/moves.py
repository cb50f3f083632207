"""Many users at once: rows locked in one order, written by one statement, captured."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from json import dumps
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, bindparam, insert, inspect, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from sqlalchemy.orm.util import identity_key

from channels import events
from db.capture import journal_of, journal_on
from db.errors import ConflictError
from db.journal import Journal
from db.models import User
from db.net_effect import UserBefore
from db.rows import USERS, ZONES, among, select_users, user_of
from db.types import UtcDateTime, utc_now

Move = tuple[events.User, str | None]
"""A user as its locked row has it, and the zone where it goes; `None`: into no zone."""

BIND: Final = {"mapper": inspect(User)}

_MOVE_POSTGRES: Final = text(
    """UPDATE users SET zone_id = m.zone_id, version = version + 1, updated_at = :now
    FROM unnest(CAST(:ids AS bigint[]), CAST(:zone_ids AS text[])) AS m(id, zone_id)
    WHERE users.id = m.id RETURNING users.id, users.version"""
).bindparams(bindparam("now", type_=UtcDateTime()))
_MOVE_SQLITE: Final = text(
    """UPDATE users SET zone_id = json_extract(m.value, '$[1]'), version = version + 1,
        updated_at = :now
    FROM json_each(:moves) AS m
    WHERE users.id = json_extract(m.value, '$[0]') RETURNING users.id, users.version"""
).bindparams(bindparam("now", type_=UtcDateTime()))


# One round trip. The row is locked before it is compared, and the new zone is held by its key,
# as by any UPDATE; whoever deletes that zone holds no user who is not in it.
_MOVE_ONE_POSTGRES: Final = text(
    """WITH found AS MATERIALIZED (
        SELECT id, global_id, name, zone_id, attributes, version FROM users
        WHERE id = :user_id FOR NO KEY UPDATE),
    moved AS (
        UPDATE users SET zone_id = :zone_id, version = users.version + 1, updated_at = :now
        FROM found WHERE users.id = found.id
            AND found.zone_id IS DISTINCT FROM CAST(:zone_id AS text)
        RETURNING users.version)
    SELECT found.*, moved.version AS moved_version FROM found LEFT JOIN moved ON true"""
).bindparams(bindparam("now", type_=UtcDateTime()))
# SQLite has one writer: what is read stays as it is.
_FIND_ONE_SQLITE: Final = select_users().where(USERS.c.id == bindparam("user_id"))
_MOVE_ONE_SQLITE: Final = text(
    "UPDATE users SET zone_id = :zone_id, version = version + 1, updated_at = :now"
    " WHERE id = :user_id"
).bindparams(bindparam("now", type_=UtcDateTime()))


def move_one(
    connection: Connection,
    user_id: int,
    zone_id: str | None,
    journal_of: Callable[[Connection], Journal] = journal_on,
) -> events.User | None:
    """Lock a user and move it, unless it is there already, by one statement.

    Args:
        connection: In the writing transaction.
        user_id: The user.
        zone_id: Where it goes; `None`: into no zone.
        journal_of: Finds the journal in which the move is noted.

    Returns:
        The user as it is afterwards; `None` when there is none.
    """
    values = {"user_id": user_id, "zone_id": zone_id, "now": utc_now()}
    if connection.dialect.name == "postgresql":
        row = connection.execute(_MOVE_ONE_POSTGRES, values).one_or_none()
        version = None if row is None else row.moved_version
    else:
        row = connection.execute(_FIND_ONE_SQLITE, values).one_or_none()
        version = None
        if row is not None and row.zone_id != zone_id:
            connection.execute(_MOVE_ONE_SQLITE, values)
            version = row.version + 1
    if row is None:
        return None
    before = user_of(row)
    if version is None:
        return before
    after = events.User(
        before.id, before.global_id, before.name, zone_id, before.attributes, version
    )
    note = UserBefore(before.zone_id, before.version)
    journal_of(connection).touch_user(user_id, note, after)
    return after


async def move_one_of_session(
    db: AsyncSession, user_id: int, zone_id: str | None
) -> events.User | None:
    """Do the same in a session; its object that stands for the user is read anew."""

    def move(session: Session) -> events.User | None:
        connection = session.connection(bind_arguments=BIND)
        return move_one(connection, user_id, zone_id, partial(journal_of, session))

    moved = await db.run_sync(move)
    if identity_key(User, user_id) in db.identity_map:
        query = select(User).where(USERS.c.id == user_id)
        await db.execute(query.execution_options(populate_existing=True))
    return moved


async def hold_zones(db: AsyncSession, zone_ids: Collection[str]) -> set[str]:
    """Keep zones from being deleted until the transaction ends; return those that exist.

    Before any user is locked: who deletes a zone locks it, and then the users in it.
    """
    if not zone_ids:
        return set()
    connection = await db.connection()
    return await connection.run_sync(hold_zones_on, zone_ids)


def hold_zones_on(connection: Connection, zone_ids: Collection[str]) -> set[str]:
    """Do the same on a connection."""
    query = (
        select(ZONES.c.zone_id)
        .where(among(ZONES.c.zone_id, sorted(zone_ids), connection.dialect.name))
        .order_by(ZONES.c.zone_id)
        .with_for_update(read=True, key_share=True)
    )
    return set(connection.execute(query).scalars())


async def lock_users(db: AsyncSession, condition: ColumnElement[bool]) -> list[events.User]:
    """Lock users for writing, in the order of their ids, and return them as they are."""
    connection = await db.connection()
    return await connection.run_sync(lock_users_on, condition)


def lock_users_on(connection: Connection, condition: ColumnElement[bool]) -> list[events.User]:
    """Do the same on a connection."""
    query = select_users().where(condition).order_by(USERS.c.id).with_for_update(key_share=True)
    return list(map(user_of, connection.execute(query)))


async def move_users(db: AsyncSession, moves: Sequence[Move]) -> None:
    """Move locked users, each into another zone than it is in, by one statement.

    Objects of the session that stand for them are read anew.

    Raises:
        ConflictError: a row wasn't as it was locked, which only a write past the locks does.
    """
    if not moves:
        return
    connection = await db.connection()
    await connection.run_sync(move_locked, moves, partial(journal_of, db.sync_session))
    ids = [user.id for user, _ in moves]
    loaded = [user_id for user_id in ids if identity_key(User, user_id) in db.identity_map]
    if loaded:
        query = select(User).where(among(USERS.c.id, loaded, connection.dialect.name))
        await db.execute(query.execution_options(populate_existing=True))


def move_locked(
    connection: Connection,
    moves: Sequence[Move],
    journal_of: Callable[[Connection], Journal] = journal_on,
) -> list[events.User]:
    """Do the same on a connection; return the users as they are afterwards.

    Args:
        connection: In the writing transaction.
        moves: At least one.
        journal_of: Finds the journal in which the moves are noted.
    """
    now = utc_now()
    rows: Sequence[Row[Any]]
    if connection.dialect.name == "postgresql":
        values: dict[str, Any] = {
            "ids": [user.id for user, _ in moves],
            "zone_ids": [zone_id for _, zone_id in moves],
        }
        rows = connection.execute(_MOVE_POSTGRES, {**values, "now": now}).all()
    else:
        pairs = dumps([(user.id, zone_id) for user, zone_id in moves])
        rows = connection.execute(_MOVE_SQLITE, {"moves": pairs, "now": now}).all()
    versions: dict[int, int] = dict(map(tuple, rows))
    journal = journal_of(connection)
    moved = []
    for user, zone_id in moves:
        version = user.version + 1
        if versions.get(user.id) != version:
            raise ConflictError("stale")
        after = events.User(user.id, user.global_id, user.name, zone_id, user.attributes, version)
        journal.touch_user(user.id, UserBefore(user.zone_id, user.version), after)
        moved.append(after)
    return moved


async def insert_users(db: AsyncSession, new: Sequence[User]) -> list[User]:
    """Insert users that no session knows by one statement.

    Returns:
        The users as the session knows them now, in the order given.
    """
    connection = await db.connection()
    rows = [
        {
            "global_id": user.global_id,
            "name": user.name,
            "zone_id": user.zone_id,
            "attributes": user.attributes,
            "version": 1,
        }
        for user in new
    ]
    if not rows:
        return []
    # Not sorted by parameters, which SQLite would do row by row: global ids tell who is who.
    inserted = await connection.execute(insert(USERS).returning(USERS.c.id), rows)
    ids = list(inserted.scalars())
    found = await db.scalars(select(User).where(among(USERS.c.id, ids, connection.dialect.name)))
    made = {user.global_id: user for user in found}
    journal = await connection.run_sync(lambda plain: journal_of(db.sync_session, plain))
    for user_id in ids:
        journal.touch_user(user_id, None)
    return [made[user.global_id] for user in new]
