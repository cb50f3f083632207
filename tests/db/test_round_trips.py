"""How often a write asks PostgreSQL, and what it does when a connection is lost unnoticed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncSession

from channels.ports import UnavailableError
from db import user_crud
from db.engine import Database, DatabaseConfig
from db.models import User
from tests.db.conftest import add_zones_and_ada
from tests.servers import PostgresServer

HOLD_HEAD = text("SELECT 1 FROM channel_heads WHERE channel = 'zone:A' FOR UPDATE")
WAITING = text(
    "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    " AND datname = current_database()"
)


LOG_ALL = text(
    """DO $$ BEGIN
        EXECUTE format(
            'ALTER DATABASE %I SET log_statement = %L', current_database(), 'all');
    END $$"""
)


@dataclass
class ServerLog:
    """What PostgreSQL logs of a connection: each statement is a round trip.

    Attributes:
        log: The server's log.
        pid: The connection's process.
    """

    log: Path
    pid: int
    _seen_bytes: int = 0

    async def statements(self) -> list[str]:
        """Return the first word of each statement that was asked since the last call."""
        data = await asyncio.to_thread(self.log.read_bytes)
        new, self._seen_bytes = data[self._seen_bytes :].decode(), len(data)
        found = rf"\[{self.pid}\] LOG:  (?:statement|execute [^:]+): (\w+)"
        return re.findall(found, new)


@pytest.fixture
async def asked(
    postgres_server: PostgresServer, postgres_database: Database, postgres_ada: int
) -> ServerLog:
    """What the only connection of `postgres_database` asks; Ada has the id 1."""
    assert postgres_ada == 1
    async with postgres_database.engine.begin() as connection:
        await connection.execute(LOG_ALL)
    await postgres_database.engine.dispose()
    # Statements are prepared when a connection runs them first.
    for zone_id in "BA":
        moving = partial(user_crud.move_user, user_id=1, zone_id=zone_id)
        await postgres_database.run_statements(moving)
    pid = await _backend_of(postgres_database)
    asked = ServerLog(postgres_server.folder / "server.log", pid)
    assert "WITH" in await asked.statements()
    return asked


async def test_a_transfer_takes_four_round_trips(
    postgres_database: Database, asked: ServerLog
) -> None:
    """BEGIN, the move with its lock, heads and log, COMMIT."""
    done = await postgres_database.run_statements(
        partial(user_crud.move_user, user_id=1, zone_id="B")
    )
    assert set(done.positions) == {"zone:A", "zone:B"}
    assert await asked.statements() == ["BEGIN", "WITH", "WITH", "COMMIT"]


async def test_an_assignment_takes_six_round_trips(
    postgres_database: Database, asked: ServerLog
) -> None:
    """Beside those of the ORM, only the row as it became, and heads and log in one."""
    for zone_id in "BA":
        await asked.statements()
        async with AsyncSession(postgres_database.engine) as session:
            user = await session.get_one(User, 1)
            user.zone_id = zone_id
            await session.commit()
    assert await asked.statements() == ["BEGIN", "SELECT", "UPDATE", "SELECT", "WITH", "COMMIT"]


async def test_moving_a_thousand_users_asks_no_more_often(
    postgres_database: Database, asked: ServerLog
) -> None:
    """Zones, users, the moves, the users as they became, heads and log."""
    async with postgres_database.get_db() as db:
        rows = [user_crud.NewUser(2000 + n, "u", "A") for n in range(1000)]
        await user_crud.bulk_create_users(db, rows)
    moves = [user_crud.Transfer(global_id=2000 + n, zone_id="B") for n in range(1000)]
    await asked.statements()
    await postgres_database.run_transaction(partial(user_crud.transfer_users, transfers=moves))
    assert len(await asked.statements()) <= 8


async def test_a_reader_begins_read_only(postgres_database: Database) -> None:
    """BEGIN is sent early, and in the mode of the engine all the same."""
    async with postgres_database.get_db(read_only=True) as session:
        connection = await session.connection()
        shown = await connection.exec_driver_sql("SHOW transaction_read_only")
        assert shown.scalar_one() == "on"
    async with postgres_database.snapshot() as reading:
        isolation = await reading.exec_driver_sql("SHOW transaction_isolation")
        assert isolation.scalar_one() == "repeatable read"


async def _backend_of(database: Database) -> int:
    async with database.engine.connect() as connection:
        return int((await connection.exec_driver_sql("SELECT pg_backend_pid()")).scalar_one())


def _end_backend(pid: int) -> None:
    """End the server's side of a connection, with no tick in which the event loop could notice."""
    os.kill(pid, signal.SIGTERM)
    with contextlib.suppress(ProcessLookupError):
        while True:
            os.kill(pid, 0)


@pytest.mark.parametrize("pool_pre_ping", [True, False])
async def test_a_connection_lost_unnoticed_is_replaced_before_anything_is_asked(
    postgres_url: str, *, pool_pre_ping: bool
) -> None:
    """BEGIN finds out, and another connection takes its place: no request sees the loss."""
    database = Database(DatabaseConfig(postgres_url, pool_pre_ping=pool_pre_ping))
    async with AsyncSession(database.engine) as session:
        await add_zones_and_ada(session)
    for move, zone_id in enumerate("BAB", 1):
        _end_backend(await _backend_of(database))
        moving = partial(user_crud.move_user, user_id=1, zone_id=zone_id)
        moved = await database.run_statements(moving)
        assert (moved.value.zone_id, moved.value.version) == (zone_id, 1 + move)
        _end_backend(await _backend_of(database))
        async with database.get_db(read_only=True) as reading:
            assert (await reading.get_one(User, 1)).zone_id == zone_id
    await database.close()


async def test_an_idle_connection_is_tried_before_any_session_has_it(
    postgres_database: Database, postgres_ada: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that isn't ours can't begin anew; so it isn't given what died while idle."""
    monkeypatch.setattr("db.dialect.TRUSTED_S", 0.0)
    _end_backend(await _backend_of(postgres_database))
    async with AsyncSession(postgres_database.engine) as session:
        assert (await session.get_one(User, postgres_ada)).zone_id == "A"


async def test_a_connection_lost_at_the_heads_is_an_outage(
    postgres_database: Database, postgres_url: str, postgres_ada: int
) -> None:
    """Whoever waits for a head whose server ends hears `UnavailableError`, nothing rawer."""
    other = Database(DatabaseConfig(postgres_url))
    moving = partial(user_crud.move_user, user_id=postgres_ada, zone_id="B")
    async with other.engine.begin() as holder:
        await holder.execute(HOLD_HEAD)
        async with asyncio.TaskGroup() as tasks:
            writer = tasks.create_task(_outcome(postgres_database, moving))
            while not (waiting := await _waiting(other)):  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0.02)
            os.kill(waiting[0], signal.SIGTERM)
        assert isinstance(writer.result(), UnavailableError)
    await postgres_database.run_statements(moving)
    await other.close()


async def _waiting(database: Database) -> list[int]:
    # In a transaction of its own: within one, the view shows the same.
    async with database.engine.connect() as connection:
        return list((await connection.execute(WAITING)).scalars())


async def _outcome(database: Database, work: Callable[[Connection], object]) -> Exception | None:
    try:
        await database.run_statements(work)
    except Exception as error:  # noqa: BLE001 - what it is is the question
        return error
    return None
