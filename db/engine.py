"""The database of a process: its engines, its sessions, and transactions that are tried again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Final, Generic, TypeVar

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.pool import QueuePool

from channels.changes import Transaction
from channels.ports import UnavailableError
from channels.positions import Position
from db import sqlite
from db.address import connecting
from db.capture import committed_transaction
from db.completion import run_to_end
from db.engines import postgres_engine, sqlite_engines
from db.errors import ConflictError, DatabaseError, OtherDatabaseError
from db.identity import IDENTITY_SQL, hashed_identity, process_identity
from db.journal import AroundTry, Outlet, Sink, nothing_around
from db.statement_transaction import StatementTransaction
from db.translation import commit_errors, connection_errors, driver_errors, session_errors

DRIVERS: Final = ("postgresql+asyncpg", "sqlite+aiosqlite")

CHECKOUT_MARGIN_S: Final = 0.5
"""Time to try a connection, so that a pool with none free says so itself."""


@dataclass(frozen=True, slots=True)
class PoolUse:
    """A pool of connections as it is now: those in use, those that wait, and how many may be."""

    in_use: int
    idle: int
    limit: int


Value = TypeVar("Value")
Value_co = TypeVar("Value_co", covariant=True)


@dataclass(frozen=True, slots=True)
class DatabaseConfig:
    """How to reach the database, and the bounds of asking it.

    Attributes:
        url: A SQLAlchemy async URL of one of `DRIVERS`; may hold a password.
        direct_url: The server's own address, where `url` is a pooler's; empty: it isn't one.
        pool_size: Connections kept open (SQLite: of readers; there is one writer).
        max_overflow: Connections beyond those, closed after use.
        pool_recycle_s: Age at which a connection is replaced, in seconds.
        pool_timeout_s: How long to wait for a free connection, in seconds.
        pool_pre_ping: Whether a connection idle for over a second is tried before it is used.
        connect_timeout_s: How long connecting may take, in seconds.
        statement_timeout_s: How long a statement may run on PostgreSQL, in seconds.
        lock_timeout_s: How long PostgreSQL waits for rows that another transaction holds.
        busy_timeout_ms: How long SQLite waits for another process's write, in milliseconds.
        max_tries: How often `run_transaction` tries, 1 or more.
        retry_min_s: The bound of the random wait before the second try; doubled each time.
        retry_max_s: The bound of the wait before any try, in seconds.
    """

    url: str = field(repr=False)
    direct_url: str = field(default="", repr=False)
    pool_size: int = 20
    max_overflow: int = 10
    pool_recycle_s: float = 3600
    pool_timeout_s: float = 10
    pool_pre_ping: bool = True
    connect_timeout_s: float = 5
    statement_timeout_s: float = 30
    lock_timeout_s: float = 5
    busy_timeout_ms: int = sqlite.BUSY_TIMEOUT_MS
    max_tries: int = 10
    retry_min_s: float = 0.01
    retry_max_s: float = 1.0

    @property
    def own_url(self) -> str:
        """The URL for what needs a session of its own: locks, migrations, head checks."""
        return self.direct_url or self.url


@dataclass(frozen=True, slots=True)
class Committed(Generic[Value_co]):
    """What came of a transaction.

    Attributes:
        value: What its work returned.
        positions: Where each channel that it changed is now, with the epochs that clients see.
        tx: The transaction's id; `None` when no channel was changed.
    """

    value: Value_co
    positions: Mapping[str, Position]
    tx: str | None


class CommittingSession(AsyncSession):
    """A session whose `commit` is carried through although its caller is cancelled.

    A commit cut short could have happened or not; subscribers would hear of it only at the
    next check of heads.
    """

    async def commit(self) -> None:
        """Commit; a cancellation that comes meanwhile is raised afterwards."""
        await run_to_end(super().commit())


class Database:
    """The engines of a process. Made in the event loop that uses it, after any fork.

    Attributes:
        config: The configuration.
        engine: Where writers connect. Any session on it is captured and handed to the sink.
        reader: Where readers connect: the same on PostgreSQL, read-only.
        own_address: The server itself, past any pooler, and what the driver is given besides.
    """

    def __init__(self, config: DatabaseConfig, sink: Sink | None = None) -> None:
        """Prepare the engines; nothing is connected yet.

        Args:
            config: The configuration.
            sink: Called with each committed transaction, in the task that committed it; must
                be quick, must not await, and what it raises is only logged.

        Raises:
            ValueError: the URL isn't one of `DRIVERS`, or names certificates that can't be used.
        """
        self.config = config
        self._outlet = Outlet(sink)
        url, given = connecting(config.url)
        self.own_address = connecting(config.direct_url) if config.direct_url else (url, given)
        if url.drivername not in DRIVERS:
            raise ValueError(f"database URL: begins with none of {', '.join(DRIVERS)}")
        if url.get_backend_name() == "sqlite":
            self.engine, self.reader = sqlite_engines(url, config, self._outlet)
            self._snapshots = self.reader
        else:
            self.engine = postgres_engine(url, given, config, self._outlet)
            self.reader = self.engine.execution_options(postgresql_readonly=True)
            self._snapshots = self.reader.execution_options(isolation_level="REPEATABLE READ")

    @property
    def dialect(self) -> str:
        """`postgresql` or `sqlite`."""
        return self.engine.dialect.name

    def attach(self, sink: Sink | None, around_try: AroundTry | None = None) -> None:
        """Hand transactions committed from now on to `sink`, from within `around_try`."""
        self._outlet.sink = sink
        self._outlet.around_try = around_try or nothing_around

    @asynccontextmanager
    async def get_db(self, *, read_only: bool = False) -> AsyncIterator[AsyncSession]:
        """Open a session that commits at the end of the block, rolls back on errors, and closes.

        Cancelled within the block it rolls back; cancelled while it commits, the commit is
        carried through first. A race lost is an error here: `run_transaction` tries again.

        Args:
            read_only: Refuse to write, and don't wait for writers (SQLite).

        Raises:
            ConflictError: another transaction changed the same rows first.
            UnavailableError: the database can't be asked.
            OutcomeUnknownError: it can't, and whether the commit was done is not known.
            RowsLockedError: another transaction holds the rows for too long.
            DatabaseError: or another of its kinds, whatever rule the commit broke.
        """
        engine = self.reader if read_only else self.engine
        # Around it all, as closing rolls back, on a connection that may be lost by then.
        with session_errors():
            async with CommittingSession(engine, expire_on_commit=False) as session:
                await self._connect(session)
                yield session
                if not read_only:
                    with commit_errors():
                        await session.commit()

    async def run_transaction(
        self, work: Callable[[AsyncSession], Awaitable[Value]]
    ) -> Committed[Value]:
        """Run `work` in a transaction, anew in a fresh session each time that it loses a race.

        Cancel-safe: either nothing is written, or the commit is carried through before the
        cancellation is raised.

        Args:
            work: Writes through the session it is given; may be called several times, so it
                must do nothing else that counts. It doesn't commit.

        Raises:
            ConflictError: the last try allowed lost, too.
            UnavailableError: the database can't be asked.
            DatabaseError: or another of its kinds, from `work` or from the commit.
        """
        return await self._try(lambda: self._run_once(work))

    async def run_statements(self, work: Callable[[Connection], Value]) -> Committed[Value]:
        """Run `work` as `run_transaction` does, without a session: for what needs no objects.

        Args:
            work: Writes by functions of this package on the connection it is given; may be
                called several times. It doesn't commit, and its connection can't be awaited.

        Raises:
            ConflictError: the last try allowed lost, too.
            UnavailableError: the database can't be asked.
            DatabaseError: or another of its kinds, from `work` or from the commit.
        """
        return await self._try(lambda: self._run_statements_once(work))

    @asynccontextmanager
    async def snapshot(self, timeout_s: float | None = None) -> AsyncIterator[AsyncConnection]:
        """Open a connection whose statements all see the database as it is at the first one.

        Args:
            timeout_s: The bound of the whole block.

        Raises:
            UnavailableError: the database can't be asked, or not in time.
        """
        try:
            async with asyncio.timeout(timeout_s):
                with driver_errors():
                    async with AsyncExitStack() as stack:
                        with connection_errors():
                            connecting = self._snapshots.connect()
                            connection = await stack.enter_async_context(connecting)
                        yield connection
        except TimeoutError as error:
            raise UnavailableError("database", "no answer in time") from error
        except DatabaseError as error:
            # A reader can do nothing wrong by itself; a standby cancels its questions so.
            raise UnavailableError("database", str(error)) from error

    async def identity(self) -> str:
        """Return the database's identity, hashed to 16 hex digits.

        Raises:
            UnavailableError: the database can't be asked.
        """
        if self.dialect == "sqlite":
            return hashed_identity(process_identity())
        async with self.snapshot() as connection:
            found = await connection.scalar(text(f"SELECT {IDENTITY_SQL}"))
        return hashed_identity(str(found))

    async def check_addresses(self) -> None:
        """Find out that the pooler, if there is one, leads to where the direct address does.

        Raises:
            OtherDatabaseError: it doesn't.
            UnavailableError: one of them can't be asked.
        """
        if not self.config.direct_url:
            return
        direct = Database(replace(self.config, url=self.config.direct_url, direct_url=""))
        try:
            if await direct.identity() != await self.identity():
                raise OtherDatabaseError
        finally:
            await direct.close()

    def pools(self) -> dict[str, PoolUse]:
        """Return how the pools are used: `write`, and `read` where readers have their own."""
        named = {"write": self.engine.pool}
        # A pool doesn't tell its overflow: it was made with ours, SQLite's one writer with none.
        single = "write" if self.dialect == "sqlite" else ""
        if self.reader.pool is not self.engine.pool:
            named["read"] = self.reader.pool
        return {
            name: PoolUse(
                pool.checkedout(),
                pool.checkedin(),
                pool.size() + (0 if name == single else self.config.max_overflow),
            )
            for name, pool in named.items()
            if isinstance(pool, QueuePool)
        }

    async def close(self) -> None:
        """Close all connections that are not in use."""
        await self.engine.dispose()
        if self.reader is not self.engine:
            await self.reader.dispose()

    async def _try(self, once: Callable[[], Awaitable[Committed[Value]]]) -> Committed[Value]:
        wait_max_s = self.config.retry_min_s
        for number in range(1, self.config.max_tries):
            try:
                with self._outlet.around_try(number):
                    return await once()
            except ConflictError:
                # A random part of it, so that the losers of one race don't meet again.
                await asyncio.sleep(random.uniform(0, wait_max_s))  # noqa: S311 - no secret
                wait_max_s = min(wait_max_s * 2, self.config.retry_max_s)
        with self._outlet.around_try(self.config.max_tries):
            return await once()

    async def _run_statements_once(self, work: Callable[[Connection], Value]) -> Committed[Value]:
        transaction = StatementTransaction(self.engine.sync_engine, self._connect_timeout_s)
        return _outcome(*await transaction.run(work))

    async def _run_once(self, work: Callable[[AsyncSession], Awaitable[Value]]) -> Committed[Value]:
        async with self.get_db() as session:
            value = await work(session)
        return _outcome(value, committed_transaction(session.sync_session))

    @property
    def _connect_timeout_s(self) -> float:
        # The pool bounds the wait for a free connection, but not its try of one.
        return self.config.pool_timeout_s + CHECKOUT_MARGIN_S

    async def _connect(self, session: AsyncSession) -> None:
        """Begin a transaction, now: its errors can't be told from the caller's later.

        Raises:
            UnavailableError: there is no connection, or none that works.
        """
        with connection_errors():
            async with asyncio.timeout(self._connect_timeout_s):
                try:
                    _ = await session.connection()
                except DBAPIError as error:
                    if not error.connection_invalidated:
                        raise
                    # It died while it was idle, and all that are as old were given up with it.
                    _ = await session.connection()


def _outcome(value: Value, transaction: Transaction | None) -> Committed[Value]:
    if transaction is None:
        return Committed(value, {}, None)
    return Committed(value, transaction.positions, transaction.tx)
