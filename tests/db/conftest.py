"""Fixtures of the database's tests: a database, what its sink was given, some zones."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from channels.changes import Transaction
from db.engine import Database, DatabaseConfig
from db.models import User, Zone
from tests.db.replay import assert_handed_is_log, assert_log_makes_tables


@pytest.fixture
def handed() -> list[Transaction]:
    """What the sink of `database` was given."""
    return []


@pytest.fixture
async def database(database_url: str, handed: list[Transaction]) -> AsyncIterator[Database]:
    """A migrated database of the test's own, of each kind."""
    database = Database(DatabaseConfig(url=database_url), sink=handed.append)
    yield database
    await database.close()


@pytest.fixture
async def postgres_database(
    postgres_url: str, handed: list[Transaction]
) -> AsyncIterator[Database]:
    """A migrated PostgreSQL database of the test's own, for what only it can show."""
    database = Database(DatabaseConfig(url=postgres_url), sink=handed.append)
    yield database
    await database.close()


@pytest.fixture
async def log_is_whole(database: Database, handed: list[Transaction]) -> AsyncIterator[None]:
    """After the test the log makes the tables, and the sink was given the log."""
    yield
    await assert_log_makes_tables(database)
    await assert_handed_is_log(database, handed)


async def add_zones_and_ada(session: AsyncSession) -> User:
    """Make the zones A and B, and Ada in A at version 1."""
    ada = User(global_id=1001, name="Ada", zone_id="A")
    session.add_all([Zone(zone_id="A", name="Hall"), Zone(zone_id="B", name="Lab"), ada])
    await session.commit()
    return ada


@pytest.fixture
async def session(database: Database) -> AsyncIterator[AsyncSession]:
    """A session on `database`."""
    async with AsyncSession(database.engine, expire_on_commit=False) as session:
        yield session


@pytest.fixture
async def ada(session: AsyncSession) -> User:
    """Ada, id 1, in zone A at version 1, loaded in `session`; zone B is there, too."""
    return await add_zones_and_ada(session)


@pytest.fixture
async def postgres_ada(postgres_database: Database) -> int:
    """The id of Ada on `postgres_database`, in zone A at version 1; zone B is there, too."""
    async with AsyncSession(postgres_database.engine) as session:
        ada = await add_zones_and_ada(session)
        await session.refresh(ada)
        return ada.id
