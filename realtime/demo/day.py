"""The day: who goes where and when, by the clock of the building. Pure, and seeded."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field
from typing import Final

from realtime.demo.building import (
    ASSEMBLY,
    CAFETERIA,
    LOBBY,
    VISITS,
    Building,
    Person,
    zone_of,
)

DAY_MIN: Final = 24 * 60.0
OPENS_MIN: Final = 7 * 60.0
"""When the first may come, in minutes of the day; what comes before is passed over."""
CLOSES_MIN: Final = 20 * 60.0
DRILL_MIN: Final = 25.0
"""How long a drill lasts, from the bell until everybody may go back."""


@dataclass(frozen=True, slots=True)
class Move:
    """Somebody goes somewhere; `None`: home."""

    person: Person
    zone_id: str | None


@dataclass(slots=True)
class _Plan:
    """What somebody has in mind for today."""

    comes_min: float
    lunches_min: float
    leaves_min: float
    has_lunched: bool = False
    zone_id: str | None = None
    route: list[tuple[str | None, float]] = field(default_factory=list)
    serial: int = 0


class Day:
    """The people of a building through its days.

    Args:
        building: Who and where.
        seed: The same seed and the same questions give the same moves.
        began_min: The minute of the first day at which it begins.

    Attributes:
        now_min: Up to when it went, in minutes from the first midnight on.
        drills: How many drills there were.
    """

    def __init__(self, building: Building, seed: int, began_min: float) -> None:
        self._building = building
        self._chance = random.Random(seed)  # noqa: S311 - nothing secret, and it has to repeat.
        self._plans: dict[int, _Plan] = {}
        self._due: list[tuple[float, int, int]] = []
        self._drill_ends_min = 0.0
        self.now_min = began_min
        self.drills = 0
        self._plan_day(began_min - began_min % DAY_MIN)

    def _plan_day(self, midnight_min: float) -> None:
        chance = self._chance
        for person in self._building.people:
            before = self._plans.get(person.number)
            plan = _Plan(
                midnight_min + _between(chance.gauss(8.6 * 60, 35), OPENS_MIN, 11 * 60),
                midnight_min + _between(chance.gauss(12.25 * 60, 22), 11.5 * 60, 13.5 * 60),
                midnight_min + _between(chance.gauss(17.5 * 60, 45), 15 * 60, CLOSES_MIN - 10),
            )
            if before is not None:
                plan.zone_id, plan.serial = before.zone_id, before.serial
            self._plans[person.number] = plan
            self._schedule(person.number, max(plan.comes_min, self.now_min))

    def _schedule(self, number: int, at_min: float) -> None:
        """Have somebody do the next thing then, whatever was planned before."""
        plan = self._plans[number]
        plan.serial += 1
        heapq.heappush(self._due, (at_min, number, plan.serial))

    @property
    def phase(self) -> str:
        """What time of the day it is, in words."""
        if self.is_drill:
            return "evacuation drill"
        hour = self.now_min % DAY_MIN / 60
        phases = ((10, "morning rush"), (11.7, "morning"), (13.6, "lunch"), (16.5, "afternoon"))
        return next((name for until, name in phases if hour < until), "going home")

    @property
    def is_drill(self) -> bool:
        """Whether the bell has rung and nobody may go back yet."""
        return self.now_min < self._drill_ends_min

    def begin_drill(self) -> None:
        """Ring the bell: everybody in the building leaves it by the stairs and the lobby."""
        if self.is_drill:
            return
        self.drills += 1
        self._drill_ends_min = self.now_min + DRILL_MIN
        for person in self._building.people:
            plan = self._plans[person.number]
            if plan.zone_id is None:
                continue
            back_min = DRILL_MIN + self._chance.uniform(0, 8)
            floor = _floor_of(plan.zone_id)
            stairs: list[tuple[str | None, float]] = (
                [(zone_of(floor, "Stairs"), self._chance.uniform(0.5, 1.5))] if floor else []
            )
            plan.route = [*stairs, (LOBBY, self._chance.uniform(0.3, 1.0)), (ASSEMBLY, back_min)]
            self._schedule(person.number, self.now_min + self._chance.uniform(0.2, 3.0))

    def advance(self, to_min: float) -> list[Move]:
        """Go on to a time; return who went where since, each only to where they ended."""
        ended: dict[int, str | None] = {}
        while self._due and self._due[0][0] <= to_min:
            at_min, number, serial = heapq.heappop(self._due)
            if serial == self._plans[number].serial:
                self.now_min = at_min
                ended[number] = self._step(self._building.people[number], at_min)
        self.now_min = to_min
        if to_min % DAY_MIN >= CLOSES_MIN and not self._due:
            # The night is passed over.
            midnight_min = to_min - to_min % DAY_MIN + DAY_MIN
            self.now_min = midnight_min + OPENS_MIN
            self._plan_day(midnight_min)
        return [Move(self._building.people[number], zone) for number, zone in ended.items()]

    def _step(self, person: Person, at_min: float) -> str | None:
        plan = self._plans[person.number]
        if not plan.route:
            plan.route = self._next_route(person, plan, at_min)
        zone_id, stay_min = plan.route.pop(0)
        plan.zone_id = zone_id
        if zone_id is not None:
            until_min = at_min + stay_min
            if not plan.route and until_min > plan.leaves_min > at_min:
                until_min = plan.leaves_min
            self._schedule(person.number, until_min)
        return zone_id

    def _next_route(
        self, person: Person, plan: _Plan, at_min: float
    ) -> list[tuple[str | None, float]]:
        chance = self._chance
        stairs = (zone_of(person.floor, "Stairs"), chance.uniform(0.7, 2.0))
        lobby = (LOBBY, chance.uniform(0.7, 2.5))
        desk = (person.desk, chance.expovariate(1 / 40) + 5)
        if plan.zone_id is None or plan.zone_id == ASSEMBLY:
            return [lobby, stairs, desk]
        if at_min >= plan.leaves_min:
            return [stairs, lobby, (None, 0)]
        if at_min >= plan.lunches_min and not plan.has_lunched:
            plan.has_lunched = True
            return [stairs, (CAFETERIA, chance.gauss(32, 6)), stairs, desk]
        floor = person.floor if chance.random() < 0.8 else chance.choice(self._building.floors)
        place = chance.choice(VISITS)
        stay_min = chance.uniform(25, 55) if place.startswith("Room") else chance.uniform(3, 12)
        visit = [(zone_of(floor, place), stay_min)]
        return [*visit, desk] if floor == person.floor else [stairs, *visit, stairs, desk]


def _floor_of(zone_id: str) -> int:
    return int(zone_id[1])


def _between(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def clock_of(minute: float) -> str:
    """Write a minute as the clock shows it, `08:45`."""
    whole = int(minute % DAY_MIN)
    return f"{whole // 60:02}:{whole % 60:02}"
