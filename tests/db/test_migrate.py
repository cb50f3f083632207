"""Migrations make exactly the tables of the models, also when several nodes start at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text

from channels.ports import UnavailableError
from db import migrate
from db.engine import Database, DatabaseConfig
from db.models import Base


@pytest.fixture(params=["postgresql", "sqlite"])
def empty_url(request: pytest.FixtureRequest) -> str:
    """The URL of a database without tables, of each kind."""
    name = {"postgresql": "empty_postgres_url", "sqlite": "empty_sqlite_url"}[request.param]
    return str(request.getfixturevalue(name))


@pytest.fixture
async def empty_database(empty_url: str) -> AsyncIterator[Database]:
    """A database without tables, of each kind."""
    database = Database(DatabaseConfig(empty_url))
    yield database
    await database.close()


def _differences(connection: Connection) -> list[Any]:
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    return list(compare_metadata(context, Base.metadata))


def _definitions(connection: Connection) -> list[str]:
    """Read columns and constraints as PostgreSQL has them: Alembic doesn't compare all."""
    columns = text(
        "SELECT concat_ws(' ', table_name, column_name, data_type, character_maximum_length,"
        " is_nullable, column_default, is_identity, identity_generation, identity_maximum)"
        " FROM information_schema.columns WHERE table_schema = 'public'"
    )
    constraints = text(
        "SELECT concat_ws(' ', CAST(conrelid AS regclass), conname, pg_get_constraintdef(oid))"
        " FROM pg_constraint WHERE connamespace = CAST('public' AS regnamespace)"
    )
    indexes = text("SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'")
    found = [
        line
        for query in (columns, constraints, indexes)
        for line in connection.execute(query).scalars()
    ]
    return sorted(line for line in found if "alembic_version" not in line)


async def test_migrations_make_the_tables_of_the_models(database: Database) -> None:
    """Nothing is left to migrate, and the static channels have their heads."""
    async with database.engine.connect() as connection:
        assert await connection.run_sync(_differences) == []
        heads = await connection.execute(
            text("SELECT channel, rev, floor FROM channel_heads ORDER BY channel")
        )
        static = ("revocations", "unassigned", "zones")
        assert [tuple(row) for row in heads] == [(channel, 0, 0) for channel in static]
        epochs = await connection.scalars(text("SELECT epoch FROM channel_heads"))
        assert len(set(epochs)) == 3


async def test_migrations_make_the_constraints_of_the_models(
    postgres_url: str, empty_postgres_url: str
) -> None:
    """Keys, checks and references are the same however the tables were made."""
    found = []
    for url, make in ((postgres_url, False), (empty_postgres_url, True)):
        database = Database(DatabaseConfig(url))
        async with database.engine.begin() as connection:
            if make:
                await connection.run_sync(Base.metadata.create_all)
            found.append(await connection.run_sync(_definitions))
        await database.close()
    assert found[0] == found[1]
    assert any("ck_users_global_id_range" in line for line in found[0])


async def test_nodes_may_migrate_at_once(empty_url: str, empty_database: Database) -> None:
    """One migrates, the others wait and find it done."""
    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(migrate.upgrade(empty_url))
    assert await migrate.current_revision(empty_url) == await migrate.head_revision()
    async with empty_database.engine.connect() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM channel_heads")) == 3


async def test_migrating_again_changes_nothing(database_url: str, database: Database) -> None:
    """A database that is up to date keeps its heads, and so all positions of clients."""
    query = text("SELECT channel, epoch FROM channel_heads ORDER BY channel")
    async with database.reader.connect() as connection:
        before = (await connection.execute(query)).all()
    await migrate.upgrade(database_url)
    async with database.reader.connect() as connection:
        assert (await connection.execute(query)).all() == before


async def test_revision_of_an_empty_database_is_none(empty_database: Database) -> None:
    """Tables never migrated have no revision, and are not made by asking."""
    assert await migrate.read_revision(empty_database.engine) is None


async def test_database_in_memory_is_refused() -> None:
    """Migrating it by its URL would migrate another one."""
    with pytest.raises(UnavailableError, match="in-memory"):
        await migrate.upgrade("sqlite+aiosqlite:///:memory:")


async def test_unreachable_database_is_unavailable() -> None:
    """The error says that it can't be asked, without the password."""
    with pytest.raises(UnavailableError) as caught:
        await migrate.upgrade("postgresql+asyncpg://user:secret@127.0.0.1:1/nowhere")
    assert "secret" not in str(caught.value)


async def test_a_server_that_accepts_and_does_not_answer_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A hung PostgreSQL costs a bounded wait, not the start."""
    monkeypatch.setattr(migrate, "CONNECT_TIMEOUT_S", 0.2)

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(UnavailableError):
            await migrate.upgrade(f"postgresql+asyncpg://nobody@127.0.0.1:{port}/none")
