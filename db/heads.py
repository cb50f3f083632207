"""The heads of channels: locked in one order, moved on, and the change rows written.

Whoever changes a channel holds its head's row until it commits. So revisions are contiguous
and in commit order, and heads, always locked last and in one order, can't deadlock.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from json import dumps
from typing import Final

from sqlalchemy import Connection, bindparam, text

from channels.changes import Transaction
from channels.names import DIRECTORY, UNASSIGNED, ZONE_PREFIX
from channels.positions import Position
from db.identity import IDENTITY_SQL, client_epoch, process_identity
from db.models import random_epoch
from db.types import UtcDateTime

_LOCK_POSTGRES: Final = text(
    f"""SELECT channel, epoch, rev, {IDENTITY_SQL} AS identity FROM channel_heads
    WHERE channel = ANY(CAST(:channels AS text[])) ORDER BY channel COLLATE "C" FOR UPDATE"""  # noqa: S608 - made of constants
)
_LOCK_FREE_POSTGRES: Final = text(f"{_LOCK_POSTGRES.text} SKIP LOCKED")
_LIMIT_WAIT: Final = text("SELECT set_config('lock_timeout', :ms, true)")
# The writing transaction holds SQLite's only write lock: there is nothing more to lock.
_LOCK_SQLITE: Final = text(
    "SELECT channel, epoch, rev FROM channel_heads"
    " WHERE channel IN (SELECT value FROM json_each(:channels)) ORDER BY channel"
)
_INSERT_HEADS: Final = text(
    "INSERT INTO channel_heads (channel, epoch, rev, floor)"
    " VALUES (:channel, :epoch, 0, 0) ON CONFLICT (channel) DO NOTHING"
)
_RENEW_HEADS: Final = text(
    "UPDATE channel_heads SET epoch = :epoch, floor = rev WHERE channel = :channel"
)
_RESTART_HEADS: Final = text(
    "UPDATE channel_heads SET epoch = :epoch, rev = rev + 1, floor = rev + 1"
    " WHERE channel = :channel"
)
_ALL_HEADS: Final = text("SELECT channel FROM channel_heads")
_ALL_CHANNELS: Final = text(
    "SELECT channel FROM channel_heads UNION SELECT :prefix || zone_id FROM zones"
    " UNION SELECT :directory UNION SELECT :unassigned"
)
# One round trip: other writers of the same channels wait for all of them.
_ADVANCE_POSTGRES: Final = text(
    """WITH moved AS (
        UPDATE channel_heads SET rev = rev + 1 WHERE channel = ANY(CAST(:channels AS text[])))
    INSERT INTO changes (channel, rev, tx_id, at, span, events)
    SELECT c.channel, c.rev, :tx, :at, :span, CAST(c.events AS json)
    FROM unnest(CAST(:channels AS text[]), CAST(:revs AS bigint[]), CAST(:events AS text[]))
        AS c(channel, rev, events)"""
).bindparams(bindparam("at", type_=UtcDateTime()))
_ADVANCE_SQLITE: Final = text(
    "UPDATE channel_heads SET rev = rev + 1"
    " WHERE channel IN (SELECT value FROM json_each(:channels))"
)
_INSERT_SQLITE: Final = text(
    "INSERT INTO changes (channel, rev, tx_id, at, span, events)"
    " VALUES (:channel, :rev, :tx, :at, :span, :events)"
).bindparams(bindparam("at", type_=UtcDateTime()))


@dataclass(frozen=True, slots=True)
class LockedHeads:
    """Heads that this transaction holds.

    Attributes:
        epochs: By channel, as in the row.
        revs: By channel.
        identity: The identity of the database.
    """

    epochs: dict[str, str]
    revs: dict[str, int]
    identity: str

    def next_position(self, channel: str) -> Position:
        """Where the channel will be once this transaction has committed."""
        epoch = client_epoch(self.epochs[channel], self.identity)
        return Position(epoch, self.revs[channel] + 1)


def lock(connection: Connection, changed: Collection[str], created: Collection[str]) -> LockedHeads:
    """Lock the heads of channels, as the last rows that this transaction locks.

    Args:
        connection: In the writing transaction.
        changed: Channels that get a change row.
        created: Channels whose history begins anew; they may be among `changed`.
    """
    if created:
        # Before anything is locked: nobody else can be making the same zone, so nobody waits
        # here for a transaction that waits for us.
        _insert(connection, created)
    wanted = sorted({*changed, *created})
    heads = _lock(connection, wanted)
    missing = [channel for channel in wanted if channel not in heads.revs]
    if missing:
        _insert(connection, missing)
        heads = _lock(connection, wanted)
    if created:
        renewed = {channel: random_epoch() for channel in sorted(created)}
        connection.execute(
            _RENEW_HEADS,
            [{"channel": channel, "epoch": epoch} for channel, epoch in renewed.items()],
        )
        heads.epochs.update(renewed)
    return heads


def advance(connection: Connection, transaction: Transaction) -> None:
    """Move the locked heads on by one revision and write the rows of the change log."""
    changes = transaction.changes
    channels = [change.channel for change in changes]
    at = datetime.fromtimestamp(transaction.time_ms / 1000, UTC)
    shared = {"tx": transaction.tx, "at": at, "span": len(changes)}
    if connection.dialect.name == "postgresql":
        revs = [change.rev for change in changes]
        events = [change.events_json.decode() for change in changes]
        connection.execute(
            _ADVANCE_POSTGRES, {"channels": channels, "revs": revs, "events": events, **shared}
        )
        return
    connection.execute(_ADVANCE_SQLITE, {"channels": dumps(channels)})
    connection.execute(
        _INSERT_SQLITE,
        [
            {
                "channel": change.channel,
                "rev": change.rev,
                "events": change.events_json.decode(),
                **shared,
            }
            for change in changes
        ],
    )


def renew(connection: Connection) -> int:
    """Begin a new history on every channel, also of zones that were made without one.

    The heads are locked in the order in which all writers lock them. They move on by a
    revision, so that whoever compares only sums of revisions notices, too.

    Returns:
        How many channels there are.
    """
    channels = set(
        connection.execute(
            _ALL_CHANNELS,
            {"prefix": ZONE_PREFIX, "directory": DIRECTORY, "unassigned": UNASSIGNED},
        ).scalars()
    )
    missing = channels.difference(connection.execute(_ALL_HEADS).scalars())
    if missing:
        _insert(connection, missing)
    locked = sorted(_lock(connection, sorted(channels)).revs)
    connection.execute(
        _RESTART_HEADS, [{"channel": channel, "epoch": random_epoch()} for channel in locked]
    )
    return len(locked)


def lock_one(connection: Connection, channel: str, wait_s: float) -> bool:
    """Lock the head of a single channel, as the only row that this transaction locks.

    Args:
        connection: In a transaction that has no other lock.
        channel: The channel.
        wait_s: How long to wait for a writer that holds it, in the line of its writers; 0: not
            at all.

    Returns:
        Whether it is locked: a writer may hold it, or there is no such head.

    Raises:
        DBAPIError: the head was waited for in vain.
    """
    if connection.dialect.name == "postgresql" and not wait_s:
        found = connection.execute(_LOCK_FREE_POSTGRES, {"channels": [channel]})
        return found.one_or_none() is not None
    if connection.dialect.name == "postgresql":
        connection.execute(_LIMIT_WAIT, {"ms": str(max(1, round(wait_s * 1000)))})
    return channel in _lock(connection, [channel]).revs


def _lock(connection: Connection, channels: Sequence[str]) -> LockedHeads:
    epochs: dict[str, str] = {}
    revs: dict[str, int] = {}
    identity = ""
    if connection.dialect.name == "postgresql":
        rows = connection.execute(_LOCK_POSTGRES, {"channels": list(channels)}).all()
        identity = rows[0].identity if rows else ""
    else:
        rows = connection.execute(_LOCK_SQLITE, {"channels": dumps(list(channels))}).all()
        identity = process_identity()
    for row in rows:
        epochs[row.channel] = row.epoch
        revs[row.channel] = row.rev
    return LockedHeads(epochs, revs, identity)


def _insert(connection: Connection, channels: Collection[str]) -> None:
    connection.execute(
        _INSERT_HEADS,
        [{"channel": channel, "epoch": random_epoch()} for channel in sorted(channels)],
    )
