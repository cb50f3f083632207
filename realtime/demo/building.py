"""The building: floors, zones, and people who work there, all of them invented."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

LOBBY: Final = "F0-Lobby"
CAFETERIA: Final = "F0-Cafeteria"
ASSEMBLY: Final = "F0-Assembly"

GROUND_FLOOR: Final = {
    LOBBY: "Lobby",
    "F0-Reception": "Reception",
    CAFETERIA: "Cafeteria",
    "F0-Mail": "Mail room",
    ASSEMBLY: "Assembly point, car park",
}
UPPER_FLOOR: Final = {
    "Stairs": "Stairs",
    "Kitchen": "Kitchen",
    "North": "Open space north",
    "South": "Open space south",
    "Studio": "Studio",
    "Room1": "Meeting room 1",
    "Room2": "Meeting room 2",
    "Quiet": "Quiet room",
}
DESKS: Final = ("North", "South", "Studio")
VISITS: Final = ("Kitchen", "Room1", "Room2", "Quiet", "Stairs")

FIRST_NAMES: Final = (
    *("Ada", "Alma", "Amir", "Anke", "Bela", "Bilal", "Carla", "Chidi", "Dana", "Dmitri", "Edda"),
    *("Emeka", "Enno", "Farah", "Finn", "Gita", "Goran", "Hana", "Hugo", "Ines", "Ivar", "Jana"),
    *("Jonas", "Kaya", "Kenji", "Lale", "Leo", "Lin", "Mara", "Mika", "Nadia", "Nils", "Olga"),
    *("Omar", "Paula", "Pepe", "Quinn", "Rosa", "Ravi", "Selma", "Sven", "Tala", "Tomas", "Uma"),
    *("Vera", "Viktor", "Wanda", "Xenia", "Yara", "Yusuf", "Zoe"),
)
LAST_NAMES: Final = (
    *("Abel", "Adeyemi", "Alvarez", "Bauer", "Becker", "Bianchi", "Castro", "Cohen", "Demir"),
    *("Diaz", "Eriksen", "Fischer", "Fontaine", "Gruber", "Haddad", "Hansen", "Horvat", "Ito"),
    *("Jansen", "Kaya", "Keller", "Kim", "Kovacs", "Larsen", "Lindqvist", "Marino", "Meyer"),
    *("Mwangi", "Nakamura", "Novak", "Okafor", "Olsen", "Park", "Patel", "Petrov", "Ramos"),
    *("Rossi", "Sato", "Schmidt", "Silva", "Singh", "Sousa", "Tanaka", "Torres", "Vogel"),
    *("Weber", "Winter", "Yilmaz", "Zhou", "Ziegler"),
)


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who works in the building.

    Attributes:
        number: From 0.
        name: Invented, and nobody else's here.
        floor: Where the desk is, 1 or more.
        desk: The zone of the desk.
    """

    number: int
    name: str
    floor: int
    desk: str


class Building:
    """The zones, and the people; the same seed makes the same.

    Args:
        upper_floors: How many floors there are above the ground, 1 to 9.
        people: How many people, 1 to `MAX_PEOPLE`.
        seed: Of names and desks.

    Attributes:
        zones: The name of each zone by its id.
        people: Who works there.
    """

    def __init__(self, upper_floors: int, people: int, seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311 - nothing secret, and it has to repeat.
        self.floors = range(1, upper_floors + 1)
        self.zones = dict(GROUND_FLOOR)
        for floor in self.floors:
            for place, name in UPPER_FLOOR.items():
                self.zones[zone_of(floor, place)] = f"{name}, floor {floor}"
        names = [f"{first} {last}" for first in FIRST_NAMES for last in LAST_NAMES]
        self.people = [
            self._person(number, name, chance)
            for number, name in enumerate(chance.sample(names, people))
        ]

    def _person(self, number: int, name: str, chance: random.Random) -> Person:
        floor = chance.choice(self.floors)
        return Person(number, name, floor, zone_of(floor, chance.choice(DESKS)))


MAX_PEOPLE: Final = len(FIRST_NAMES) * len(LAST_NAMES)


def zone_of(floor: int, place: str) -> str:
    """Name a zone of an upper floor."""
    return f"F{floor}-{place}"
