"""Retention: how much of the change log is kept, and how the rest goes with nobody waiting for it.

A pass looks at the heads, a slice at a time, and at the oldest change of each by the primary
key: what it costs is in proportion to the channels, not to the log. It then deletes in batches, one
head in each transaction, and raises the head's floor in the same one, so that whoever reads the
head and the log in one snapshot never takes a hole for the end of the log. Revisions stay as they
are: nothing that compares heads sees a pass.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, text

from db import heads
from db.advisory_lock import advisory_lock
from db.engine import Database
from db.errors import ConflictError, RowsLockedError
from db.translation import driver_errors
from db.types import UtcDateTime, utc_now

SLICE: Final = 1_000
"""How many heads one statement looks at."""

_LOCK_KEY: Final = 0x5A6F_6E65_5072_756E
"""The advisory lock that a pass holds: "ZonePrun" in ASCII."""

_COUNT_HEADS: Final = text("SELECT count(*) FROM channel_heads")
_OLDEST_OF_HEADS: Final = text(
    """SELECT h.channel, h.rev, h.floor,
        (SELECT c.rev FROM changes c WHERE c.channel = h.channel ORDER BY c.rev LIMIT 1)
            AS first_rev,
        (SELECT c.at FROM changes c WHERE c.channel = h.channel ORDER BY c.rev LIMIT 1)
            AS first_at
    FROM channel_heads h WHERE h.channel > :after ORDER BY h.channel LIMIT :limit"""
).columns(first_at=UtcDateTime())
_OLDEST: Final = text(
    "SELECT rev, at FROM changes WHERE channel = :channel ORDER BY rev LIMIT :limit"
).columns(at=UtcDateTime())
_RAISE_FLOOR: Final = text(
    "UPDATE channel_heads SET floor = :rev WHERE channel = :channel AND floor < :rev"
)
_DELETE: Final = text("DELETE FROM changes WHERE channel = :channel AND rev <= :rev")


@dataclass(frozen=True, slots=True)
class RetentionConfig:
    """What is kept of each channel, and how the rest is deleted.

    Attributes:
        max_changes: No more than so many changes of a channel are kept, 0 or more.
        max_age_s: No change older than this is kept, in seconds.
        batch_changes: No more than so many rows are deleted in one transaction, 1 or more.
        lock_wait_s: How long a head is waited for that a writer had at the first try.
        pause_s: How long to leave writers alone between two batches.
        slack: By what part of them a channel may exceed both bounds before it is pruned down to
            them, so that few transactions delete many changes; 0: not at all.
    """

    max_changes: int = 10_000
    max_age_s: float = 7 * 86_400
    batch_changes: int = 500
    lock_wait_s: float = 0.2
    pause_s: float = 0
    slack: float = 0


@dataclass(slots=True)
class PruneReport:
    """What a pass has done so far.

    Attributes:
        heads: How many channels there were when it began.
        seen: How many of them it has been through.
        changes: How many changes it deleted.
        channels: Of how many channels.
        busy: How many channels it left to the next pass, as writers held them all the time.
    """

    heads: int
    seen: int = 0
    changes: int = 0
    channels: int = 0
    busy: int = 0


@dataclass(slots=True)
class _Due:
    """A channel that has changes to be deleted: those up to a revision, or before a time."""

    channel: str
    last_rev: int
    before: datetime
    is_begun: bool = False


class Retention:
    """Prunes the change log of a database.

    Args:
        database: Where.
        config: What is kept.
        now: The clock that ages are measured by; the times of changes are their writers'.
    """

    def __init__(
        self,
        database: Database,
        config: RetentionConfig,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._database = database
        self._config = config
        self._now = now

    async def prune(
        self, progressed: Callable[[PruneReport], None] = lambda _: None
    ) -> PruneReport | None:
        """Go through all channels once. Cancel-safe: a batch is deleted as a whole or not.

        What is due is decided when a channel is looked at, so that a pass ends however fast
        the log grows.

        Args:
            progressed: Told after each batch and each slice; must be quick, never raises.

        Returns:
            What was done; `None`: another process is at it.

        Raises:
            UnavailableError: the database can't be asked.
            DatabaseError: it refused.
        """
        async with self._alone() as is_alone:
            if not is_alone:
                return None
            async with self._database.snapshot() as connection:
                report = PruneReport(int(await connection.scalar(_COUNT_HEADS) or 0))
            before = self._now() - timedelta(seconds=self._config.max_age_s)
            last_channel: str | None = ""
            while last_channel is not None:
                seen, due, last_channel = await self._look(last_channel, before)
                await self._prune_slice(due, report, progressed)
                report.seen += seen
                progressed(report)
            return report

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[bool]:
        """Hold the right to prune until the block ends; yields whether it was to be had.

        On PostgreSQL by an advisory lock on a connection of its own, whose end is the lock's.
        Without it two passes would only do the same work; each batch locks its head anyway.
        SQLite serves one process, which runs one pass at a time.
        """
        if self._database.dialect == "sqlite":
            yield True
            return
        timeout_s = self._database.config.connect_timeout_s
        url = self._database.config.own_url
        async with advisory_lock(url, _LOCK_KEY, connect_timeout_s=timeout_s) as got:
            yield got

    async def _look(self, after: str, before: datetime) -> tuple[int, list[_Due], str | None]:
        """Find what is due among the heads after one, in the order of channels.

        Returns:
            How many heads were looked at, what is due, and the last head, `None` at the end.
        """
        async with self._database.snapshot() as connection:
            found = await connection.execute(_OLDEST_OF_HEADS, {"after": after, "limit": SLICE})
            rows = found.all()
        config = self._config
        long_before = before - timedelta(seconds=config.slack * config.max_age_s)
        excess = int(config.slack * config.max_changes)
        due = []
        for row in rows:
            # Changes up to the floor are of an older epoch, and nobody reads them any more.
            last_rev = max(row.floor, row.rev - config.max_changes)
            if row.first_rev is not None and (
                row.first_rev <= max(row.floor, last_rev - excess) or row.first_at < long_before
            ):
                due.append(_Due(row.channel, last_rev, before))
        return len(rows), due, rows[-1].channel if len(rows) == SLICE else None

    async def _prune_slice(
        self, due: Sequence[_Due], report: PruneReport, progressed: Callable[[PruneReport], None]
    ) -> None:
        """Delete what is due, a batch of each channel in turn.

        A head that a writer has is passed over, and tried again after the others; then it is
        waited for in the line of its writers, else a channel that is always written to would
        never be pruned.
        """
        waiting = deque(due)
        for wait_s in (0, self._config.lock_wait_s):
            busy: deque[_Due] = deque()
            while waiting:
                one = waiting.popleft()
                count = await self._prune_batch(one, wait_s)
                if count is None:
                    busy.append(one)
                    continue
                report.changes += count
                report.channels += count > 0 and not one.is_begun
                one.is_begun = one.is_begun or count > 0
                if count == self._config.batch_changes:
                    waiting.append(one)
                progressed(report)
                await asyncio.sleep(self._config.pause_s)
            waiting = busy
        report.busy += len(waiting)

    async def _prune_batch(self, due: _Due, wait_s: float) -> int | None:
        """Delete the oldest changes of one channel, in one transaction.

        Returns:
            How many; `None`: a writer holds the head.
        """
        try:
            with driver_errors():
                async with self._database.engine.begin() as connection:
                    return await connection.run_sync(self._delete_oldest, due, wait_s)
        except (ConflictError, RowsLockedError):
            return None

    def _delete_oldest(self, connection: Connection, due: _Due, wait_s: float) -> int | None:
        # Read before the head is locked, so that writers don't wait for it: nobody changes rows,
        # and another pass could only have deleted some of them meanwhile.
        oldest = {"channel": due.channel, "limit": self._config.batch_changes}
        last_rev: int | None = None
        for row in connection.execute(_OLDEST, oldest):
            if row.rev > due.last_rev and row.at >= due.before:
                break
            last_rev = row.rev
        if last_rev is None:
            return 0
        if not heads.lock_one(connection, due.channel, wait_s):
            return None
        through = {"channel": due.channel, "rev": last_rev}
        connection.execute(_RAISE_FLOOR, through)
        return connection.execute(_DELETE, through).rowcount
