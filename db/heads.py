"""The heads of channels: locked in one order, moved on, and the change rows written.

Whoever changes a channel holds its head's row until it commits. So revisions are contiguous
and in commit order, and heads, always locked last and in one order, can't deadlock.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from json import dumps
from typing import Any, Final

from sqlalchemy import Connection, bindparam, text

from channels.names import DIRECTORY, REVOCATIONS, UNASSIGNED, ZONE_PREFIX
from channels.positions import Position
from db.identity import IDENTITY_SQL, client_epoch, process_identity
from db.models import random_epoch
from db.types import UtcDateTime

_LOCK_POSTGRES: Final = text(
    """SELECT channel FROM channel_heads
    WHERE channel = ANY(CAST(:channels AS text[])) ORDER BY channel COLLATE "C" FOR UPDATE"""
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
    " UNION SELECT :directory UNION SELECT :unassigned UNION SELECT :revocations"
)
# One round trip from the first lock to the last row: whoever waits for these heads waits for
# nothing but it and the COMMIT. All that is told is encoded before.
_MOVE_POSTGRES: Final = text(
    f"""WITH wanted AS (
        SELECT * FROM unnest(CAST(:channels AS text[]), CAST(:epochs AS text[]),
            CAST(:events AS text[])) AS w(channel, new_epoch, events)),
    locked AS MATERIALIZED (
        SELECT channel FROM channel_heads WHERE channel = ANY(CAST(:channels AS text[]))
        ORDER BY channel COLLATE "C" FOR UPDATE),
    moved AS (
        UPDATE channel_heads AS h
        SET rev = h.rev + CAST(w.events IS NOT NULL AS int),
            epoch = coalesce(w.new_epoch, h.epoch),
            floor = CASE WHEN w.new_epoch IS NULL THEN h.floor ELSE h.rev END
        FROM locked JOIN wanted AS w USING (channel)
        WHERE h.channel = locked.channel
        RETURNING h.channel, h.epoch, h.rev, w.events),
    logged AS (
        INSERT INTO changes (channel, rev, tx_id, at, span, events)
        SELECT channel, rev, :tx, :at, :span, CAST(events AS json)
        FROM moved WHERE events IS NOT NULL)
    SELECT channel, epoch, rev, {IDENTITY_SQL} AS identity FROM moved"""  # noqa: S608 - made of constants
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
class Entry:
    """What all rows of a transaction in the change log share, and what each tells.

    Attributes:
        tx: The transaction's id.
        time_ms: When it is recorded, Unix milliseconds.
        events_json: By channel: the events, encoded.
    """

    tx: str
    time_ms: int
    events_json: Mapping[str, bytes]

    def row(self, channel: str, rev: int) -> dict[str, Any]:
        """Return the row of a channel, as `changes` has it."""
        return {"channel": channel, "rev": rev, "events": self.text(channel), **self.shared}

    def text(self, channel: str) -> str | None:
        """Return what a channel is told; `None`: nothing."""
        events_json = self.events_json.get(channel)
        return None if events_json is None else events_json.decode()

    @property
    def shared(self) -> dict[str, Any]:
        """What is the same in all rows."""
        at = datetime.fromtimestamp(self.time_ms / 1000, UTC)
        return {"tx": self.tx, "at": at, "span": len(self.events_json)}


def record(connection: Connection, entry: Entry, created: Collection[str]) -> dict[str, Position]:
    """Lock heads, move them on by one revision and write the rows of the change log.

    They are the last rows that this transaction locks.

    Args:
        connection: In the writing transaction.
        entry: What is told; its channels get a change row.
        created: Channels whose history begins anew; they may be among those of `entry`.

    Returns:
        Where each channel of `entry` will be once this transaction has committed.
    """
    renewed = {channel: random_epoch() for channel in sorted(created)}
    if created:
        # Before anything is locked: nobody else can be making the same zone, so nobody waits
        # here for a transaction that waits for us.
        _insert(connection, created)
    move = _move_postgres if connection.dialect.name == "postgresql" else _move_sqlite
    wanted = sorted({*entry.events_json, *created})
    moved = move(connection, wanted, entry, renewed)
    missing = [channel for channel in wanted if channel not in moved]
    if missing:
        # Zones that were made past the service have no heads yet.
        _insert(connection, missing)
        moved.update(move(connection, missing, entry, renewed))
    return {channel: moved[channel] for channel in entry.events_json}


def _move_postgres(
    connection: Connection, channels: Sequence[str], entry: Entry, renewed: Mapping[str, str]
) -> dict[str, Position]:
    values = {
        "channels": list(channels),
        "epochs": [renewed.get(channel) for channel in channels],
        "events": [entry.text(channel) for channel in channels],
        **entry.shared,
    }
    rows = connection.execute(_MOVE_POSTGRES, values).all()
    return {
        channel: Position(client_epoch(epoch, identity), rev)
        for channel, epoch, rev, identity in rows
    }


def _move_sqlite(
    connection: Connection, channels: Sequence[str], entry: Entry, renewed: Mapping[str, str]
) -> dict[str, Position]:
    rows = connection.execute(_LOCK_SQLITE, {"channels": dumps(list(channels))}).all()
    epochs = {row.channel: row.epoch for row in rows}
    revs = {row.channel: row.rev for row in rows}
    new = {channel: renewed[channel] for channel in channels if channel in renewed}
    if new:
        connection.execute(
            _RENEW_HEADS, [{"channel": channel, "epoch": epoch} for channel, epoch in new.items()]
        )
    told = [channel for channel in revs if channel in entry.events_json]
    if told:
        connection.execute(_ADVANCE_SQLITE, {"channels": dumps(told)})
        connection.execute(
            _INSERT_SQLITE, [entry.row(channel, revs[channel] + 1) for channel in told]
        )
    identity = process_identity()
    return {
        channel: Position(
            client_epoch(new.get(channel, epochs[channel]), identity),
            rev + (channel in entry.events_json),
        )
        for channel, rev in revs.items()
    }


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
            {
                "prefix": ZONE_PREFIX,
                "directory": DIRECTORY,
                "unassigned": UNASSIGNED,
                "revocations": REVOCATIONS,
            },
        ).scalars()
    )
    missing = channels.difference(connection.execute(_ALL_HEADS).scalars())
    if missing:
        _insert(connection, missing)
    locked = sorted(_lock(connection, sorted(channels)))
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
    return channel in _lock(connection, [channel])


def _lock(connection: Connection, channels: Sequence[str]) -> list[str]:
    """Lock heads, in order; returns those that there are."""
    if connection.dialect.name == "postgresql":
        found = connection.execute(_LOCK_POSTGRES, {"channels": list(channels)})
    else:
        found = connection.execute(_LOCK_SQLITE, {"channels": dumps(list(channels))})
    return [row.channel for row in found]


def _insert(connection: Connection, channels: Collection[str]) -> None:
    connection.execute(
        _INSERT_HEADS,
        [{"channel": channel, "epoch": random_epoch()} for channel in sorted(channels)],
    )
