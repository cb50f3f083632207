"""Batches of moves: users named by either id, in the order given, by a handful of statements."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec
from sqlalchemy import Connection

from channels import events
from db.capture import journal_on
from db.errors import InvalidValueError, NotFoundError
from db.journal import Journal
from db.moves import hold_zones_on, lock_users_on, move_locked
from db.rows import named


class Transfer(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A move of one user, named by either of its ids; `zone_id=None`: into no zone."""

    user_id: int | None = None
    global_id: int | None = None
    zone_id: str | None

    @property
    def key(self) -> tuple[str, int]:
        """The user as `hold_users` names it."""
        if self.user_id is not None:
            return "id", self.user_id
        return "global_id", self.global_id or 0


def move_batch(
    connection: Connection,
    transfers: Sequence[Transfer],
    journal_of: Callable[[Connection], Journal] = journal_on,
) -> list[events.User]:
    """Move users as one; what counts for a user is where it ends.

    Args:
        connection: In the writing transaction.
        transfers: The moves, in order.
        journal_of: Finds the journal in which the moves are noted.

    Returns:
        Each user named, as it is afterwards, once, in the order of first mention.

    Raises:
        NotFoundError: there is no such user or zone; `index` is the row. Nothing was moved.
        InvalidValueError: a row doesn't name its user by exactly one of its ids.
        ConflictError: a row wasn't as it was locked, which only a write past the locks does.
    """
    for row in transfers:
        if (row.user_id is None) == (row.global_id is None):
            raise InvalidValueError("user_id", "give either user_id or global_id")
    targets = {row.zone_id for row in transfers if row.zone_id is not None}
    zones = hold_zones_on(connection, targets) if targets else set()
    ids = [row.user_id for row in transfers if row.user_id is not None]
    global_ids = [row.global_id for row in transfers if row.global_id is not None]
    condition = named(ids, global_ids, connection.dialect.name)
    users = {user.id: user for user in lock_users_on(connection, condition)}
    ends = _ends(transfers, users, zones)
    moves = [
        (user, ends[user_id]) for user_id, user in users.items() if user.zone_id != ends[user_id]
    ]
    if moves:
        users.update((user.id, user) for user in move_locked(connection, moves, journal_of))
    return [users[user_id] for user_id in ends]


def _ends(
    transfers: Sequence[Transfer], users: Mapping[int, events.User], zones: Collection[str]
) -> dict[int, str | None]:
    """Return where each user ends, in the order of first mention."""
    id_of = {user.global_id: user.id for user in users.values()}
    ends: dict[int, str | None] = {}
    for index, row in enumerate(transfers):
        user_id = row.user_id if row.user_id is not None else id_of.get(row.global_id or 0)
        if user_id is None or user_id not in users:
            raise NotFoundError("user", row.key[1], index)
        if row.zone_id is not None and row.zone_id not in zones:
            raise NotFoundError("zone", row.zone_id, index)
        ends[user_id] = row.zone_id
    return ends
