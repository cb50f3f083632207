"""Epochs as clients see them, and errors that mean the same on both databases."""

from __future__ import annotations

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from channels.ports import UnavailableError
from db import user_crud
from db.changelog import DatabaseChangeLog
from db.engine import Database, DatabaseConfig
from db.identity import IDENTITY_SQL, client_epoch, hashed_identity, process_identity
from db.models import User


async def test_ordinary_role_reads_the_identity(postgres_url: str) -> None:
    """No privilege is needed for what the identity is made of, nor for working at all."""
    owner = Database(DatabaseConfig(postgres_url))
    async with owner.engine.begin() as connection:
        name = "ordinary_" + make_url(postgres_url).database[-12:]  # type: ignore[index] # Named.
        await connection.execute(text(f"CREATE ROLE {name} LOGIN NOSUPERUSER"))
        await connection.execute(
            text(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {name}")
        )
    url = make_url(postgres_url).set(username=name).render_as_string(hide_password=False)
    ordinary = Database(DatabaseConfig(url))
    assert await ordinary.identity() == await owner.identity()
    committed = await ordinary.run_transaction(
        lambda db: user_crud.create_user(db, global_id=1, name="u")
    )
    log = DatabaseChangeLog(owner)
    assert await log.read_heads(["unassigned"]) == committed.positions
    await log.close()
    await ordinary.close()
    async with owner.engine.begin() as connection:
        await connection.execute(text(f"DROP OWNED BY {name}"))
        await connection.execute(text(f"DROP ROLE {name}"))
    await owner.close()


async def test_epoch_is_of_head_and_database(database: Database, ada: User) -> None:
    """All ways to a position make the same epoch of the head's row and the identity."""
    async with database.snapshot() as connection:
        row = (
            await connection.execute(
                text("SELECT epoch, rev FROM channel_heads WHERE channel = 'zone:A'")
            )
        ).one()
        identity = (
            await connection.scalar(text(f"SELECT {IDENTITY_SQL}"))
            if database.dialect == "postgresql"
            else process_identity()
        )
    expected = client_epoch(row.epoch, identity)
    assert await database.identity() == hashed_identity(identity)
    log = DatabaseChangeLog(database)
    state, page = await log.read_state("zone:A"), await log.read_changes("zone:A", 0, 1)
    assert state is not None
    assert page is not None
    heads = await log.read_heads(["zone:A"])
    epochs = {p.epoch for p in (state.position, page.head, page.changes[0].position)}
    assert epochs | {heads["zone:A"].epoch} == {expected}
    await log.close()


async def test_a_database_without_its_keys_is_not_read(postgres_url: str) -> None:
    """A dump that is being restored has rows before keys, and of some tables before others."""
    database = Database(DatabaseConfig(postgres_url))
    log = DatabaseChangeLog(database)
    assert await log.read_heads(["zones"]) is not None
    async with database.engine.begin() as connection:
        await connection.execute(text("ALTER TABLE channel_heads DROP CONSTRAINT pk_channel_heads"))
    with pytest.raises(UnavailableError):
        await log.read_heads(["zones"])
    with pytest.raises(UnavailableError):
        await log.read_state("zones")
    with pytest.raises(UnavailableError):
        await log.read_users_dict()
    await log.close()
    await database.close()


async def test_two_databases_have_two_identities(
    postgres_url: str, empty_postgres_url: str
) -> None:
    """Databases of one server are told apart."""
    identities = set()
    for url in (postgres_url, empty_postgres_url):
        connection = await asyncpg.connect(
            make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        )
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS channel_heads"
            " (channel text CONSTRAINT pk_channel_heads PRIMARY KEY)"
        )
        identities.add(await connection.fetchval(f"SELECT {IDENTITY_SQL}"))
        await connection.close()
    assert len(identities) == 2


@pytest.mark.parametrize("part", ["epoch", "identity"])
def test_epoch_changes_with_each_part(part: str) -> None:
    """Another head's epoch, or another database, is another history."""
    other = client_epoch("b", "x") if part == "epoch" else client_epoch("a", "y")
    assert client_epoch("a", "x") != other
    assert len(other) == 16
