"""A commit that the database refuses at the last moment: nothing of it is told to anybody."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from channels.changes import Transaction
from db.engine import Database
from db.models import User
from tests.db.replay import assert_handed_is_log, assert_log_makes_tables

REFUSE_AT_COMMIT = (
    """CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'refused at the commit'; END $$""",
    """CREATE CONSTRAINT TRIGGER refuse AFTER UPDATE ON users DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.name = 'refused') EXECUTE FUNCTION refuse()""",
)
"""The log was written by then, and looks as if all were well."""


async def test_refused_commit_is_told_to_nobody(
    postgres_database: Database, postgres_ada: int, handed: list[Transaction]
) -> None:
    """Neither to the sink, which publishes, nor in the log; and the next commit is."""
    async with postgres_database.engine.begin() as connection:
        for statement in REFUSE_AT_COMMIT:
            await connection.execute(text(statement))
    before = len(handed)
    async with AsyncSession(postgres_database.engine) as session:
        ada = await session.get_one(User, postgres_ada)
        ada.name, ada.zone_id = "refused", "B"
        with pytest.raises(Exception, match="refused at the commit"):
            await session.commit()
        assert len(handed) == before
        await session.rollback()
        ada = await session.get_one(User, postgres_ada)
        ada.zone_id = "B"
        await session.commit()
    assert len(handed) == before + 1
    await assert_log_makes_tables(postgres_database)
    await assert_handed_is_log(postgres_database, handed)
