"""Zone filters: a grant as a condition in SQL, so that pages hold only what is granted."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, false, not_, or_

from channels.zone_grants import WILDCARD, ZoneGrant, ZonePatterns
from db.rows import among


def within(column: ColumnElement[Any], grant: ZoneGrant, dialect: str) -> ColumnElement[bool]:
    """Say that a zone id is in a grant that is not everything; no zone never is.

    Args:
        column: Of zone ids.
        grant: The zones.
        dialect: `postgresql` or `sqlite`.
    """
    granted = _matches(column, grant.granted, dialect)
    if not grant.taken:
        return granted
    return granted & not_(_matches(column, grant.taken, dialect))


def _matches(
    column: ColumnElement[Any], patterns: ZonePatterns, dialect: str
) -> ColumnElement[bool]:
    exact = [pattern for pattern in patterns.patterns if WILDCARD not in pattern]
    conditions = [
        _matches_one(column, pattern, dialect)
        for pattern in patterns.patterns
        if WILDCARD in pattern
    ]
    if exact:
        conditions.append(among(column, exact, dialect))
    return or_(false(), *conditions)


def _matches_one(column: ColumnElement[Any], pattern: str, dialect: str) -> ColumnElement[bool]:
    if dialect == "sqlite":
        # Its LIKE takes `a` for `A`. Of GLOB's signs, patterns have only the one.
        return column.bool_op("GLOB")(pattern)
    return column.like(pattern.replace("_", r"\_").replace(WILDCARD, "%"), escape="\\")
