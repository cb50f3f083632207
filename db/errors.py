"""What can go wrong with the truth, one meaning a class.

    DatabaseError
    ├── NotFoundError          a user or zone that is not there
    ├── DuplicateError         a key that is taken
    ├── ZoneOccupiedError      a zone that can't go: users are in it
    ├── ConflictError          a race lost, also after the tries allowed; trying again may work
    ├── VersionMismatchError   the caller's version is not the present one
    ├── InvalidValueError      a value that the tables can't hold
    ├── FullError              a table that may have no more rows
    ├── OccupiedError          another node serves the database (`db.occupancy`)
    ├── PooledError            a pooler is in the way of what needs a session of its own
    ├── OtherDatabaseError     the pooler's address and the direct one lead to two databases
    └── UncapturedWriteError   a write that subscribers would never hear of

That the database can't be asked now is `channels.ports.UnavailableError`, with two more kinds:

    UnavailableError
    ├── RowsLockedError        another transaction holds the rows for too long
    └── OutcomeUnknownError    it went while it was committing
"""

from __future__ import annotations

from channels.ports import UnavailableError


class DatabaseError(Exception):
    """The root of all errors of this package."""


class NotFoundError(DatabaseError):
    """There is no such user or zone.

    Attributes:
        kind: `user` or `zone`.
        key: What was asked for; `None` when the database didn't say.
        index: The row of the batch that asked, counted from 0; `None` outside of a batch.
    """

    def __init__(self, kind: str, key: int | str | None, index: int | None = None) -> None:
        row = "" if index is None else f" (row {index})"
        super().__init__(f"no such {kind}: {key}{row}")
        self.kind = kind
        self.key = key
        self.index = index


class DuplicateError(DatabaseError):
    """The key is taken.

    Attributes:
        kind: `user` or `zone`.
        key: The key; `None` when the database didn't say.
        index: The row of the batch, counted from 0; `None` outside of a batch.
    """

    def __init__(self, kind: str, key: int | str | None, index: int | None = None) -> None:
        row = "" if index is None else f" (row {index})"
        super().__init__(f"{kind} exists already: {key}{row}")
        self.kind = kind
        self.key = key
        self.index = index


class ZoneOccupiedError(DatabaseError):
    """The zone can't be deleted: users are in it.

    Attributes:
        zone_id: The zone; `None` when the database didn't say.
        users: How many users are in it; `None` when they came while it was being deleted.
    """

    def __init__(self, zone_id: str | None, users: int | None) -> None:
        super().__init__(f"zone {zone_id} is occupied by {users or 'some'} users")
        self.zone_id = zone_id
        self.users = users


class FullError(DatabaseError):
    """There are as many rows as there may be.

    Attributes:
        kind: `revocations` or `tickets`.
        maximum: How many there may be.
    """

    def __init__(self, kind: str, maximum: int) -> None:
        super().__init__(f"there are {maximum} {kind} already, and may be no more")
        self.kind = kind
        self.maximum = maximum


class ConflictError(DatabaseError):
    """Somebody else changed the same rows first; the whole transaction may be tried again.

    Attributes:
        reason: A word for the log: `stale`, `deadlock`, `serialization`, or `locked` (SQLite).
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"lost a race with another transaction: {reason}")
        self.reason = reason


class RowsLockedError(UnavailableError):
    """Another transaction holds the rows for longer than one waits; nothing was written.

    Not a `ConflictError`: each further try would keep a connection waiting as long.
    """

    def __init__(self) -> None:
        super().__init__("database", "rows are locked by another transaction")


class OutcomeUnknownError(UnavailableError):
    """The database went while it was committing; whether it did, only a look can tell."""


class VersionMismatchError(DatabaseError):
    """The row isn't at the version that the caller expects.

    Attributes:
        expected: The version that the caller expects.
        actual: The version that the row has.
    """

    def __init__(self, expected: int, actual: int) -> None:
        super().__init__(f"version is {actual}, not {expected}")
        self.expected = expected
        self.actual = actual


class InvalidValueError(DatabaseError, ValueError):
    """A value that the tables can't hold.

    Attributes:
        field: The column, as far as it is known.
        reason: What is wrong with it, without the value itself.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class PooledError(DatabaseError):
    """A connection pooler answers where the server itself is needed."""

    def __init__(self) -> None:
        super().__init__(
            "the database is reached through a connection pooler, on which locks would belong "
            "to nobody: give its own address in ZONECAST_DATABASE_DIRECT_URL"
        )


class OtherDatabaseError(DatabaseError):
    """The two addresses of the database lead to two databases."""

    def __init__(self) -> None:
        super().__init__(
            "ZONECAST_DATABASE_DIRECT_URL is another database than ZONECAST_DATABASE_URL leads to"
        )


class UncapturedWriteError(DatabaseError):
    """A write to users or zones that the change capture can't see, and so refuses.

    Attributes:
        what: The write.
        instead: The way that works.
    """

    def __init__(self, what: str, instead: str) -> None:
        super().__init__(f"{what} would reach no subscriber; instead {instead}")
        self.what = what
        self.instead = instead
