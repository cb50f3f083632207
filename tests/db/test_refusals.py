"""Writes past the unit of work are refused, and leave nothing behind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from sqlalchemy import Select, delete, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from db.engine import Database
from db.errors import UncapturedWriteError
from db.models import ChangeRow, User, Zone
from db.rows import USERS, ZONES
from tests.db.replay import assert_log_makes_tables

Write = Callable[[AsyncSession], Awaitable[object]]

NEW_ROW = {"global_id": 2, "name": "Bob", "version": 1}


def _legacy(write: Callable[[Session], object]) -> Write:
    return lambda session: session.run_sync(write)


def _from_statement() -> Select[tuple[User]]:
    return select(User).from_statement(  # type: ignore[return-value] # Runs like a Select.
        update(User).values(name="x").returning(User)
    )


WRITES: dict[str, Write] = {
    "UPDATE": lambda s: s.execute(update(User).values(name="x")),
    "DELETE": lambda s: s.execute(delete(User)),
    "INSERT": lambda s: s.execute(insert(User).values(NEW_ROW)),
    "INSERT of many": lambda s: s.execute(insert(User), [NEW_ROW]),
    "INSERT RETURNING": lambda s: s.scalars(insert(User).returning(User), [NEW_ROW]),
    "UPDATE by primary key": lambda s: s.execute(update(User), [{"id": 1, "name": "x"}]),
    "UPDATE of zones": lambda s: s.execute(update(Zone).values(name="x")),
    "DELETE of zones": lambda s: s.execute(delete(Zone)),
    "UPDATE of the table": lambda s: s.execute(update(USERS).values(name="x")),
    "DELETE of the table": lambda s: s.execute(delete(ZONES)),
    "from_statement": lambda s: s.execute(_from_statement()),
    "Query.update": _legacy(lambda s: s.query(User).update({"name": "x"})),
    "Query.delete": _legacy(lambda s: s.query(User).delete()),
    "bulk_save_objects": _legacy(lambda s: s.bulk_save_objects([User(**NEW_ROW)])),
    "bulk_insert_mappings": _legacy(lambda s: s.bulk_insert_mappings(User, [NEW_ROW])),
    "bulk_update_mappings": _legacy(
        lambda s: s.bulk_update_mappings(User, [{"id": 1, "name": "x", "version": 1}])
    ),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
async def test_write_past_the_unit_of_work_is_refused(
    database: Database, session: AsyncSession, ada: User, write: Write
) -> None:
    """No subscriber would hear of it, so it doesn't happen; the error names what works."""
    with pytest.raises(UncapturedWriteError, match="transfer_users"):
        await write(session)
    await session.rollback()
    await session.commit()
    await assert_log_makes_tables(database)


async def test_bulk_write_of_other_tables_is_left_alone(
    database: Database, session: AsyncSession, ada: User
) -> None:
    """Only our two tables are guarded, and a flush works right after a bulk write."""
    row = {"channel": "x", "rev": 1, "tx_id": "t", "at": ada.created_at, "span": 1, "events": []}
    await session.run_sync(lambda s: s.bulk_insert_mappings(ChangeRow, [row]))
    await session.execute(delete(ChangeRow).where(ChangeRow.channel == "x"))
    ada.name = "x"
    await session.commit()
    await assert_log_makes_tables(database)


async def test_refused_flush_leaves_the_next_bulk_write_guarded(
    database: Database, session: AsyncSession, ada: User
) -> None:
    """An ordinary flush before doesn't make a bulk write pass for one."""
    ada.name = "x"
    await session.flush()
    with pytest.raises(UncapturedWriteError):
        await session.run_sync(lambda s: s.bulk_insert_mappings(User, [NEW_ROW]))
    await session.rollback()
    await assert_log_makes_tables(database)


@pytest.mark.parametrize(("field", "value"), [("id", 9), ("version", 7)])
async def test_key_and_version_are_not_set_by_hand(
    session: AsyncSession, ada: User, field: str, value: int
) -> None:
    """A user keeps its id, and its version counts what was committed."""
    setattr(ada, field, value)
    with pytest.raises(UncapturedWriteError, match=field):
        await session.commit()


async def test_zone_is_not_renamed_by_its_key(session: AsyncSession, ada: User) -> None:
    """A zone's id is its channel's name."""
    (await session.get_one(Zone, "B")).zone_id = "C"
    with pytest.raises(UncapturedWriteError, match="zone_id"):
        await session.commit()


async def test_reads_are_left_alone(session: AsyncSession, ada: User) -> None:
    """SELECTs of all kinds pass."""
    assert (await session.scalars(select(User))).one().id == 1
    assert (await session.execute(select(USERS.c.id))).scalar_one() == 1
    assert (await session.execute(text("SELECT count(*) FROM zones"))).scalar_one() == 2
