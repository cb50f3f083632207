"""The simulation: a day of the building, made in a running service as fast as is wanted."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

from realtime.demo.building import Building
from realtime.demo.day import Day, Move
from realtime.service_api import ProblemAnswerError, ServiceApi

TICK_S: Final = 0.2
"""How often people are moved; all who go somewhere in between go in one transaction."""
FIRST_GLOBAL_ID: Final = 7_000_001
BATCH_MAX_ROWS: Final = 1_000


class Simulation:
    """Moves the people of a building.

    Args:
        api: The service.
        building: Who and where.
        day: When they go.
        minutes_per_s: How many minutes of the building's clock go by in a second.

    Attributes:
        day: The building's day.
        moves: How many moves were made.
        transactions: How many transactions that took.
        places: How many people are in each zone.
    """

    def __init__(self, api: ServiceApi, building: Building, day: Day, minutes_per_s: float) -> None:
        self._api = api
        self._building = building
        self._minutes_per_s = minutes_per_s
        self._user_ids: list[int] = []
        self._zone_ids: dict[int, str | None] = {}
        self.day = day
        self.moves = 0
        self.transactions = 0

    @property
    def places(self) -> Counter[str]:
        """How many people are in each zone."""
        return Counter(zone_id for zone_id in self._zone_ids.values() if zone_id is not None)

    async def furnish(self) -> None:
        """Make the zones and people; those that are there are taken as they are.

        Raises:
            ServiceError: the service can't be asked, or refuses.
        """
        for zone_id, name in self._building.zones.items():
            await self._api.make_zone(zone_id, name)
        rows = [
            {"global_id": FIRST_GLOBAL_ID + person.number, "name": person.name, "zone_id": None}
            for person in self._building.people
        ]
        for begin in range(0, len(rows), BATCH_MAX_ROWS):
            self._user_ids += await self._enrol(rows[begin : begin + BATCH_MAX_ROWS])

    async def _enrol(self, rows: Sequence[dict[str, Any]]) -> list[int]:
        try:
            made = await self._api.call("POST", "/users/bulk", {"users": rows})
            return [user["id"] for user in made.json()["users"]]
        except ProblemAnswerError as problem:
            if problem.kind != "duplicate":
                raise
        user_ids: list[int] = []
        for row in rows:
            found = await self._api.call("GET", f"/users?global_id={row['global_id']}")
            users = found.json()["users"]
            if not users:
                users = [(await self._api.call("POST", "/users", row)).json()]
            user_ids.append(users[0]["id"])
        return user_ids

    async def run(self, progressed: Callable[[], None]) -> None:
        """Move people until cancelled.

        Args:
            progressed: Called after each tick.

        Raises:
            ServiceError: the service can't be asked any more.
        """
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        while True:
            await self.send(self.day.advance(self.day.now_min + TICK_S * self._minutes_per_s))
            progressed()
            # The building's clock stands while the service doesn't keep up.
            due_s = max(due_s + TICK_S, loop.time())
            await asyncio.sleep(due_s - loop.time())

    async def send(self, moves: Sequence[Move]) -> None:
        """Make moves, up to 1,000 in one transaction."""
        rows = [
            {"user_id": self._user_ids[move.person.number], "zone_id": move.zone_id}
            for move in moves
            if self._zone_ids.get(move.person.number) != move.zone_id
        ]
        for begin in range(0, len(rows), BATCH_MAX_ROWS):
            batch = rows[begin : begin + BATCH_MAX_ROWS]
            await self._api.call("POST", "/transfers", {"transfers": batch})
            self.transactions += 1
        self.moves += len(rows)
        self._zone_ids |= {move.person.number: move.zone_id for move in moves}
