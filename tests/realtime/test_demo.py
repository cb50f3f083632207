"""The demo: its people and days are made up the same each time, and move atomically."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from realtime.client import Changed, Entered, Left, Replaced, UserChanged, watch
from realtime.demo.building import ASSEMBLY, Building
from realtime.demo.day import CLOSES_MIN, DAY_MIN, Day, Move
from tests.realtime.auth.minter import Minter
from tests.realtime.command_line import PROGRAM, environment, zonecast
from tests.realtime.conftest import LiveNode, serving, settings_of_test

MORNING_MIN = 7.5 * 60
INTERRUPTED = 130


def people_at(day: Day, until_min: float, step_min: float = 1.0) -> dict[int, str | None]:
    """Let a day go on; return where people are then."""
    places: dict[int, str | None] = {}
    while day.now_min < until_min:
        places |= {move.person.number: move.zone_id for move in day.advance(day.now_min + step_min)}
    return {number: zone for number, zone in places.items() if zone is not None}


def test_a_building_has_zones_and_people_of_their_own_names() -> None:
    """Some floors, 29 zones, and nobody twice; the same seed makes the same."""
    building = Building(3, 300, seed=5)
    assert len(building.zones) == 29
    assert len({person.name for person in building.people}) == 300
    assert {person.desk for person in building.people} <= building.zones.keys()
    assert Building(3, 300, seed=5).people == building.people
    assert Building(3, 300, seed=6).people != building.people


def test_a_day_has_a_rush_a_lunch_and_an_end_and_the_next_is_alike() -> None:
    """Most are in by ten, many eat at half past twelve, nobody is there at night."""
    building = Building(3, 200, seed=1)
    day = Day(building, 1, MORNING_MIN)
    assert len(people_at(day, 7.6 * 60)) < 40
    assert day.phase == "morning rush"
    places = dict.fromkeys(range(200), "")
    places |= {number: zone or "" for number, zone in people_at(day, 10.5 * 60).items()}
    assert sum(bool(zone) for zone in places.values()) > 180
    lunch: Counter[str | None] = Counter()
    while day.now_min < 12.6 * 60:
        lunch.update(move.zone_id for move in day.advance(day.now_min + 1))
    assert lunch["F0-Cafeteria"] > 30
    assert day.phase == "lunch"
    while day.now_min < DAY_MIN:
        day.advance(day.now_min + 5)
    assert day.now_min > DAY_MIN + MORNING_MIN - 60
    assert len(people_at(day, DAY_MIN + 11 * 60)) > 180
    assert day.now_min < DAY_MIN + CLOSES_MIN


def test_the_same_seed_makes_the_same_day() -> None:
    """To the move."""

    def moves(seed: int) -> list[Move]:
        day = Day(Building(2, 50, seed), seed, MORNING_MIN)
        return [move for _ in range(600) for move in day.advance(day.now_min + 1)]

    assert moves(3) == moves(3)
    assert moves(3) != moves(4)


def test_a_drill_brings_everybody_out_and_back() -> None:
    """By the stairs and the lobby; who is not there is left in peace."""
    day = Day(Building(3, 200, seed=1), 1, MORNING_MIN)
    places: dict[int, str | None] = {}

    def go_on(minutes: int) -> None:
        for _ in range(minutes):
            places.update(
                (move.person.number, move.zone_id) for move in day.advance(day.now_min + 1)
            )

    go_on(195)
    inside = {number for number, zone in places.items() if zone is not None}
    day.begin_drill()
    day.begin_drill()
    assert (day.drills, day.phase) == (1, "evacuation drill")
    go_on(8)
    assert {number for number, zone in places.items() if zone == ASSEMBLY} >= inside
    go_on(45)
    assert ASSEMBLY not in places.values()
    assert day.phase == "morning"


class Demo:
    """A demo that runs as a process.

    Attributes:
        url: Where its node is.
    """

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.process = process
        self.url = url


@pytest.fixture
async def demo() -> AsyncIterator[Demo]:
    """A fast demo of few people."""
    process = await asyncio.create_subprocess_exec(
        *PROGRAM,
        *("demo", "--people", "40", "--speed", "600", "--begin", "08:00", "--drill", "09:30"),
        # What is set for a service of somebody's is none of the demo's business.
        env=environment(database_url="postgresql+asyncpg://nobody@127.0.0.1:1/none"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        headline = (await process.stdout.readline()).decode()
        assert "40 people in 29 zones: the dashboard is at http://127.0.0.1:" in headline
        yield Demo(process, headline.split()[-1].rstrip("/"))
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@pytest.mark.timeout(300)
async def test_people_move_atomically_and_ctrl_c_ends_it_clean(demo: Demo) -> None:
    """Nobody is ever in two zones; a drill comes by itself; no trace, no folder stays."""
    zones_of = Building(3, 40, 1).zones
    async with watch(demo.url, zones_of) as zones:
        moved: Counter[int] = Counter()
        outside = 0
        async for update in zones:
            if isinstance(update, Changed):
                moved.update(
                    event.user.id if isinstance(event, Entered) else event.user_id
                    for part in update.parts
                    for event in part.events
                    if isinstance(event, Entered | Left)
                )
                assert not any(
                    isinstance(event, UserChanged) for part in update.parts for event in part.events
                )
            seen = [user_id for zone in zones.values() for user_id in zone.users]
            assert len(seen) == len(set(seen))
            outside = max(outside, len(zones[ASSEMBLY].users))
            if outside > 20:
                break
            assert not isinstance(update, Replaced) or update.reason == "first"
    assert len(moved) > 30
    demo.process.send_signal(signal.SIGINT)
    _, errors = await demo.process.communicate()
    assert (demo.process.returncode, errors) == (INTERRUPTED, b"")


@pytest.mark.timeout(120)
async def test_a_demo_that_the_service_refuses_ends_with_one_line(demo: Demo) -> None:
    """A zone that everybody goes through is deleted by somebody."""
    async with httpx.AsyncClient(base_url=demo.url) as http:
        deleted = await http.delete("/zones/F0-Lobby", params={"move_to": "F0-Mail"})
        assert deleted.status_code == 204
    _, errors = await demo.process.communicate()
    assert (demo.process.returncode, errors.count(b"\n")) == (1, 1), errors
    assert errors.startswith(b"zonecast: POST /transfers: 404 ")


@pytest.fixture
async def guarded(sqlite_url: str) -> AsyncIterator[LiveNode]:
    """A node that asks for tokens."""
    async with serving(settings_of_test(database_url=sqlite_url, **Minter().settings())) as live:
        yield live


@pytest.mark.timeout(300)
@pytest.mark.parametrize("way", ["variable", "option", "file"])
async def test_it_moves_people_on_a_node_that_asks_for_a_token(
    guarded: LiveNode, tmp_path: Path, way: str
) -> None:
    """The token is the variable's, the option's, or in a file; it is not told."""
    token = Minter().token(zones=["*"], scope="read write")
    file = tmp_path / "token"
    await asyncio.to_thread(file.write_text, token)
    options = {"option": ["--token", token], "file": ["--token-file", str(file)]}.get(way, [])
    process = await asyncio.create_subprocess_exec(
        *PROGRAM,
        *("demo", "--url", guarded.url, "--people", "40", "--speed", "600", *options),
        env=environment(**{"token": token} if way == "variable" else {}),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    try:
        headline = (await process.stdout.readline()).decode()
        assert f"40 people in 29 zones: the dashboard is at {guarded.url}/" in headline
        async with watch(guarded.url, ["F0-Lobby"], token=token) as zones:
            async for update in zones:
                if isinstance(update, Changed):
                    break
        process.send_signal(signal.SIGINT)
        printed, _ = await process.communicate()
        assert process.returncode == INTERRUPTED, printed
        assert token not in printed.decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@pytest.mark.timeout(120)
async def test_a_node_that_asks_for_a_token_gets_one_line_without(guarded: LiveNode) -> None:
    """Which says what is missing."""
    code, _, errors = await asyncio.to_thread(zonecast, "demo", "--url", guarded.url)
    assert (code, errors.count("\n")) == (1, 1), errors
    assert " 401 " in errors


@pytest.mark.timeout(300)
async def test_a_key_ends_it_and_the_terminal_is_as_before() -> None:
    """One line that moves; q leaves with exit code 0."""
    terminal, end = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *PROGRAM,
        *("demo", "--people", "20", "--speed", "600"),
        env=environment() | {"TERM": "xterm", "COLUMNS": "80"},
        stdin=end,
        stdout=end,
        stderr=end,
    )
    os.close(end)
    shown = b""
    while b"moves" not in shown:
        shown += await asyncio.to_thread(os.read, terminal, 65_536)
    await asyncio.to_thread(os.write, terminal, b"d")
    while b"evacuation drill  " not in shown:
        shown += await asyncio.to_thread(os.read, terminal, 65_536)
    await asyncio.to_thread(os.write, terminal, b"q")
    rest = asyncio.to_thread(drain, terminal)
    code, _ = await asyncio.gather(process.wait(), rest)
    assert code == 0
    assert b"Traceback" not in shown


def drain(terminal: int) -> None:
    """Read what is shown until the other end is closed."""
    try:
        while os.read(terminal, 65_536):
            pass
    except OSError:
        os.close(terminal)
