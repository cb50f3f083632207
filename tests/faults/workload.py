"""The workload: writers that make, move, change and delete users and zones at random."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import httpx

from channels.positions import Position
from tests.faults.gate import Target
from tests.faults.history import Read, Recorder, Write

HOT = "hot"
MAX_USERS = 240
REQUEST_TIMEOUT_S = 4.0
READ_SHARE = 0.3

ACTIONS = {
    "transfer": 34,
    "batch": 10,
    "update": 16,
    "create": 10,
    "bulk": 3,
    "delete_user": 7,
    "update_zone": 4,
    "create_zone": 4,
    "delete_zone": 3,
}
"""What a writer does, and how often of 91 times."""

Request = tuple[str, str, Any]
"""Method, path and body."""


@dataclass
class Population:
    """Which users and zones there probably are: writers race, and answers get lost."""

    users: list[int] = field(default_factory=list)
    zones: list[str] = field(default_factory=lambda: [HOT])
    next_global_id: int = 1


class Workload:
    """Writers, and reads of what they wrote through other nodes.

    Args:
        recorder: Where writes and reads are noted.
        write_to: Chooses a node for each write; `None` when none is up.
        read_from: The same for each read.
        random: All choices.
        zone_names: The zones besides the hot one, which come and go.
        pause_s: The mean pause of a writer between two writes.
    """

    def __init__(
        self,
        recorder: Recorder,
        write_to: Callable[[], Target | None],
        read_from: Callable[[], Target | None],
        random: Random,
        zone_names: list[str],
        pause_s: float,
    ) -> None:
        self.population = Population()
        self.operations = 0
        self._recorder = recorder
        self._write_to = write_to
        self._read_from = read_from
        self._random = random
        self._zone_names = zone_names
        self._pause_s = pause_s

    def take_over(self, users: list[int], zones: list[str], next_global_id: int) -> None:
        """Begin with what is there already."""
        self.population = Population(users, zones, next_global_id)

    async def set_up(self, users: int) -> None:
        """Make the zones that are missing, and users in the hot one."""
        async with self._client() as client:
            for zone_id in [HOT, *self._zone_names]:
                await self._write(client, "create_zone", "POST", "/zones", _zone(zone_id))
            rows = [self._new_user(HOT) for _ in range(users)]
            if rows:
                await self._write(client, "bulk", "POST", "/users/bulk", {"users": rows})
        self.population.zones = [HOT, *self._zone_names]

    async def run(self, writers: int) -> None:
        """Write until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(writers):
                tasks.create_task(self._run_writer())

    async def _run_writer(self) -> None:
        names, weights = list(ACTIONS), list(ACTIONS.values())
        async with self._client() as client:
            while True:
                await asyncio.sleep(self._random.expovariate(1 / self._pause_s))
                (name,) = self._random.choices(names, weights)
                if len(self.population.users) > MAX_USERS and name in {"create", "bulk"}:
                    name = "delete_user"
                request = self._request(name)
                if request is None:
                    continue
                positions = await self._write(client, name, *request)
                if positions and self._random.random() < READ_SHARE:
                    await self._read_back(client, positions)

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(timeout=REQUEST_TIMEOUT_S, trust_env=False, verify=False)  # noqa: S501 - loopback

    # What is written

    def _zone_id(self) -> str | None:
        """Choose a zone, often the hot one, sometimes none."""
        chance = self._random.random()
        if chance < 0.4:
            return HOT
        return None if chance > 0.93 else self._random.choice(self.population.zones)

    def _attributes(self) -> dict[str, Any]:
        size = 1500 if self._random.random() < 0.15 else 20
        return {"note": "x" * size, "n": self._random.randrange(1000)}

    def _new_user(self, zone_id: str | None) -> dict[str, Any]:
        number, self.population.next_global_id = (
            self.population.next_global_id,
            self.population.next_global_id + 1,
        )
        user = {"global_id": number, "name": f"user {number}", "zone_id": zone_id}
        return {**user, "attributes": self._attributes()}

    def _request(self, name: str) -> Request | None:
        if name in {"create_zone", "update_zone", "delete_zone"}:
            return self._zone_request(name)
        if name == "create":
            return "POST", "/users", self._new_user(self._zone_id())
        if name == "bulk":
            rows = [self._new_user(self._zone_id()) for _ in range(self._random.randint(2, 25))]
            return "POST", "/users/bulk", {"users": rows}
        return self._user_request(name) if self.population.users else None

    def _user_request(self, name: str) -> Request:
        user_id = self._random.choice(self.population.users)
        if name == "transfer":
            return "POST", f"/users/{user_id}/transfer", {"zone_id": self._zone_id()}
        if name == "batch":
            ids = self._random.choices(
                self.population.users, k=self._random.choice([2, 5, 30, 120])
            )
            moves = [{"user_id": one, "zone_id": self._zone_id()} for one in ids]
            return "POST", "/transfers", {"transfers": moves}
        if name == "delete_user":
            self.population.users.remove(user_id)
            return "DELETE", f"/users/{user_id}", None
        return "PATCH", f"/users/{user_id}", {"attributes": self._attributes()}

    def _zone_request(self, name: str) -> Request | None:
        others = [zone_id for zone_id in self.population.zones if zone_id != HOT]
        if name == "create_zone":
            missing = sorted(set(self._zone_names) - set(self.population.zones))
            if not missing:
                return None
            zone_id = self._random.choice(missing)
            self.population.zones.append(zone_id)
            return "POST", "/zones", _zone(zone_id)
        if name == "update_zone":
            zone_id = self._random.choice(self.population.zones)
            return "PATCH", f"/zones/{zone_id}", {"name": f"renamed {self._random.randrange(99)}"}
        if len(others) < 2:
            return None
        zone_id = self._random.choice(others)
        self.population.zones.remove(zone_id)
        query = self._random.choice(["unassign=true", f"move_to={HOT}"])
        return "DELETE", f"/zones/{zone_id}?{query}", None

    # How it is sent

    async def _write(
        self, client: httpx.AsyncClient, action: str, method: str, path: str, body: Any
    ) -> dict[str, Position]:
        node = self._write_to()
        if node is None:
            return {}
        began_s = self._recorder.now_s()
        status, positions = 0, {}
        try:
            url = f"http://127.0.0.1:{node.port}{path}"
            answer = await client.request(method, url, json=body)
        except httpx.HTTPError:
            pass  # Whether it was done is not known to the writer; the log tells.
        else:
            status = answer.status_code
            positions = _positions(answer.headers.get("Zonecast-Positions", ""))
            if status == 201 and "users" in answer.headers.get("Location", path):
                made = answer.json()
                self.population.users += [user["id"] for user in made.get("users", [made])]
        ended_s = self._recorder.now_s()
        note = Write(began_s, ended_s, node.name, f"{action} {path}", status, positions)
        self._recorder.history.writes.append(note)
        self.operations += 1
        return positions

    async def _read_back(self, client: httpx.AsyncClient, positions: dict[str, Position]) -> None:
        channels = [channel for channel in positions if channel.startswith("zone:")]
        node = self._read_from()
        if node is None or not channels:
            return
        channel = self._random.choice(channels)
        minimum = positions[channel]
        path = f"/zones/{channel.removeprefix('zone:')}/snapshot?min={minimum}"
        try:
            answer = await client.get(f"http://127.0.0.1:{node.port}{path}")
        except httpx.HTTPError:
            return
        body = answer.content if answer.status_code == 200 else b""
        at_s = self._recorder.now_s()
        note = Read(at_s, node.name, channel, minimum, answer.status_code, body)
        self._recorder.history.reads.append(note)


def _zone(zone_id: str) -> dict[str, Any]:
    return {"zone_id": zone_id, "name": f"zone {zone_id}"}


def _positions(header: str) -> dict[str, Position]:
    items = [item.strip().split("=") for item in header.split(",") if item]
    return {channel: Position.parse(text) for channel, text in items}
