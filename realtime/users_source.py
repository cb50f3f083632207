"""The users dict's source: the database asked in the cache's terms, as neither knows the other."""

from __future__ import annotations

from cache.users_dict import Stamp, UsersDict
from db.changelog import DatabaseChangeLog


class UsersSource:
    """What the cache loads from and is verified against."""

    def __init__(self, change_log: DatabaseChangeLog) -> None:
        self._change_log = change_log

    async def read_users_dict(self) -> tuple[Stamp, UsersDict]:
        """Read all users and the stamp of the state that they are of, in one snapshot.

        Raises:
            UnavailableError: the database doesn't answer in time.
        """
        stamp, users = await self._change_log.read_users_dict()
        by_text = {str(global_id): user for global_id, user in users.items()}
        return Stamp(stamp.identity, stamp.heads, stamp.revs), by_text

    async def read_stamp(self) -> Stamp:
        """Read the stamp that a dict read now would carry.

        Raises:
            UnavailableError: the database doesn't answer in time.
        """
        stamp = await self._change_log.read_stamp()
        return Stamp(stamp.identity, stamp.heads, stamp.revs)
