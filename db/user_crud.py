"""Users: reading and writing them. Functions flush and never commit: their caller does."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from sqlalchemy import Connection, Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from channels import events
from channels.zone_grants import ALL_ZONES, ZoneGrant
from db.batch_moves import Transfer as Transfer  # noqa: PLC0414 - exported
from db.batch_moves import move_batch
from db.capture import journal_of
from db.errors import (
    DuplicateError,
    InvalidValueError,
    NotFoundError,
    VersionMismatchError,
)
from db.models import User
from db.moves import BIND, hold_zones, insert_users, lock_users, move_one, move_one_of_session
from db.rows import USERS, among, dict_of_users, named, select_users_dict
from db.translation import driver_errors
from db.zone_filter import within

CHANGEABLE: Final = frozenset({"global_id", "name", "zone_id", "attributes"})


@dataclass(frozen=True, slots=True)
class NewUser:
    """A user to be made.

    Attributes:
        global_id: Unique, 0 to 2**53 - 1.
        name: 1 to 200 characters.
        zone_id: The zone where it is; `None`: in none.
        attributes: Whatever JSON can hold.
    """

    global_id: int
    name: str
    zone_id: str | None = None
    attributes: dict[str, Any] = field(default_factory=dict)


async def get_all_users(
    db: AsyncSession,
    skip: int = 0,
    limit: int = 100,
    *,
    zone_id: str | None = None,
    global_id: int | None = None,
    after_id: int | None = None,
    grant: ZoneGrant = ALL_ZONES,
) -> list[User]:
    """Return a page of users in the order of their ids, of all or of those that match.

    Who reads page by page by `after_id`, the last id of the page before, misses nobody who is
    there all the time, whoever is deleted meanwhile.

    Of users in zones outside of the grant nothing is told; pages are as if there were none.
    """
    query = _granted(db, select(User).order_by(User.id).offset(skip).limit(limit), grant)
    if zone_id is not None:
        query = query.where(User.zone_id == zone_id)
    if global_id is not None:
        query = query.where(User.global_id == global_id)
    if after_id is not None:
        query = query.where(User.id > after_id)
    with driver_errors():
        return list(await db.scalars(query))


async def get_user_by_id(db: AsyncSession, user_id: int) -> User | None:
    """Return a user, `None` when there is none with this id."""
    with driver_errors():
        return await db.get(User, user_id)


async def count_users(db: AsyncSession, grant: ZoneGrant = ALL_ZONES) -> int:
    """Count all users, or those in granted zones."""
    with driver_errors():
        return await db.scalar(_granted(db, select(func.count()).select_from(User), grant)) or 0


def _granted(db: AsyncSession, query: Select[Any], grant: ZoneGrant) -> Select[Any]:
    if grant.has_all:
        return query
    return query.where(within(USERS.c.zone_id, grant, db.get_bind().dialect.name))


async def hold_users(
    db: AsyncSession,
    *,
    user_ids: Sequence[int] = (),
    global_ids: Sequence[int] = (),
    into: Collection[str] = (),
) -> dict[tuple[str, int], str | None]:
    """Lock users until the transaction ends, so that they stay in the zones where they are.

    Zones that they are to go `into` come first, as `hold_zones` has it.

    Returns:
        Their zones, by `("id", user_id)` and by `("global_id", global_id)`; who is not there is
        missing.
    """
    dialect = db.get_bind().dialect.name
    with driver_errors():
        _ = await hold_zones(db, into)
        users = await lock_users(db, named(user_ids, global_ids, dialect))
    zones: dict[tuple[str, int], str | None] = {}
    for user in users:
        zones["id", user.id] = zones["global_id", user.global_id] = user.zone_id
    return zones


async def get_users_dict(db: AsyncSession) -> dict[int, dict[str, Any]]:
    """Return all users by their global ids: `{global_id: {id, name, zone_id, version}}`."""
    with driver_errors():
        return dict_of_users(await db.execute(select_users_dict()))


async def create_user(
    db: AsyncSession,
    *,
    global_id: int,
    name: str,
    zone_id: str | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> User:
    """Make a user.

    Raises:
        DuplicateError: the global id is taken.
        NotFoundError: there is no such zone.
        InvalidValueError: a value that the table can't hold.
    """
    user = User(global_id=global_id, name=name, zone_id=zone_id, attributes=dict(attributes or {}))
    db.add(user)
    try:
        with driver_errors():
            await db.flush()
    except DuplicateError as error:
        raise DuplicateError("user", global_id) from error
    except NotFoundError as error:
        raise NotFoundError("zone", zone_id) from error
    return user


async def bulk_create_users(db: AsyncSession, users: Sequence[NewUser]) -> list[User]:
    """Make users, all or none, by one INSERT; they are returned in the order given.

    Raises:
        DuplicateError: a global id is taken, or given twice; `index` is its row.
        NotFoundError: there is no such zone; `index` is the first row that names it.
        InvalidValueError: a value that the table can't hold.
    """
    made = [
        User(
            global_id=new.global_id,
            name=new.name,
            zone_id=new.zone_id,
            attributes=dict(new.attributes),
        )
        for new in users
    ]
    try:
        with driver_errors():
            await db.flush()
            await _check_new_users(db, users)
            return await insert_users(db, made)
    except DuplicateError as error:
        if error.index is not None or error.key is None:
            raise
        # Somebody else made it after the look-up.
        index = [new.global_id for new in users].index(int(error.key))
        raise DuplicateError("user", error.key, index) from error


async def update_user(
    db: AsyncSession,
    user_id: int,
    changes: Mapping[str, Any],
    *,
    expected_version: int | None = None,
) -> User:
    """Set some of a user's `global_id`, `name`, `zone_id` and `attributes`.

    Raises:
        NotFoundError: there is no such user, or no such zone.
        VersionMismatchError: the user isn't at `expected_version`.
        DuplicateError: the global id is taken.
        InvalidValueError: a value that the table can't hold, or a field that can't be set.
    """
    for unknown in sorted(changes.keys() - CHANGEABLE):
        raise InvalidValueError(unknown, "can't be set")
    user = await _lock_user(db, user_id, expected_version)
    for key, value in changes.items():
        setattr(user, key, value)
    try:
        with driver_errors():
            await db.flush()
    except DuplicateError as error:
        raise DuplicateError("user", changes.get("global_id")) from error
    except NotFoundError as error:
        raise NotFoundError("zone", changes.get("zone_id")) from error
    return user


async def delete_user(
    db: AsyncSession, user_id: int, *, expected_version: int | None = None
) -> None:
    """Delete a user.

    Raises:
        NotFoundError: there is no such user.
        VersionMismatchError: the user isn't at `expected_version`.
    """
    user = await _lock_user(db, user_id, expected_version)
    with driver_errors():
        await db.delete(user)
        await db.flush()


async def transfer_user_to_zone(db: AsyncSession, user_id: int, zone_id: str | None) -> User:
    """Move a user into a zone, or into none; where it is already, nothing happens.

    Raises:
        NotFoundError: there is no such user, or no such zone.
    """
    try:
        with driver_errors():
            await db.flush()
            moved = await move_one_of_session(db, user_id, zone_id)
    except NotFoundError as error:
        raise NotFoundError("zone", zone_id) from error
    if moved is None:
        raise NotFoundError("user", user_id)
    with driver_errors():
        return await db.get_one(User, user_id)


def move_user(connection: Connection, user_id: int, zone_id: str | None) -> events.User:
    """Move a user as `transfer_user_to_zone` does, without a session (`run_statements`).

    Returns:
        The user as clients see it afterwards.

    Raises:
        NotFoundError: there is no such user, or no such zone.
    """
    try:
        with driver_errors():
            moved = move_one(connection, user_id, zone_id)
    except NotFoundError as error:
        raise NotFoundError("zone", zone_id) from error
    if moved is None:
        raise NotFoundError("user", user_id)
    return moved


async def transfer_users(db: AsyncSession, transfers: Sequence[Transfer]) -> list[User]:
    """Move users as one, in the order given, by a handful of statements however many.

    A user may occur more than once; what counts is where it ends, and if that is where it
    was, nothing happens to it.

    Returns:
        Each user named, as it is afterwards, once, in the order of first mention.

    Raises:
        NotFoundError: there is no such user or zone; `index` is the row. Nothing was moved.
        InvalidValueError: a row doesn't name its user by exactly one of its ids.
    """

    def move(session: Session) -> list[events.User]:
        connection = session.connection(bind_arguments=BIND)
        return move_batch(connection, transfers, partial(journal_of, session))

    with driver_errors():
        await db.flush()
        moved = await db.run_sync(move)
        of_them = among(USERS.c.id, [user.id for user in moved], db.get_bind().dialect.name)
        query = select(User).where(of_them).execution_options(populate_existing=True)
        objects = {user.id: user for user in await db.scalars(query)}
        return [objects[user.id] for user in moved]


def move_users(connection: Connection, transfers: Sequence[Transfer]) -> list[events.User]:
    """Move users as `transfer_users` does, without a session (`run_statements`).

    Returns:
        Each user named, as clients see it afterwards, once, in the order of first mention.

    Raises:
        NotFoundError: there is no such user or zone; `index` is the row. Nothing was moved.
        InvalidValueError: a row doesn't name its user by exactly one of its ids.
    """
    with driver_errors():
        return move_batch(connection, transfers)


async def _lock_user(db: AsyncSession, user_id: int, expected_version: int | None) -> User:
    query = (
        select(User)
        .where(User.id == user_id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    with driver_errors():
        user = await db.scalar(query)
    if user is None:
        raise NotFoundError("user", user_id)
    if expected_version is not None and user.version != expected_version:
        raise VersionMismatchError(expected_version, user.version)
    return user


async def _check_new_users(db: AsyncSession, users: Sequence[NewUser]) -> None:
    zones = await hold_zones(db, {new.zone_id for new in users if new.zone_id is not None})
    connection = await db.connection()
    global_ids = [new.global_id for new in users]
    found = await connection.execute(
        select(USERS.c.global_id).where(
            among(USERS.c.global_id, global_ids, connection.dialect.name)
        )
    )
    taken = set(found.scalars())
    for index, new in enumerate(users):
        if new.global_id in taken:
            raise DuplicateError("user", new.global_id, index)
        if new.zone_id is not None and new.zone_id not in zones:
            raise NotFoundError("zone", new.zone_id, index)
        taken.add(new.global_id)
