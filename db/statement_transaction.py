"""Transactions of statements alone: without a session, in two trips into SQLAlchemy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.util import greenlet_spawn

from channels.changes import Transaction
from db.completion import run_to_end
from db.journal import Journal
from db.translation import commit_errors, connection_errors, driver_errors

Value = TypeVar("Value")


class StatementTransaction:
    """A transaction on a connection of its own, captured like those of sessions.

    A session costs more than a short transaction does in the driver: each of its steps goes
    through a greenlet of its own, and it keeps books of objects that there are none of.

    Args:
        engine: Of a `Database`.
        connect_timeout_s: How long it may take until the transaction has begun.
    """

    def __init__(self, engine: Engine, connect_timeout_s: float) -> None:
        self._engine = engine
        self._connect_timeout_s = connect_timeout_s
        self._connection: Connection | None = None
        self._committed: Transaction | None = None

    async def run(self, work: Callable[[Connection], Value]) -> tuple[Value, Transaction | None]:
        """Run `work`, commit, and give the connection back. Used once.

        Cancelled while `work` runs it rolls back; cancelled while it commits, the commit is
        carried through first.

        Args:
            work: Code of this package that notes what it writes in the connection's journal.

        Returns:
            What `work` returned, and what was committed; `None` when no channel was changed.

        Raises:
            ConflictError: another transaction changed the same rows first.
            UnavailableError: the database can't be asked.
            OutcomeUnknownError: it can't, and whether the commit was done is not known.
            DatabaseError: or another of its kinds, from `work` or from the commit.
        """
        with driver_errors():
            try:
                async with asyncio.timeout(self._connect_timeout_s) as bound:
                    value = await greenlet_spawn(self._begin_and_work, work, bound)
                with commit_errors():
                    await run_to_end(greenlet_spawn(self._commit))
            except BaseException:
                if self._connection is not None:
                    await run_to_end(greenlet_spawn(self._connection.close))
                raise
        return value, self._committed

    def _begin_and_work(self, work: Callable[[Connection], Value], bound: asyncio.Timeout) -> Value:
        with connection_errors():
            try:
                connection = self._begin()
            except DBAPIError as error:
                if not error.connection_invalidated:
                    raise
                # It died while it was idle, and all that are as old were given up with it.
                connection = self._begin()
        if not bound.expired():
            # What comes now has bounds of its own.
            bound.reschedule(None)
        return work(connection)

    def _begin(self) -> Connection:
        connection = self._engine.connect()
        try:
            connection.begin()
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def _commit(self) -> None:
        connection = self._connection
        assert connection is not None  # noqa: S101 - it has begun
        journal = Journal.find(connection)
        connection.commit()
        if journal is not None:
            self._committed = journal.hand_over()
        connection.close()
