"""The roster: which user of the service stands for which badge of a trace.

A badge's user carries it as attribute `badge`, and as name. A user found by that attribute is
used again, so a second replay moves the same people. New badges are numbered in the order in
which they first appear, from one above the highest `global_id` there is: the same file into the
same database always gives the same numbers, and no two badges ever share one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from realtime.service_api import PAGE_ROWS, ServiceApi, ServiceError

MAX_GLOBAL_ID: Final = 2**53 - 1
MAX_BADGES: Final = 1_000_000
_MAX_TRIES: Final = 5


class Roster:
    """Users by badge.

    Attributes:
        user_ids: The id of each badge's user.
        zone_ids: Where each badge's user is, as far as this replay knows.
    """

    def __init__(self, api: ServiceApi) -> None:
        self._api = api
        self._highest_global_id = 0
        self.user_ids: dict[str, int] = {}
        self.zone_ids: dict[str, str | None] = {}

    async def load(self) -> None:
        """Find the users that have a badge; whoever is there already keeps the number."""
        skip = 0
        while True:
            page = await self._api.list_users(skip)
            self._take(page)
            if len(page) < PAGE_ROWS:
                return
            skip += len(page)

    def _take(self, users: Iterable[dict[str, Any]]) -> None:
        for user in users:
            self._highest_global_id = max(self._highest_global_id, user["global_id"])
            badge = user["attributes"].get("badge")
            # By id: of two users with the same badge the older one stands for it.
            if isinstance(badge, str) and badge not in self.user_ids:
                self.user_ids[badge] = user["id"]
                self.zone_ids[badge] = user["zone_id"]

    async def enrol(self, badges: Iterable[str]) -> None:
        """Make users for badges that have none, in the order given.

        Repeatable: when an answer was lost, or somebody took a number, the users are read
        again and only the rest is made.

        Raises:
            ServiceError: the service refuses, or there are too many badges.
        """
        wanted = list(dict.fromkeys(badges))
        for _ in range(_MAX_TRIES):
            missing = [badge for badge in wanted if badge not in self.user_ids][:PAGE_ROWS]
            if not missing:
                return
            if len(self.user_ids) + len(missing) > MAX_BADGES:
                raise ServiceError(f"more than {MAX_BADGES} badges")
            first = self._highest_global_id + 1
            if first + len(missing) > MAX_GLOBAL_ID:
                raise ServiceError("no global ids are left above the highest one")
            numbered = {badge: first + index for index, badge in enumerate(missing)}
            made = await self._api.make_users(numbered)
            if made is None:
                await self.load()
            else:
                self._take(made)
        raise ServiceError("users could not be made: others keep taking their global ids")
