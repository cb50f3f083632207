"""Retention beside writers: they don't wait, no channel is left out, and nothing is lost."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
from sqlalchemy import text

from channels.changes import Transaction
from db import user_crud
from db.engine import Database
from tests.db.pruned_rows import keep_pruned_rows, put_pruned_rows_back
from tests.db.pruning import CHANGES, floors_of, prune, pruner, rename, revs_of
from tests.db.replay import assert_handed_is_log, assert_log_makes_tables
from tests.db.statements import counted_statements
from tests.db.test_concurrent_capture import WRITES, Writer, seed


@asynccontextmanager
async def writing(database: Database, user_id: int, name: str) -> AsyncIterator[None]:
    """Hold the heads that a rename needs, as a transaction just before its commit does."""
    async with database.engine.connect() as connection:
        await connection.execute(
            text(
                "UPDATE channel_heads SET rev = rev WHERE channel ="
                " (SELECT 'zone:' || zone_id FROM users WHERE id = :id AND :name <> '')"
            ),
            {"id": user_id, "name": name},
        )
        yield
        await connection.rollback()


@pytest.mark.usefixtures("postgres_ada")
async def test_a_head_that_a_writer_holds_is_skipped_and_others_are_pruned(
    postgres_database: Database,
) -> None:
    """The pass ends while the writer still holds it, and the next pass does the rest."""
    database = postgres_database
    await rename(database, CHANGES - 1)
    await database.run_transaction(
        lambda db: user_crud.create_user(db, global_id=2, name="Bob", zone_id="B")
    )
    for n in range(CHANGES - 1):
        fields = {"name": f"n{n}"}
        await database.run_transaction(partial(user_crud.update_user, user_id=2, changes=fields))
    async with writing(database, 1, "held"):
        report = await prune(database, 2, lock_wait_s=0.01)
        assert report.busy == 1
        revs = await revs_of(database)
        assert revs["zone:A"] == [*range(1, CHANGES + 1)]
        assert revs["zone:B"] == [CHANGES - 1, CHANGES]
        assert (await floors_of(database))["zone:A"] == 0
    assert (await prune(database, 2)).busy == 0
    assert (await revs_of(database))["zone:A"] == [CHANGES - 1, CHANGES]


WAITS = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"


@pytest.mark.usefixtures("postgres_ada")
async def test_a_head_that_always_has_a_writer_is_waited_for_in_line(
    postgres_database: Database,
) -> None:
    """Passed over at first; then it queues like a writer, so a hot channel is pruned, too."""
    database = postgres_database
    await rename(database, CHANGES - 1)
    async with asyncio.TaskGroup() as group, writing(database, 1, "hot"):
        passing = group.create_task(prune(database, 2, lock_wait_s=20))
        async with database.engine.connect() as watching:
            waiting = 0
            while not waiting:
                waiting = await watching.scalar(text(WAITS)) or 0
                await watching.rollback()
        assert (await revs_of(database))["zone:A"][0] == 1
    assert (await passing).busy == 0
    assert (await revs_of(database))["zone:A"] == [CHANGES - 1, CHANGES]


@pytest.mark.usefixtures("postgres_ada")
async def test_one_process_prunes_at_a_time(postgres_database: Database) -> None:
    """Whoever comes second does nothing, and may as soon as the first has ended."""
    database = postgres_database
    await rename(database, CHANGES - 1)
    held, second = pruner(database), pruner(database, 2)
    async with held._alone() as is_alone:
        assert is_alone
        assert await second.prune() is None
        assert len((await revs_of(database))["zone:A"]) == CHANGES
    report = await second.prune()
    assert report is not None
    assert report.changes == CHANGES - 2


@pytest.mark.usefixtures("postgres_ada")
async def test_looking_for_what_is_due_reads_the_log_by_its_key(
    postgres_database: Database,
) -> None:
    """The cost of a pass is the number of channels, whatever the log's length."""
    async with postgres_database.engine.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO channel_heads SELECT 'zone:x' || n, 'e', 100, 0"
                " FROM generate_series(1, 300) n"
            )
        )
        await connection.execute(
            text(
                "INSERT INTO changes SELECT 'zone:x' || n, r, 'tx' || n || '-' || r, now(), 1, '[]'"
                " FROM generate_series(1, 300) n, generate_series(1, 100) r"
            )
        )
        await connection.execute(text("ANALYZE channel_heads, changes"))
    with counted_statements(postgres_database) as sent:
        report = await prune(postgres_database, 99)
    assert report.changes == 300
    (look,) = [statement for statement in sent if "first_rev" in statement]
    async with postgres_database.engine.connect() as connection:
        bound = look.replace("$1", "''").replace("$2", "1000")
        plan = "\n".join((await connection.execute(text(f"EXPLAIN {bound}"))).scalars())
    assert "pk_changes" in plan
    assert "Seq Scan on changes" not in plan


async def prune_until(database: Database, is_over: asyncio.Event) -> int:
    """Prune to the newest change or two, again and again; return how many were deleted."""
    deleted = 0
    for keep in itertools.cycle((0, 1, 2)):
        deleted += (await prune(database, keep, batch_changes=3, lock_wait_s=0.05)).changes
        if is_over.is_set():
            return deleted
        await asyncio.sleep(0.01)
    raise AssertionError


@pytest.mark.timeout(180)
async def test_the_log_pruned_under_many_writers_is_whole_with_what_was_pruned(
    database: Database, handed: list[Transaction]
) -> None:
    """State and log agree, nothing but the oldest goes, and each floor is right."""
    await seed(database)
    await keep_pruned_rows(database)
    outcomes: Counter[str] = Counter()
    is_over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        pruning = group.create_task(prune_until(database, is_over))
        async with asyncio.TaskGroup() as writing_group:
            for number in range(6):
                writing_group.create_task(Writer(database, 7_000 + number, outcomes).run())
        is_over.set()
    assert outcomes.total() == 6 * WRITES
    assert await pruning > 100
    last = await prune(database, 3)  # Zones made anew have left rows below their floor.
    assert last.busy == 0
    floors = await floors_of(database)
    async with database.snapshot() as connection:
        heads = await connection.execute(text("SELECT channel, rev FROM channel_heads"))
        last_revs = {row.channel: row.rev for row in heads}
    revs = await revs_of(database)
    for channel, floor in floors.items():
        assert revs.get(channel, []) == [*range(floor + 1, last_revs[channel] + 1)], channel
    assert await put_pruned_rows_back(database) == await pruning + last.changes
    await assert_log_makes_tables(database)
    await assert_handed_is_log(database, handed)
