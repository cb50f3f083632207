"""Pruned rows, kept by a trigger in the transaction that deletes them: none is missed."""

from __future__ import annotations

from typing import Final

from sqlalchemy import text

from db.engine import Database

KEEP_ON_POSTGRES: Final = (
    "CREATE TABLE IF NOT EXISTS pruned_changes (LIKE changes)",
    """CREATE OR REPLACE FUNCTION keep_pruned() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN INSERT INTO pruned_changes SELECT * FROM pruned; RETURN NULL; END'""",
    """CREATE OR REPLACE TRIGGER keep_pruned AFTER DELETE ON changes
    REFERENCING OLD TABLE AS pruned EXECUTE FUNCTION keep_pruned()""",
)
KEEP_ON_SQLITE: Final = (
    "CREATE TABLE pruned_changes AS SELECT * FROM changes LIMIT 0",
    """CREATE TRIGGER keep_pruned AFTER DELETE ON changes BEGIN INSERT INTO pruned_changes
    VALUES (OLD.channel, OLD.rev, OLD.tx_id, OLD.at, OLD.span, OLD.events); END""",
)


async def keep_pruned_rows(database: Database) -> None:
    """From now on keep what is deleted from the log."""
    on_postgres = database.dialect == "postgresql"
    async with database.engine.begin() as connection:
        for statement in KEEP_ON_POSTGRES if on_postgres else KEEP_ON_SQLITE:
            await connection.execute(text(statement))


async def put_pruned_rows_back(database: Database) -> int:
    """Make the log whole again; return how many rows had been pruned."""
    async with database.engine.begin() as connection:
        done = await connection.execute(text("INSERT INTO changes SELECT * FROM pruned_changes"))
    return done.rowcount
