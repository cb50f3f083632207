"""Rows of users and zones as they are read for clients, without the ORM."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Row,
    Select,
    String,
    Text,
    any_,
    bindparam,
    cast,
    func,
    or_,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import JSON, TypeEngine

from channels import events
from db.models import Base, User, Zone

USERS: Final = Base.metadata.tables[User.__tablename__]
ZONES: Final = Base.metadata.tables[Zone.__tablename__]
USER_COLUMNS: Final = (
    USERS.c.id,
    USERS.c.global_id,
    USERS.c.name,
    USERS.c.zone_id,
    USERS.c.attributes,
    USERS.c.version,
)
ZONE_COLUMNS: Final = (ZONES.c.zone_id, ZONES.c.name, ZONES.c.attributes)


def among(
    column: ColumnElement[Any], keys: Collection[int] | Collection[str], dialect: str
) -> ColumnElement[bool]:
    """Say that `column` is one of `keys`, with all of them as one bound parameter.

    However many keys, the statement is the same: it is prepared once, and no driver's limit
    of parameters is met.
    """
    if dialect == "postgresql":
        # Not the column's own type: a cast to varchar(64) would cut longer keys to fit.
        kind: TypeEngine[Any] = ARRAY(Text() if isinstance(column.type, String) else BigInteger())
        return column == any_(cast(bindparam(None, list(keys), kind), kind))
    values = func.json_each(bindparam(None, list(keys), JSON())).table_valued("value")
    return column.in_(select(values.c.value))


def named(
    user_ids: Collection[int], global_ids: Collection[int], dialect: str
) -> ColumnElement[bool]:
    """Say that a user has one of these ids, of either kind."""
    if not global_ids:
        return among(USERS.c.id, user_ids, dialect)
    by_global_id = among(USERS.c.global_id, global_ids, dialect)
    return or_(among(USERS.c.id, user_ids, dialect), by_global_id)


def select_users() -> Select[Any]:
    """Select what clients see of users."""
    return select(*USER_COLUMNS)


def select_zones() -> Select[Any]:
    """Select what clients see of zones."""
    return select(*ZONE_COLUMNS)


def select_zones_with_counts(max_users: int) -> Select[Any]:
    """Select what clients see of zones, and their `users`: how many, counted to `max_users` + 1."""
    few = select(USERS.c.id).where(USERS.c.zone_id == ZONES.c.zone_id).limit(max_users + 1)
    inner = few.correlate(ZONES).subquery("few")
    count = select(func.count()).select_from(inner).correlate(ZONES).scalar_subquery()
    return select(*ZONE_COLUMNS, count.label("users"))


def user_of(row: Row[Any]) -> events.User:
    """Make what clients see of a user from a row that begins with `USER_COLUMNS`.

    By position: by name would take 7 us a row.
    """
    return events.User(*row[: len(USER_COLUMNS)])


def zone_of(row: Row[Any]) -> events.Zone:
    """Make what clients see of a zone from a row that begins with `ZONE_COLUMNS`."""
    return events.Zone(*row[: len(ZONE_COLUMNS)])


def select_users_dict() -> Select[Any]:
    """Select what the dict of all users holds."""
    columns = (USERS.c.global_id, USERS.c.id, USERS.c.name, USERS.c.zone_id, USERS.c.version)
    return select(*columns).order_by(USERS.c.id)


def dict_of_users(rows: Iterable[Sequence[Any]]) -> dict[int, dict[str, Any]]:
    """Make the dict of all users: `{global_id: {id, name, zone_id, version}}`."""
    return {
        global_id: {"id": user_id, "name": name, "zone_id": zone_id, "version": version}
        for global_id, user_id, name, zone_id, version in rows
    }
