"""Heads as they are asked for once a second, on a connection that nobody else makes wait."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from json import dumps
from typing import Any, Final

import asyncpg
from sqlalchemy import text

from channels.ports import UnavailableError
from channels.positions import Position
from db import migrate
from db.engine import Database
from db.identity import IDENTITY_SQL, client_epoch, hashed_identity, process_identity

ASYNCPG_ERRORS: Final = (
    OSError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    # Raised when the server ended the session and the end of the connection is still under way.
    asyncpg.InternalClientError,
)
SLICE: Final = 1_000
"""How many heads one statement asks for."""

_HEADS_POSTGRES: Final = f"""SELECT channel, epoch, rev, {IDENTITY_SQL} AS identity
    FROM channel_heads WHERE channel = ANY($1::text[])"""  # noqa: S608 - made of constants
_HEADS_SQLITE: Final = text(
    "SELECT channel, epoch, rev FROM channel_heads"
    " WHERE channel IN (SELECT value FROM json_each(:channels))"
)
_STAMP_POSTGRES: Final = f"""SELECT count(*) AS heads, coalesce(sum(rev), 0) AS revs,
    {IDENTITY_SQL} AS identity FROM channel_heads"""  # noqa: S608 - made of constants
STAMP_SQLITE: Final = text(
    "SELECT count(*) AS heads, coalesce(sum(rev), 0) AS revs FROM channel_heads"
)
_REVISION_POSTGRES: Final = "SELECT version_num FROM alembic_version"
STAMP_POSTGRES: Final = text(_STAMP_POSTGRES)


@dataclass(frozen=True, slots=True)
class UsersStamp:
    """What tells whether a copy of all users is still true: any commit changes it.

    Attributes:
        identity: Of the database, hashed to 16 hex digits.
        heads: How many channels there are.
        revs: The sum of their revisions.
    """

    identity: str
    heads: int
    revs: int

    @classmethod
    def of_row(cls, row: Any, identity: str) -> UsersStamp:
        """Make it from a row of heads and revs, and the identity as the database tells it."""
        return cls(hashed_identity(identity), int(row.heads), int(row.revs))


class HeadReader:
    """Reads heads and stamps. On PostgreSQL over a connection of its own, outside of any pool:

    a pool that writers have exhausted must not delay noticing what they wrote. A connection
    that failed, or was left in the middle of a question, is replaced when next asked.
    """

    def __init__(self, database: Database, timeout_s: float) -> None:
        """Prepare; nothing is connected yet.

        Args:
            database: Where to ask.
            timeout_s: The bound of one question, waiting and connecting included.
        """
        self._database = database
        self._timeout_s = timeout_s
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._free = asyncio.Lock()

    async def read_heads(self, channels: Sequence[str]) -> dict[str, Position]:
        """Read where channels are now; one that has no head is missing. Cancel-safe.

        Raises:
            UnavailableError: the database doesn't answer in time.
        """
        positions: dict[str, Position] = {}
        for begin in range(0, len(channels), SLICE):
            wanted = list(channels[begin : begin + SLICE])
            if self._database.dialect == "postgresql":
                for row in await self._fetch(_HEADS_POSTGRES, wanted):
                    epoch = client_epoch(row["epoch"], row["identity"])
                    positions[row["channel"]] = Position(epoch, row["rev"])
                continue
            async with self._database.snapshot(self._timeout_s) as connection:
                rows = await connection.execute(_HEADS_SQLITE, {"channels": dumps(wanted)})
                for head in rows:
                    epoch = client_epoch(head.epoch, process_identity())
                    positions[head.channel] = Position(epoch, head.rev)
        return positions

    async def read_stamp(self) -> UsersStamp:
        """Read the stamp that a copy of all users made now would carry. Cancel-safe.

        Raises:
            UnavailableError: the database doesn't answer in time.
        """
        if self._database.dialect == "postgresql":
            (row,) = await self._fetch(_STAMP_POSTGRES)
            return UsersStamp(hashed_identity(row["identity"]), int(row["heads"]), int(row["revs"]))
        async with self._database.snapshot(self._timeout_s) as connection:
            found = (await connection.execute(STAMP_SQLITE)).one()
        return UsersStamp.of_row(found, process_identity())

    async def read_revision(self) -> str | None:
        """Read the revision of the tables, `None` when they were never migrated. Cancel-safe.

        Raises:
            UnavailableError: the database doesn't answer in time.
        """
        if self._database.dialect == "sqlite":
            return await migrate.read_revision(self._database.reader)
        try:
            rows = await self._fetch(_REVISION_POSTGRES)
        except UnavailableError as error:
            if isinstance(error.__cause__, asyncpg.UndefinedTableError):
                return None
            raise
        return rows[0]["version_num"] if rows else None

    async def close(self) -> None:
        """Close the connection; asking again opens another."""
        async with self._free:
            self._drop()

    async def _fetch(self, statement: str, *values: object) -> list[asyncpg.Record]:
        try:
            async with asyncio.timeout(self._timeout_s), self._free:
                if self._connection is None or self._connection.is_closed():
                    self._connection = await self._connect()
                try:
                    return list(await self._connection.fetch(statement, *values))
                except BaseException:
                    # Cancelled or failed: an answer may still be under way on it.
                    self._drop()
                    raise
        except TimeoutError as error:
            raise UnavailableError("database", "no answer in time") from error
        except ASYNCPG_ERRORS as error:
            raise UnavailableError("database", type(error).__name__) from error

    async def _connect(self) -> asyncpg.Connection[asyncpg.Record]:
        address, given = self._database.own_address
        _, options = self._database.engine.dialect.create_connect_args(address)
        options.update(given)
        for name in ("prepared_statement_cache_size", "prepared_statement_name_func"):
            options.pop(name, None)
        return await asyncpg.connect(
            **options,
            timeout=self._timeout_s,
            server_settings={"application_name": "zonecast heads"},
        )

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()
