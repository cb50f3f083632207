"""Failpoints: a node that breaks at a chosen point of its program, as no signal could time it.

It runs in the node's process in the place of `zonecast`: first it changes what the failpoint is
about, then it starts the command. The product knows nothing of it.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, tzinfo
from types import FrameType
from unittest.mock import patch

from sqlalchemy import Connection

import db.types
from cache.redis_bus import RedisBus
from channels.changes import Transaction
from channels.publisher import Publisher
from db.capture import committed_transaction
from db.engine import Committed, CommittingSession, Database
from realtime import command

VARIABLE = "ZONECAST_TEST_FAILPOINT"
"""The environment variable that names the failpoint."""

BEFORE_PUBLISH = "killed before publish"
AFTER_PUBLISH = "killed after publish"
CLOCK = "jumping clock"
FEW_DESCRIPTORS = "few descriptors"

MAX_DESCRIPTORS = 140

FORTH, BACK = signal.SIGUSR1, signal.SIGUSR2
"""What makes the clock of a node jump, by `JUMP_S` each time."""

JUMP_S = 6 * 3600


def die() -> None:
    """End this process as a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_before_publish() -> None:
    """Die as soon as a transaction is committed, before anybody is told of it."""

    def accept(_publisher: Publisher, _transaction: Transaction) -> None:
        die()

    patch.object(Publisher, "accept", accept).start()


def kill_after_publish() -> None:
    """Die when the bus has a transaction, before whoever wrote it gets an answer."""
    publish, commit = RedisBus.publish, CommittingSession.commit
    run_statements = Database.run_statements

    async def publish_and_die(bus: RedisBus, transactions: Sequence[Transaction]) -> None:
        try:
            await publish(bus, transactions)
        finally:
            die()

    async def commit_and_hang(session: CommittingSession) -> None:
        await commit(session)
        if committed_transaction(session.sync_session) is not None:
            await asyncio.Event().wait()

    async def run_and_hang(
        database: Database, work: Callable[[Connection], object]
    ) -> Committed[object]:
        committed = await run_statements(database, work)
        if committed.positions:
            await asyncio.Event().wait()
        return committed

    patch.object(RedisBus, "publish", publish_and_die).start()
    patch.object(Database, "run_statements", run_and_hang).start()
    patch.object(CommittingSession, "commit", commit_and_hang).start()


def let_the_clock_jump() -> None:
    """Have a wall clock that signals set forth and back; the monotonic one goes on."""
    read_s, read_ns, ahead_s = time.time, time.time_ns, [0]

    def jump(number: int, _frame: FrameType | None) -> None:
        ahead_s[0] += JUMP_S if number == FORTH else -JUMP_S

    class JumpingDatetime(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> JumpingDatetime:
            return super().now(tz) + timedelta(seconds=ahead_s[0])

    for number in (FORTH, BACK):
        signal.signal(number, jump)
    patch.object(time, "time", lambda: read_s() + ahead_s[0]).start()
    patch.object(time, "time_ns", lambda: read_ns() + ahead_s[0] * 10**9).start()
    patch.object(db.types, "datetime", JumpingDatetime).start()


def leave_few_descriptors() -> None:
    """Have a process that may open hardly anything."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_DESCRIPTORS, MAX_DESCRIPTORS))


FAILPOINTS: dict[str, Callable[[], None]] = {
    BEFORE_PUBLISH: kill_before_publish,
    AFTER_PUBLISH: kill_after_publish,
    CLOCK: let_the_clock_jump,
    FEW_DESCRIPTORS: leave_few_descriptors,
}


def main() -> None:
    """Arm the failpoint that the environment names, and run the command line."""
    FAILPOINTS[os.environ[VARIABLE]]()
    command.main()
