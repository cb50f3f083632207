"""The change log as the rules of synchronisation read it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from json import dumps
from typing import Any, Final

from sqlalchemy import Row, TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from channels import events
from channels.changes import Change, ChangePage, ChannelState, Part
from channels.names import DIRECTORY, REVOCATIONS, zone_id_of
from channels.positions import Position
from db.engine import Database
from db.head_reader import STAMP_POSTGRES, STAMP_SQLITE, HeadReader, UsersStamp
from db.identity import IDENTITY_SQL, client_epoch, process_identity
from db.rows import (
    USERS,
    ZONES,
    among,
    dict_of_users,
    select_users,
    select_users_dict,
    select_zones,
    select_zones_with_counts,
    user_of,
    zone_of,
)
from db.types import UtcDateTime

PAGE_MAX_PARTS: Final = 20_000
"""At most about so many places of other channels are read for one page of changes."""
CACHED_TRANSACTIONS: Final = 64
"""So many wide transactions are remembered: all their channels' followers ask for the same."""

ANSWER_MAX_USERS: Final = 2_000
"""The states of several channels are read together up to about so many users."""
SLICE_ROWS: Final = 500
"""So many rows are made users before others have the loop, which takes some 3 ms."""

_HEAD_POSTGRES: Final = text(
    f"SELECT epoch, rev, floor, {IDENTITY_SQL} AS identity"  # noqa: S608 - made of constants
    " FROM channel_heads WHERE channel = :channel"
)
_HEAD_SQLITE: Final = text("SELECT epoch, rev, floor FROM channel_heads WHERE channel = :channel")
_HEADS_POSTGRES: Final = text(
    f"SELECT channel, epoch, rev, {IDENTITY_SQL} AS identity"  # noqa: S608 - made of constants
    " FROM channel_heads WHERE channel = ANY(CAST(:channels AS text[]))"
)
_HEADS_SQLITE: Final = text(
    "SELECT channel, epoch, rev FROM channel_heads"
    " WHERE channel IN (SELECT value FROM json_each(:channels))"
)
_CHANGES: Final = text(
    "SELECT rev, tx_id, at, span, CAST(events AS text) AS events FROM changes"
    " WHERE channel = :channel AND rev > :after ORDER BY rev LIMIT :limit"
).columns(at=UtcDateTime())
_PARTS_POSTGRES: Final = text(
    "SELECT tx_id, channel, rev FROM changes WHERE tx_id = ANY(CAST(:txs AS text[]))"
)
_PARTS_SQLITE: Final = text(
    "SELECT tx_id, channel, rev FROM changes WHERE tx_id IN (SELECT value FROM json_each(:txs))"
)


@dataclass(frozen=True, slots=True)
class _Head:
    position: Position
    floor: int


class DatabaseChangeLog:
    """`channels.ports.ChangeLog` over a database. Every method is bounded and cancel-safe."""

    def __init__(self, database: Database, *, timeout_s: float = 5) -> None:
        """Prepare; nothing is connected yet.

        Args:
            database: Where to read.
            timeout_s: The bound of each method, waiting for a connection included.
        """
        self._database = database
        self._timeout_s = timeout_s
        self._heads = HeadReader(database, timeout_s)
        self._parts: OrderedDict[str, tuple[Part, ...]] = OrderedDict()

    async def read_state(self, channel: str) -> ChannelState | None:
        """Read the state, the head and the identity in one database snapshot.

        Returns:
            The state; `None` when there is no such channel (a zone never made, or gone).

        Raises:
            UnavailableError: the database doesn't answer in time.
        """
        zone_id = zone_id_of(channel)
        async with self._database.snapshot(self._timeout_s) as connection:
            head = await self._read_head(connection, channel)
            if head is None:
                return None
            if channel == REVOCATIONS:
                # What it is about is read by who follows it (`db.revocations`).
                return ChannelState(channel, head.position, None, {}, {})
            zones: dict[str, events.Zone] = {}
            if channel == DIRECTORY:
                query = select_zones().order_by(ZONES.c.zone_id)
                found = map(zone_of, await connection.execute(query))
                zones = {zone.zone_id: zone for zone in found}
                return ChannelState(channel, head.position, None, {}, zones)
            zone: events.Zone | None = None
            if zone_id is not None:
                one = select_zones().where(ZONES.c.zone_id == zone_id)
                row = (await connection.execute(one)).one_or_none()
                if row is None:
                    return None
                zone = zone_of(row)
            # `==` with None is IS NULL; both find their rows by the index.
            members = select_users().where(USERS.c.zone_id == zone_id)
            # By a cursor: drivers make all rows of an answer in one step.
            ordered = members.order_by(USERS.c.id).execution_options(yield_per=SLICE_ROWS)
            users: dict[int, events.User] = {}
            async with connection.stream(ordered) as found:
                async for rows in found.partitions():
                    users.update((user.id, user) for user in map(user_of, rows))
                    await asyncio.sleep(0)
        return ChannelState(channel, head.position, zone, users, zones)

    async def read_states(self, channels: Sequence[str]) -> dict[str, ChannelState | None]:
        """Read the states of some channels as `read_state` does, all in one snapshot.

        Returns:
            The states; the first is always among them, others only while they are zones whose
            users are few together.

        Raises:
            UnavailableError: the database doesn't answer in time.
        """
        zone_ids = {channel: zone_id_of(channel) for channel in channels}
        wanted = {channel: zone_id for channel, zone_id in zone_ids.items() if zone_id is not None}
        if len(wanted) <= 1 or channels[0] not in wanted:
            return {channels[0]: await self.read_state(channels[0])}
        async with self._database.snapshot(self._timeout_s) as connection:
            states = await self._read_few(connection, wanted)
            users = {s.zone.zone_id: s.users for s in states.values() if s and s.zone}
            if users:
                of_them = among(USERS.c.zone_id, list(users), self._database.dialect)
                members = select_users().where(of_them).order_by(USERS.c.id)
                found = await connection.execute(members)
                while rows := found.fetchmany(SLICE_ROWS):
                    for user in map(user_of, rows):
                        users[str(user.zone_id)][user.id] = user
                    await asyncio.sleep(0)
        return states or {channels[0]: await self.read_state(channels[0])}

    async def _read_few(
        self, connection: AsyncConnection, wanted: Mapping[str, str]
    ) -> dict[str, ChannelState | None]:
        """Read zones, their users still to come, for the first channels with few users."""
        positions = await self._read_positions(connection, list(wanted))
        of_them = among(ZONES.c.zone_id, list(wanted.values()), self._database.dialect)
        counted = select_zones_with_counts(ANSWER_MAX_USERS).where(of_them)
        found = {row.zone_id: row for row in await connection.execute(counted)}
        states: dict[str, ChannelState | None] = {}
        room = ANSWER_MAX_USERS
        for channel, zone_id in wanted.items():
            position, row = positions.get(channel), found.get(zone_id)
            if position is None or row is None:
                states[channel] = None
                continue
            room -= row.users
            if room < 0:
                break
            states[channel] = ChannelState(channel, position, zone_of(row), {}, {})
        return states

    async def read_changes(self, channel: str, since_rev: int, limit: int) -> ChangePage | None:
        """Read up to `limit` changes after `since_rev`, with head and floor, in one snapshot.

        Fewer than there are also when transactions over very many channels are among them.

        Returns:
            The page, its changes with their `parts`; `None` when the channel has no head.

        Raises:
            UnavailableError: the database doesn't answer in time.
        """
        async with self._database.snapshot(self._timeout_s) as connection:
            head = await self._read_head(connection, channel)
            if head is None:
                return None
            # Rows up to the floor are being pruned, or are of an older epoch.
            after = max(since_rev, head.floor)
            found = await connection.execute(
                _CHANGES, {"channel": channel, "after": after, "limit": limit}
            )
            rows = _bounded(found.all())
            floor, rows = _unbroken(head, after, rows)
            parts = await self._read_parts(connection, rows)
        changes = tuple(
            Change.of_json(
                channel,
                Position(head.position.epoch, row.rev),
                row.tx_id,
                round(row.at.timestamp() * 1000),
                row.events.encode(),
                parts.get(row.tx_id, ()),
            )
            for row in rows
        )
        return ChangePage(head.position, floor, changes)

    async def read_heads(self, channels: Sequence[str]) -> dict[str, Position]:
        """Read where channels are now; one that has no head is missing.

        Raises:
            UnavailableError: the database doesn't answer in time.
        """
        return await self._heads.read_heads(channels)

    async def read_stamp(self) -> UsersStamp:
        """Read the stamp that a copy of all users made now would carry.

        Raises:
            UnavailableError: the database doesn't answer in time.
        """
        return await self._heads.read_stamp()

    async def read_revision(self) -> str | None:
        """Read the revision of the tables, `None` when they were never migrated.

        Raises:
            UnavailableError: the database doesn't answer in time.
        """
        return await self._heads.read_revision()

    async def read_users_dict(self) -> tuple[UsersStamp, dict[int, dict[str, Any]]]:
        """Read all users, `{global_id: {id, name, zone_id, version}}`, and their stamp.

        Raises:
            UnavailableError: the database doesn't answer in time.
        """
        async with self._database.snapshot(self._timeout_s) as connection:
            if self._database.dialect == "postgresql":
                row = (await connection.execute(STAMP_POSTGRES)).one()
                stamp = UsersStamp.of_row(row, row.identity)
            else:
                row = (await connection.execute(STAMP_SQLITE)).one()
                stamp = UsersStamp.of_row(row, process_identity())
            return stamp, dict_of_users(await connection.execute(select_users_dict()))

    async def close(self) -> None:
        """Close the connection reserved for heads."""
        await self._heads.close()

    async def _read_head(self, connection: AsyncConnection, channel: str) -> _Head | None:
        on_postgres = self._database.dialect == "postgresql"
        statement: TextClause = _HEAD_POSTGRES if on_postgres else _HEAD_SQLITE
        row = (await connection.execute(statement, {"channel": channel})).one_or_none()
        if row is None:
            return None
        identity = row.identity if on_postgres else process_identity()
        return _Head(Position(client_epoch(row.epoch, identity), row.rev), row.floor)

    async def _read_positions(
        self, connection: AsyncConnection, channels: Sequence[str]
    ) -> dict[str, Position]:
        on_postgres = self._database.dialect == "postgresql"
        found = await connection.execute(
            _HEADS_POSTGRES if on_postgres else _HEADS_SQLITE,
            {"channels": channels if on_postgres else dumps(channels)},
        )
        positions = {}
        for row in found:
            identity = row.identity if on_postgres else process_identity()
            positions[row.channel] = Position(client_epoch(row.epoch, identity), row.rev)
        return positions

    async def _read_parts(
        self, connection: AsyncConnection, rows: Sequence[Row[Any]]
    ) -> dict[str, tuple[Part, ...]]:
        """Find all places of the transactions that changed more than one channel."""
        wide = [row.tx_id for row in rows if row.span > 1]
        parts = {tx: self._parts[tx] for tx in wide if tx in self._parts}
        missing = [tx for tx in wide if tx not in parts]
        if missing:
            on_postgres = self._database.dialect == "postgresql"
            found = await connection.execute(
                _PARTS_POSTGRES if on_postgres else _PARTS_SQLITE,
                {"txs": missing if on_postgres else dumps(missing)},
            )
            places: dict[str, list[Part]] = {tx: [] for tx in missing}
            for tx, channel, rev in found:
                places[tx].append((channel, rev))
            parts.update((tx, tuple(sorted(of_tx))) for tx, of_tx in places.items())
        for tx in wide:
            self._parts[tx] = parts[tx]
            self._parts.move_to_end(tx)
        while len(self._parts) > CACHED_TRANSACTIONS:
            self._parts.popitem(last=False)
        return parts


def _unbroken(head: _Head, after: int, rows: Sequence[Row[Any]]) -> tuple[int, Sequence[Row[Any]]]:
    """Return the floor, and the rows up to the first hole.

    Retention leaves none, as it raises the floor with what it deletes. One made by hand counts
    as compacted, too: whoever is before it has to take the state anew.
    """
    first_rev = rows[0].rev if rows else head.position.rev + 1
    floor = first_rev - 1 if first_rev > after + 1 else head.floor
    for index, row in enumerate(rows):
        if row.rev != first_rev + index:
            return floor, rows[:index]
    return floor, rows


def _bounded(rows: Sequence[Row[Any]]) -> Sequence[Row[Any]]:
    """Return the first rows, one at least, whose transactions have a bounded number of parts."""
    places = 0
    for index, row in enumerate(rows):
        places += row.span
        if index and places > PAGE_MAX_PARTS:
            return rows[:index]
    return rows
