"""Replaying the change log from nothing, strictly: what comes out has to be the tables."""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlalchemy import text

from channels.changes import Change, Transaction
from channels.events import (
    Changed,
    Entered,
    Event,
    Left,
    User,
    Zone,
    ZoneChanged,
    ZoneCreated,
    ZoneDeleted,
    decode_events,
)
from channels.names import DIRECTORY, UNASSIGNED, zone_channel
from db.engine import Database
from db.rows import select_users, select_zones, user_of, zone_of

Row = tuple[str, int]


@dataclass(frozen=True, slots=True)
class LogRow:
    """A row of the change log."""

    channel: str
    rev: int
    tx: str
    span: int
    events: tuple[Event, ...]


@dataclass(slots=True)
class Replayed:
    """What a channel's history makes of nothing."""

    users: dict[int, User] = field(default_factory=dict)
    zones: dict[str, Zone] = field(default_factory=dict)

    def apply(self, channel: str, event: Event) -> None:
        """Apply an event, insisting that it fits what came before."""
        match event:
            case Entered(user):
                assert user.id not in self.users, (channel, event)
                assert zone_channel(user.zone_id) == channel
                self.users[user.id] = user
            case Changed(user):
                assert self.users[user.id].version < user.version, (channel, event)
                assert zone_channel(user.zone_id) == channel
                self.users[user.id] = user
            case Left(user_id, version):
                assert self.users.pop(user_id).version < version, (channel, event)
            case ZoneCreated(zone):
                assert zone.zone_id not in self.zones, (channel, event)
                self.zones[zone.zone_id] = zone
            case ZoneChanged(zone):
                assert channel != DIRECTORY or zone.zone_id in self.zones, (channel, event)
                self.zones[zone.zone_id] = zone
            case ZoneDeleted(zone_id):
                assert not self.users, (channel, event)
                self.zones.pop(zone_id, None)


async def read_log(database: Database) -> list[LogRow]:
    """Read the whole log, by channel and revision."""
    query = text(
        "SELECT channel, rev, tx_id, span, CAST(events AS text) AS events FROM changes"
        " ORDER BY channel, rev"
    )
    async with database.snapshot() as connection:
        rows = (await connection.execute(query)).all()
    return [
        LogRow(row.channel, row.rev, row.tx_id, row.span, decode_events(row.events)) for row in rows
    ]


async def events_of(database: Database, channel: str) -> list[tuple[Event, ...]]:
    """Read the events of a channel, a tuple for each revision."""
    return [row.events for row in await read_log(database) if row.channel == channel]


def replay(rows: list[LogRow]) -> dict[str, Replayed]:
    """Replay rows in order; revisions have to begin with 1 and to be contiguous."""
    replayed: dict[str, Replayed] = {}
    revs: dict[str, int] = {}
    for row in rows:
        assert row.rev == revs.get(row.channel, 0) + 1, row
        revs[row.channel] = row.rev
        state = replayed.setdefault(row.channel, Replayed())
        assert row.events, row
        for event in row.events:
            state.apply(row.channel, event)
    return replayed


async def assert_log_makes_tables(database: Database) -> None:
    """Insist that the log, replayed from nothing, makes exactly the tables, and heads agree."""
    rows, before = await read_log(database), None
    # A write that nobody waits for any more may be committed between the two reads.
    while rows != before:
        before = rows
        async with database.snapshot() as connection:
            users = [user_of(row) for row in await connection.execute(select_users())]
            zones = [zone_of(row) for row in await connection.execute(select_zones())]
            heads = await connection.execute(text("SELECT channel, rev FROM channel_heads"))
            revs = {row.channel: row.rev for row in heads}
        rows = await read_log(database)
    replayed = replay(rows)
    channels = {UNASSIGNED, *(zone_channel(zone.zone_id) for zone in zones), *replayed}
    for channel in channels - {DIRECTORY}:
        present = {user.id: user for user in users if zone_channel(user.zone_id) == channel}
        assert replayed.get(channel, Replayed()).users == present, channel
    assert replayed.get(DIRECTORY, Replayed()).zones == {zone.zone_id: zone for zone in zones}
    last = {row.channel: row.rev for row in rows}
    assert {channel: rev for channel, rev in revs.items() if rev} == last
    spans: dict[str, int] = {}
    for row in rows:
        spans[row.tx] = spans.get(row.tx, 0) + 1
    assert all(row.span == spans[row.tx] for row in rows)


async def assert_handed_is_log(database: Database, handed: list[Transaction]) -> None:
    """Insist that the sink was given exactly what is in the log, once."""
    rows = {(row.channel, row.rev): row for row in await read_log(database)}
    given: dict[Row, Change] = {}
    for transaction in handed:
        assert transaction.committed_s > 0
        for change in transaction.changes:
            assert (change.channel, change.rev) not in given
            given[change.channel, change.rev] = change
            assert change.tx == transaction.tx
            wide = len(transaction.changes) > 1
            assert change.parts == (
                tuple((c.channel, c.rev) for c in transaction.changes) if wide else ()
            )
    assert given.keys() == rows.keys()
    for place, change in given.items():
        assert (change.tx, change.events) == (rows[place].tx, rows[place].events)
        assert decode_events(change.events_json) == change.events
