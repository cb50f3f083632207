"""Drivers' errors end here, and mean the same on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import InternalError, InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession

from channels.ports import UnavailableError
from db import user_crud, zone_crud
from db.engine import Database, DatabaseConfig
from db.errors import (
    ConflictError,
    DatabaseError,
    DuplicateError,
    InvalidValueError,
    NotFoundError,
    ZoneOccupiedError,
)
from db.models import User, Zone
from db.translation import translate
from tests.servers import PostgresServer

Work = Callable[[AsyncSession], Awaitable[object]]


def _statement(sql: str) -> Work:
    async def work(db: AsyncSession) -> None:
        await db.execute(text(sql))

    return work


def _added(*objects: User | Zone) -> Work:
    async def work(db: AsyncSession) -> None:
        db.add_all(objects)

    return work


INSERT = (
    "INSERT INTO users (global_id, name, zone_id, version, created_at, updated_at)"
    " VALUES ({0}, {1}, {2}, 1, CURRENT_TIMESTAMP, CURRENT_TIMESTAMP)"
)


@pytest.mark.parametrize(
    ("work", "error"),
    [
        (_statement(INSERT.format(1001, "'x'", "NULL")), DuplicateError),
        (_statement(INSERT.format(1, "'x'", "'Z'")), NotFoundError),
        (_statement(INSERT.format(1, "NULL", "NULL")), InvalidValueError),
        (_statement(INSERT.format(2**53, "'x'", "NULL")), InvalidValueError),
        (_statement("DELETE FROM zones"), ZoneOccupiedError),
        (_added(Zone(zone_id="A", name="x")), DuplicateError),
        (_added(User(id=1, global_id=1, name="x")), DuplicateError),
        (lambda db: user_crud.get_all_users(db, global_id=2**70), InvalidValueError),
        (lambda db: user_crud.create_user(db, global_id=1, name="\ud800"), InvalidValueError),
        (lambda db: zone_crud.get_all_zones(db, -(2**70)), InvalidValueError),
        (_statement("SELECT * FROM nowhere"), UnavailableError),
        (_statement("SELEC 1"), (DatabaseError, UnavailableError)),
    ],
)
async def test_broken_rule_has_its_error(
    database: Database, ada: User, work: Work, error: type[Exception]
) -> None:
    """Also where no function of ours looked first; the transaction leaves nothing."""
    with pytest.raises(error):
        await database.run_transaction(work)
    async with database.get_db(read_only=True) as db:
        assert await user_crud.count_users(db) == 1


@pytest.mark.parametrize(
    ("sql", "error"),
    [
        (INSERT.format(1001, "'x'", "NULL"), DuplicateError("user", 1001)),
        (INSERT.format(1, "'x'", "'Z'"), NotFoundError("zone", "Z")),
        ("DELETE FROM zones", ZoneOccupiedError("A", None)),
    ],
)
async def test_postgres_names_the_key(
    postgres_database: Database, postgres_ada: int, sql: str, error: Exception
) -> None:
    """What a constraint was broken with is told as far as the database tells it."""
    with pytest.raises(type(error)) as caught:
        await postgres_database.run_transaction(_statement(sql))
    assert vars(caught.value) == vars(error)


async def test_mistakes_in_code_pass_as_they_are(database: Database) -> None:
    """What is no driver's error isn't dressed up as one."""

    async def work(db: AsyncSession) -> None:
        await db.execute(text("SELECT 1"))
        db.sync_session.begin()

    with pytest.raises(InvalidRequestError):
        await database.run_transaction(work)

    async def time_out(_db: AsyncSession) -> None:
        raise TimeoutError("somebody else's")

    with pytest.raises(TimeoutError, match="somebody else's"):
        await database.run_transaction(time_out)


async def test_exhausted_pool_is_unavailable(database_url: str) -> None:
    """Waiting for a connection is bounded."""
    database = Database(
        DatabaseConfig(database_url, pool_size=1, max_overflow=0, pool_timeout_s=0.05)
    )
    async with database.get_db():
        with pytest.raises(UnavailableError, match="no connection is free"):
            await database.run_transaction(user_crud.count_users)
    await database.close()


async def test_long_statement_is_unavailable(postgres_url: str) -> None:
    """A statement is bounded in time."""
    database = Database(DatabaseConfig(postgres_url, statement_timeout_s=0.1))
    with pytest.raises(UnavailableError, match="interrupted"):
        await database.run_transaction(_statement("SELECT pg_sleep(10)"))
    assert (await database.run_transaction(user_crud.count_users)).value == 0
    await database.close()


async def test_lost_connection_is_unavailable_and_replaced(
    postgres_database: Database, postgres_ada: int
) -> None:
    """A connection that the server cut is an error once, and the next write has another."""

    async def work(db: AsyncSession) -> None:
        await user_crud.update_user(db, postgres_ada, {"name": "x"})
        pid = await db.scalar(text("SELECT pg_backend_pid()"))
        async with postgres_database.reader.connect() as other:
            await other.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})

    with pytest.raises(UnavailableError):
        await postgres_database.run_transaction(work)
    async with postgres_database.get_db() as db:
        assert (await user_crud.update_user(db, postgres_ada, {"name": "y"})).version == 2


async def test_frozen_server_is_unavailable_in_time(own_postgres: PostgresServer) -> None:
    """A server that takes connections and never answers costs a bounded wait."""
    config = DatabaseConfig(own_postgres.url, statement_timeout_s=0.2, connect_timeout_s=1)
    database = Database(config)
    assert (await database.run_transaction(user_crud.count_users)).value == 0
    own_postgres.sigstop()
    try:
        async with asyncio.timeout(30):
            with pytest.raises(UnavailableError):
                await database.run_transaction(user_crud.count_users)
    finally:
        own_postgres.sigcont()
    await database.close()


async def test_locked_file_is_a_conflict(sqlite_url: str) -> None:
    """Another process that writes for too long makes a write lose, after its tries."""
    database = Database(DatabaseConfig(sqlite_url, busy_timeout_ms=10, max_tries=2))
    other = Database(DatabaseConfig(sqlite_url))
    async with other.get_db():
        with pytest.raises(ConflictError) as caught:
            await database.run_transaction(user_crud.count_users)
    assert caught.value.reason == "locked"
    await database.close()
    await other.close()


async def test_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    """Damage to the file is the database's state and not the caller's mistake."""
    path = tmp_path / "not.db"
    await asyncio.to_thread(path.write_bytes, b"not a database" * 1000)
    database = Database(DatabaseConfig(f"sqlite+aiosqlite:///{path}"))
    with pytest.raises(UnavailableError):
        await database.run_transaction(user_crud.count_users)
    await database.close()


def test_a_session_that_the_server_ended_is_unavailable_whatever_the_driver_calls_it() -> None:
    """asyncpg stumbles over its own state when the end is told and the connection still open."""
    stumbled = asyncpg.InternalClientError("cannot switch to state 12")
    error = InternalError("SELECT 1", {}, stumbled)
    assert isinstance(translate(error), UnavailableError)
