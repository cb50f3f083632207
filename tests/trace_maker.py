"""Makes up traces of people moving through a building; the same seed gives the same trace.

`python -m tests.trace_maker small > docs/small_trace.csv` makes the one of the README, a few
dozen badges on one morning; `full` makes one of the size and shape of a real building's two
weeks: 122 badges, 20 zones on three floors, about 30,000 readings, with repeated ones.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

HEADER = "time,badge,zone_id"
ENTRANCE = "F1-Z1"
FIRST_NAMES = (
    *("ada", "alan", "barbara", "claude", "dennis", "donald", "edith", "evelyn", "frances"),
    *("grace", "hedy", "joan", "karen", "katherine", "margaret", "radia", "sophie", "vint"),
)


@dataclass(frozen=True)
class Building:
    """What a trace is about.

    Attributes:
        badges: How many people.
        rooms_by_floor: How many zones each floor has; zone 1 of a floor is where stairs end.
        first_day: When it begins.
        days: How many days; nobody comes at weekends.
        hours: When people are there, on average.
        dwell_s: How long they stay in a zone, on average.
    """

    badges: int
    rooms_by_floor: tuple[int, ...]
    first_day: datetime
    days: int
    hours: tuple[float, float]
    dwell_s: float


SMALL = Building(36, (4, 4), datetime(2026, 3, 2, tzinfo=UTC), 1, (8.0, 11.5), 900)
FULL = Building(122, (8, 7, 5), datetime(2026, 3, 3, tzinfo=UTC), 14, (8.0, 17.5), 2_120)


def make_trace(building: Building, seed: int = 1) -> list[str]:
    """Return the lines of a trace, the header first, in the order of time."""
    chance = random.Random(seed)  # noqa: S311 - nothing secret, and it has to repeat.
    readings: list[tuple[datetime, str, str]] = []
    for number in range(building.badges):
        badge = f"{FIRST_NAMES[number % len(FIRST_NAMES)]}{number // len(FIRST_NAMES) + 1:03}"
        home = chance.randrange(len(building.rooms_by_floor))
        for day in range(building.days):
            date = building.first_day + timedelta(days=day)
            if date.weekday() < 5:
                visit = _day(building, chance, date, home)
                readings += [(moment, badge, zone) for moment, zone in visit]
    readings.sort()
    lines = [f"{moment:%Y-%m-%d %H:%M:%S},{badge},{zone}" for moment, badge, zone in readings]
    return [HEADER, *lines]


def _day(
    building: Building, chance: random.Random, date: datetime, home: int
) -> Iterator[tuple[datetime, str]]:
    """Walk one person through a day: in by the entrance, about, and out again."""
    moment = date + timedelta(hours=building.hours[0] + chance.gauss(0, 0.5))
    until = date + timedelta(hours=building.hours[1] + chance.gauss(0, 0.5))
    floor, zone = 0, ENTRANCE
    while moment < until:
        yield moment, zone
        if chance.random() < 0.04:
            # Readers read twice, or somebody turns round in the door.
            yield moment + timedelta(seconds=chance.randrange(30)), zone
        wanted = home if chance.random() < 0.8 else chance.randrange(len(building.rooms_by_floor))
        climbs = floor != wanted
        # On the stairs nobody dwells.
        dwell_s = building.dwell_s / (20 if climbs else 1)
        moment += timedelta(seconds=5 + chance.expovariate(1 / dwell_s))
        if climbs:
            floor += 1 if floor < wanted else -1
            zone = f"F{floor + 1}-Z1"
        else:
            zone = f"F{floor + 1}-Z{chance.randint(1, building.rooms_by_floor[floor])}"
    yield moment, ENTRANCE


def main(arguments: list[str]) -> int:
    """Write the trace that is named to standard output."""
    buildings = {"small": SMALL, "full": FULL}
    if len(arguments) != 1 or arguments[0] not in buildings:
        sys.stderr.write("usage: python -m tests.trace_maker small|full\n")
        return 2
    sys.stdout.write("\n".join(make_trace(buildings[arguments[0]])) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
