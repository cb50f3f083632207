"""`zonecast demo`: a building full of people, on a node of its own or on one that runs."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import tempfile
import termios
import tty
import webbrowser
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from db import migrate
from realtime.addresses import check_url
from realtime.app import build_app
from realtime.bearer import TokenFileOption, TokenOption, given_token
from realtime.client import Token
from realtime.demo.building import ASSEMBLY, MAX_PEOPLE, Building
from realtime.demo.day import DAY_MIN, Day, clock_of
from realtime.demo.simulation import Simulation
from realtime.logs import configure_logging
from realtime.server import listening_socket
from realtime.service_api import ServiceApi, ServiceError
from realtime.settings import PREFIX, Settings, load_settings
from realtime.websocket_server import Server, server_config

GIVE_UP_AFTER_S: Final = 15.0
STARTED_POLL_S: Final = 0.02
REPORT_MIN: Final = 60.0
"""How often a line is printed where there is no terminal, by the building's clock."""
SHUTDOWN_S: Final = 3.0


def demo(  # noqa: PLR0913, PLR0917 - options of a command line.
    url: Annotated[
        str | None, typer.Option(help="A running service; else one is started for the demo.")
    ] = None,
    port: Annotated[int, typer.Option(help="Where to start it; 0: any that is free.")] = 0,
    people: Annotated[int, typer.Option(min=1, max=MAX_PEOPLE, help="How many there are.")] = 240,
    floors: Annotated[int, typer.Option(min=1, max=9, help="Above the ground.")] = 3,
    speed: Annotated[
        float, typer.Option(min=1, max=3_600, help="Seconds of the building in a second.")
    ] = 60.0,
    begin: Annotated[str, typer.Option(help="Time of the day at which it begins.")] = "07:45",
    drill: Annotated[
        str | None, typer.Option(help="Time of the day of an evacuation drill; key d: now.")
    ] = "15:00",
    seed: Annotated[int, typer.Option(help="The same seed: the same people and moves.")] = 1,
    open_browser: Annotated[  # noqa: FBT002 - an option of a command line.
        bool, typer.Option("--open", help="Open the dashboard in a browser.")
    ] = False,
    token: TokenOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Show an invented building: morning rush, lunch, an evacuation drill, over and over.

    Without --url a node is started, with its data in a folder that is gone at the end.
    Keys: d rings the bell of a drill, q and Ctrl-C end it.

    Example: zonecast demo --open
    """
    if url is not None:
        check_url(url)
    building = Building(floors, people, seed)
    day = Day(building, seed, _minute(begin, "--begin"))
    show = _Show(
        building,
        day,
        drill_min=None if drill is None else _minute(drill, "--drill"),
        minutes_per_s=speed / 60,
        opens_browser=open_browser,
    )
    if url is not None:
        asyncio.run(show.run(url, given_token(token, token_file)))
    else:
        asyncio.run(_with_own_node(show, port))


def _minute(text: str, option: str) -> float:
    hours, _, minutes = text.partition(":")
    if not (hours.isdigit() and minutes.isdigit() and int(hours) < 24 and int(minutes) < 60):
        raise typer.BadParameter(f"not a time like 08:45: {text}", param_hint=option)
    return int(hours) * 60.0 + int(minutes)


async def _with_own_node(show: _Show, port: int) -> None:
    """Show it on a node in this loop, whose data is gone with it."""
    # A demo must not write into somebody's database or Redis, nor ask for their tokens.
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        del os.environ[name]
    with tempfile.TemporaryDirectory(prefix="zonecast-demo-") as folder:
        settings = load_settings(
            port=port,
            database_url=f"sqlite+aiosqlite:///{Path(folder) / 'demo.db'}",
            log_level="error",
            shutdown_timeout_s=SHUTDOWN_S,
        )
        configure_logging(settings.log_level, settings.log_format)
        await migrate.upgrade(settings.own_database_url)
        app = build_app(settings)
        server = Server(server_config(app, settings), app, settings)
        with _listening(settings) as listener:
            failure = await _serve_and_show(server, listener, show)
            if failure is not None:
                raise failure


async def _serve_and_show(
    server: Server, listener: socket.socket, show: _Show
) -> ServiceError | None:
    """Return what ended the show, if it was a failure, when the node has stopped in peace."""

    async def run(url: str) -> ServiceError | None:
        try:
            await show.run(url, None)
        except ServiceError as error:
            return error
        return None

    async with asyncio.TaskGroup() as tasks:
        # A signal ends it; when it has, the same signal ends us.
        serving = tasks.create_task(server.serve(sockets=[listener]))
        while not server.started and not serving.done():  # noqa: ASYNC110 - no event
            await asyncio.sleep(STARTED_POLL_S)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        showing = tasks.create_task(run(url))
        serving.add_done_callback(lambda _: showing.cancel())
        await asyncio.wait([showing])
        server.should_exit = True
    return None if showing.cancelled() else showing.result()


@contextmanager
def _listening(settings: Settings) -> Iterator[socket.socket]:
    try:
        listener = listening_socket(settings)
    except OSError as error:
        place = f"{settings.host}:{settings.port}"
        raise ServiceError(f"cannot listen on {place}: {error.strerror}") from error
    with listener:
        yield listener


class _Show:
    """The demo as it is seen in the terminal, and its keys.

    Args:
        building: Who and where.
        day: When they go.
        drill_min: The minute of each day at which the bell rings; `None`: only on a key.
        minutes_per_s: How fast time goes.
        opens_browser: Whether to open the dashboard.
    """

    def __init__(
        self,
        building: Building,
        day: Day,
        *,
        drill_min: float | None,
        minutes_per_s: float,
        opens_browser: bool,
    ) -> None:
        self._building = building
        self._day = day
        self._drill_min = drill_min
        self._minutes_per_s = minutes_per_s
        self._opens_browser = opens_browser
        self._console = Console()
        self._reported_min = day.now_min
        self._looked_min = day.now_min
        self._told_drills = 0

    async def run(self, url: str, token: Token | None) -> None:
        """Move people until a key or a signal ends it.

        Raises:
            ServiceError: the service can't be asked, or refuses.
        """
        async with ServiceApi(url, GIVE_UP_AFTER_S, token) as api:
            simulation = Simulation(api, self._building, self._day, self._minutes_per_s)
            await simulation.furnish()
            people, zones = len(self._building.people), len(self._building.zones)
            self._say(f"{people} people in {zones} zones: the dashboard is at {url}/")
            self._say("keys: d evacuation drill, q end" if sys.stdin.isatty() else "Ctrl-C ends it")
            if self._opens_browser:
                await asyncio.to_thread(webbrowser.open, url + "/")
            ended = asyncio.Event()
            try:
                with Live(console=self._console, auto_refresh=False) as live, self._keys(ended):
                    async with asyncio.TaskGroup() as tasks:
                        moving = tasks.create_task(
                            simulation.run(lambda: self._progressed(simulation, live))
                        )
                        await ended.wait()
                        moving.cancel()
            except ExceptionGroup as group:
                raise group.exceptions[0] from None

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def _keys(self, ended: asyncio.Event) -> Iterator[None]:
        if not sys.stdin.isatty():
            yield
            return
        loop = asyncio.get_running_loop()
        keyboard = sys.stdin.fileno()
        before = termios.tcgetattr(keyboard)
        tty.setcbreak(keyboard)
        loop.add_reader(keyboard, self._pressed, keyboard, ended)
        try:
            yield
        finally:
            loop.remove_reader(keyboard)
            termios.tcsetattr(keyboard, termios.TCSADRAIN, before)

    def _pressed(self, keyboard: int, ended: asyncio.Event) -> None:
        keys = os.read(keyboard, 64).lower()
        if b"d" in keys:
            self._day.begin_drill()
        if b"q" in keys or not keys:
            ended.set()

    def _progressed(self, simulation: Simulation, live: Live) -> None:
        now_min = self._day.now_min
        if self._drill_min is not None:
            bell_min = now_min - now_min % DAY_MIN + self._drill_min
            if self._looked_min < bell_min <= now_min:
                self._day.begin_drill()
        self._looked_min = now_min
        if self._console.is_terminal:
            live.update(Text(self._line(simulation)), refresh=True)
        elif now_min - self._reported_min >= REPORT_MIN or self._day.drills != self._told_drills:
            self._reported_min, self._told_drills = now_min, self._day.drills
            self._say(self._line(simulation))

    def _line(self, simulation: Simulation) -> str:
        floors = Counter[str]()
        for zone_id, count in simulation.places.items():
            floors["outside" if zone_id == ASSEMBLY else zone_id[:2]] += count
        where = "  ".join(f"{floor} {floors[floor]}" for floor in sorted(floors))
        clock = clock_of(self._day.now_min)
        return f"{clock}  {self._day.phase:<16}  {where}  {simulation.moves} moves"
