"""What a database transaction has written so far to users and zones, and what comes of it."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Final

import msgspec
from sqlalchemy import Connection
from sqlalchemy.engine import Transaction as DriverTransaction

from channels import events
from channels.changes import Change, Transaction
from channels.names import REVOCATIONS, zone_channel
from db import heads
from db.errors import UncapturedWriteError
from db.net_effect import UserBefore, UserEffect, ZoneEffect, created_zones, events_by_channel
from db.rows import USERS, ZONES, among, select_users, select_zones, user_of, zone_of

OUTLET_OPTION: Final = "zonecast_outlet"
"""The execution option of an engine that says where its committed transactions go."""

_KEY: Final = "zonecast.journal"
_log = logging.getLogger(__name__)

Sink = Callable[[Transaction], None]
AroundTry = Callable[[int], AbstractContextManager[object]]
"""What each try of a transaction, from the first, runs inside of; told its number."""

_NOTHING: Final = nullcontext()


def nothing_around(_number: int) -> AbstractContextManager[object]:
    """Put nothing around a try."""
    return _NOTHING


@dataclass(slots=True)
class Outlet:
    """Where an engine's committed transactions go; nowhere until a sink is attached.

    Attributes:
        sink: Takes them.
        around_try: What tries that `Database` makes run inside of, the call of `sink` included.
    """

    sink: Sink | None = None
    around_try: AroundTry = nothing_around

    def hand_over(self, transaction: Transaction) -> None:
        """Give a committed transaction away. Never raises: what is committed is committed."""
        if self.sink is None:
            return
        try:
            self.sink(transaction)
        except Exception:  # noqa: BLE001 - it would leave a committed row and a dead session
            _log.exception("sink failed", extra={"tx": transaction.tx})


class _UserTouch(msgspec.Struct, frozen=True, gc=False):
    user_id: int
    before: UserBefore | None
    after: events.User | None


@dataclass(frozen=True, slots=True)
class _ZoneTouch:
    zone_id: str
    existed: bool


@dataclass(slots=True)
class Journal:
    """What one database transaction has written, in order; rolled back with its savepoints.

    Attributes:
        driver_transaction: The transaction that it belongs to.
        outlet: Where it goes once committed; `None` on an engine that isn't ours.
        recorded: What was written to the change log just before the commit, if anything.
    """

    driver_transaction: DriverTransaction
    outlet: Outlet | None
    recorded: Transaction | None = None
    _touches: list[_UserTouch | _ZoneTouch | events.Revoked] = field(default_factory=list)
    _marks: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, connection: Connection) -> Journal:
        """Return the journal of the connection's present transaction, beginning one if needed.

        Raises:
            UncapturedWriteError: it is a transaction whose commit can't be seen.
        """
        journal = cls.find(connection)
        if journal is not None:
            return journal
        transaction = connection.get_transaction()
        options = connection.get_execution_options()
        if transaction is None or options.get("isolation_level") == "AUTOCOMMIT":
            raise UncapturedWriteError("a write that commits itself", "use a transaction")
        journal = cls(transaction, options.get(OUTLET_OPTION))
        connection.info[_KEY] = journal
        return journal

    @classmethod
    def find(cls, connection: Connection) -> Journal | None:
        """Return the journal of the connection's present transaction, if it has begun one."""
        if connection.closed or connection.invalidated:
            return None  # What a cancellation cut off is lost with its connection.
        journal: Journal | None = connection.info.get(_KEY)
        if journal is None or journal.driver_transaction is not connection.get_transaction():
            return None
        return journal

    def touch_user(
        self, user_id: int, before: UserBefore | None, after: events.User | None = None
    ) -> None:
        """Note a write to a user.

        Args:
            user_id: The user.
            before: As it was right before this write; `None` when the write made it.
            after: As it is after the write; `None` to have that read just before the commit.
        """
        self._touches.append(_UserTouch(user_id, before, after))

    def touch_zone(self, zone_id: str, *, existed: bool) -> None:
        """Note a write to a zone; `existed`: it was there right before this write."""
        self._touches.append(_ZoneTouch(zone_id, existed))

    def touch_revocation(self, revoked: events.Revoked) -> None:
        """Note that tokens were taken back."""
        self._touches.append(revoked)

    def begin_savepoint(self) -> None:
        """Note that a savepoint begins."""
        self._marks.append(len(self._touches))

    def release_savepoint(self) -> None:
        """Note that the innermost savepoint was released."""
        if self._marks:
            self._marks.pop()

    def roll_back_savepoint(self) -> None:
        """Forget what was written since the innermost savepoint began.

        One that isn't known began before the journal did.
        """
        del self._touches[self._marks.pop() if self._marks else 0 :]

    def record(self, connection: Connection) -> None:
        """Write the net effect to the change log, as the last thing before the commit."""
        touches, self._touches = self._touches, []
        users = _user_effects(connection, [t for t in touches if isinstance(t, _UserTouch)])
        zones = _zone_effects(connection, [t for t in touches if isinstance(t, _ZoneTouch)])
        told = events_by_channel(users, zones)
        revoked = tuple(t for t in touches if isinstance(t, events.Revoked))
        if revoked:
            told[REVOCATIONS] = revoked
        if told:
            created = [zone_channel(zone_id) for zone_id in created_zones(zones)]
            self.recorded = _write(connection, told, created)

    def hand_over(self) -> Transaction | None:
        """Give what was recorded to the outlet, now that it is committed."""
        transaction = self.recorded
        if transaction is None:
            return None
        committed = Transaction(
            transaction.tx, transaction.time_ms, transaction.changes, time.monotonic()
        )
        if self.outlet is not None:
            self.outlet.hand_over(committed)
        return committed


def _user_effects(connection: Connection, touches: list[_UserTouch]) -> list[UserEffect]:
    first: dict[int, _UserTouch] = {}
    last: dict[int, _UserTouch] = {}
    for touch in touches:
        first.setdefault(touch.user_id, touch)
        last[touch.user_id] = touch
    unread = [user_id for user_id, touch in last.items() if touch.after is None]
    present: dict[int, events.User] = {}
    if unread:
        # From the table and not from objects: it knows what the database made of their
        # values, and nothing of what was assigned since the flush. The rows are locked.
        query = select_users().where(among(USERS.c.id, unread, connection.dialect.name))
        present = {user.id: user for user in map(user_of, connection.execute(query))}
    effects = []
    for user_id, touch in last.items():
        after = touch.after or present.get(user_id)
        deleted_at = touch.before.version if touch.before is not None else 0
        effects.append(UserEffect(user_id, first[user_id].before, after, deleted_at))
    return effects


def _zone_effects(connection: Connection, touches: list[_ZoneTouch]) -> list[ZoneEffect]:
    existed: dict[str, bool] = {}
    for touch in touches:
        existed.setdefault(touch.zone_id, touch.existed)
    if not existed:
        return []
    query = select_zones().where(among(ZONES.c.zone_id, list(existed), connection.dialect.name))
    present = {zone.zone_id: zone for zone in map(zone_of, connection.execute(query))}
    return [
        ZoneEffect(zone_id, was_there, present.get(zone_id))
        for zone_id, was_there in existed.items()
    ]


def _write(
    connection: Connection, told: dict[str, tuple[events.Event, ...]], created: list[str]
) -> Transaction:
    """Write what channels are told to the change log."""
    # Encoded once, for the log, the bus and all clients, and before any head is locked.
    encoded = {channel: events.encode_events(happened) for channel, happened in told.items()}
    entry = heads.Entry(secrets.token_hex(8), time.time_ns() // 1_000_000, encoded)
    positions = heads.record(connection, entry, created)
    parts = tuple((channel, positions[channel].rev) for channel in told)
    changes = tuple(
        Change(
            channel,
            positions[channel].epoch,
            positions[channel].rev,
            entry.tx,
            entry.time_ms,
            happened,
            encoded[channel],
            parts if len(parts) > 1 else (),
        )
        for channel, happened in told.items()
    )
    return Transaction(entry.tx, entry.time_ms, changes)
