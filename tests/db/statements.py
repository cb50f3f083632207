"""Counting statements, over enough users to tell one for all from one for each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import event

from db import user_crud
from db.engine import Database
from db.models import User
from db.user_crud import NewUser


@contextmanager
def counted_statements(*databases: Database) -> Iterator[list[str]]:
    """Note the statements that are sent within."""
    sent: list[str] = []

    def note(_c: object, _cursor: object, statement: str, *_rest: object) -> None:
        sent.append(statement)

    # PostgreSQL's reader is its engine with other options, and hears the same events.
    engines = {db.engine.sync_engine for db in databases}
    engines |= {db.reader.sync_engine for db in databases if db.dialect == "sqlite"}
    for engine in engines:
        event.listen(engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        for engine in engines:
            event.remove(engine, "before_cursor_execute", note)


def writes(sent: list[str]) -> list[str]:
    """Leave out BEGIN and the like."""
    return [statement for statement in sent if not statement.startswith(("BEGIN", "COMMIT"))]


async def make_users(database: Database, count: int) -> list[User]:
    """Make users with the global ids 2000, 2001 and so on in zone A."""
    rows = [NewUser(2000 + n, f"u{n}", "A", {"n": n}) for n in range(count)]
    return (await database.run_transaction(lambda db: user_crud.bulk_create_users(db, rows))).value
