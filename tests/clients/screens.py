"""Screens: clients of several makes, each of which materialises the zones that it watches."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx
from centrifuge import (  # type: ignore[import-untyped]  # it ships no types
    Client,
    PublicationContext,
    SubscribedContext,
    SubscriptionEventHandler,
)

from realtime.client import Watch, watch
from tests.realtime.event_source import StreamEndedError, event_source

Json = dict[str, Any]
POLL_S = 0.02


@dataclass
class Picture:
    """A zone as a screen has it: its users' versions by id, and what went wrong on the way."""

    epoch: str = ""
    rev: int = -1
    users: dict[int, int] = field(default_factory=dict)
    gaps: int = 0
    repeated: int = 0

    def take_snapshot(self, data: Json) -> None:
        """Begin anew."""
        self.epoch, self.rev = data["epoch"], data["rev"]
        self.users = {user["id"]: user["version"] for user in data["users"]}

    def take_change(self, rev: int, events: Sequence[Json]) -> None:
        """Apply a change, and count it when it is not the next one."""
        if rev <= self.rev:
            self.repeated += 1
            return
        self.gaps += rev != self.rev + 1
        self.rev = rev
        for event in events:
            if event["type"] == "left":
                self.users.pop(event["user_id"], None)
            elif event["type"] in {"entered", "changed"}:
                self.users[event["user"]["id"]] = event["user"]["version"]


class Screen(Protocol):
    """A client that watches."""

    @property
    def recoveries(self) -> Sequence[bool]:
        """For each subscription that was resumed, whether it was recovered."""

    async def pictures(self) -> dict[str, Picture]:
        """Return the zones as they are on the screen now."""


MakeScreen = Callable[[int, Sequence[str]], AbstractAsyncContextManager[Screen]]
"""Makes a screen of the node at a port, watching zones."""


async def until_at(screen: Screen, revs: dict[str, int]) -> dict[str, Picture]:
    """Wait, bounded by the test, until a screen's zones are at these revisions or beyond."""
    while True:
        pictures = await screen.pictures()
        if all(zone in pictures and pictures[zone].rev >= rev for zone, rev in revs.items()):
            return pictures
        await asyncio.sleep(POLL_S)


class PythonScreen:
    """The official Python SDK.

    Args:
        parsed: Makes JSON of the data that it hands on.
    """

    def __init__(self, parsed: Callable[[Any], Json]) -> None:
        self.parsed = parsed
        self.zones: dict[str, Picture] = {}
        self.recoveries: list[bool] = []

    async def pictures(self) -> dict[str, Picture]:
        """Return the zones."""
        return self.zones


class _Subscription(SubscriptionEventHandler):  # type: ignore[misc]  # untyped
    def __init__(self, screen: PythonScreen, zone: str) -> None:
        self._screen = screen
        self._picture = screen.zones[zone] = Picture()

    async def on_subscribed(self, ctx: SubscribedContext) -> None:
        if ctx.was_recovering:
            self._screen.recoveries.append(ctx.recovered)
        if not ctx.recovered:
            assert ctx.data is not None
            self._picture.take_snapshot(self._screen.parsed(ctx.data))

    async def on_publication(self, ctx: PublicationContext) -> None:
        events = self._screen.parsed(ctx.pub.data)["events"]
        self._picture.take_change(int(ctx.pub.offset), events)


@asynccontextmanager
async def python_sdk(
    port: int, zones: Sequence[str], *, use_protobuf: bool = False
) -> AsyncIterator[Screen]:
    """Watch with the Python SDK."""
    screen = PythonScreen(json.loads if use_protobuf else lambda data: data)
    client = Client(
        f"ws://127.0.0.1:{port}/connection/websocket",
        min_reconnect_delay=0.02,
        max_reconnect_delay=0.2,
        proxy=None,
        use_protobuf=use_protobuf,
    )
    await client.connect()
    for zone in zones:
        subscription = client.new_subscription(f"zone:{zone}", _Subscription(screen, zone))
        await subscription.subscribe()
    try:
        yield screen
    finally:
        await client.disconnect()


class JavaScriptScreen:
    """A client in JavaScript, in a Node process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._reports: asyncio.Queue[Json] = asyncio.Queue()
        self._heard = asyncio.Event()
        self.events: list[Json] = []
        self.recoveries: list[bool] = []

    def say(self, command: Json) -> None:
        """Send a command."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")

    async def listen(self) -> None:
        """Take what the process says until it ends."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            message = json.loads(line)
            if message["event"] == "report":
                self._reports.put_nowait(message)
                continue
            self.events.append(message)
            self._heard.set()
            if message["event"] == "subscribed" and message["wasRecovering"]:
                self.recoveries.append(message["recovered"])

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    async def until(self, condition: Callable[[list[Json]], object], start: int = 0) -> list[Json]:
        """Wait, bounded by the test, until it said what fulfils a condition; return all it said.

        Args:
            condition: What is asked of all events from `start` on.
            start: How many of the first events don't count.
        """
        while not condition(self.events[start:]):
            self._heard.clear()
            await self._heard.wait()
        return self.events[start:]

    async def report(self) -> Json:
        """Ask for all it can tell."""
        self.say({"do": "report"})
        return await self._reports.get()

    async def pictures(self) -> dict[str, Picture]:
        """Ask for the zones."""
        report = await self.report()
        return {
            zone: Picture(
                picture["epoch"],
                picture["rev"],
                {int(user_id): version for user_id, version in picture["users"].items()},
                picture["gaps"],
                picture["repeated"],
            )
            for zone, picture in report["zones"].items()
        }


@asynccontextmanager
async def running_program(node: Path, program: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run one of the clients in JavaScript, which ends when there is no more to be told to it."""
    process = await asyncio.create_subprocess_exec(
        node,
        program,
        cwd=Path(__file__).parent,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "NO_COLOR": "1"},
        limit=2**24,
    )
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


@asynccontextmanager
async def javascript(node: Path, program: str) -> AsyncIterator[JavaScriptScreen]:
    """Run one of the clients in JavaScript that are screens."""
    async with asyncio.TaskGroup() as tasks, running_program(node, program) as process:
        screen = JavaScriptScreen(process)
        tasks.create_task(screen.listen())
        yield screen


def javascript_sdk(node: Path, scheme: str = "ws", encoding: str = "json") -> MakeScreen:
    """Make what watches with the JavaScript SDK, run by this Node."""

    @asynccontextmanager
    async def watch(port: int, zones: Sequence[str]) -> AsyncIterator[Screen]:
        async with javascript(node, "sdk_screen.mjs") as screen:
            url = f"{scheme}://127.0.0.1:{port}/connection/websocket"
            about = {"url": url, "zones": list(zones), "encoding": encoding}
            screen.say({"do": "watch", **about})
            yield screen

    return watch


def served_module(node: Path, **options: object) -> MakeScreen:
    """Make what watches with the module that nodes serve (`zonecast.js`), run by this Node."""

    @asynccontextmanager
    async def watch(port: int, zones: Sequence[str]) -> AsyncIterator[Screen]:
        async with javascript(node, "zonecast_screen.mjs") as screen:
            url = f"http://127.0.0.1:{port}"
            screen.say({"do": "watch", "url": url, "zones": list(zones), **options})
            yield screen

    return watch


class OwnScreen:
    """Our own client."""

    def __init__(self, zones: Watch) -> None:
        self._zones = zones

    @property
    def recoveries(self) -> list[bool]:
        """For each zone that came back, whether it went on."""
        return [True] * self._zones.resumed + [False] * self._zones.renewed

    async def pictures(self) -> dict[str, Picture]:
        """Return the zones."""
        return {
            zone_id: Picture(
                zone.position.epoch,
                zone.position.rev,
                {user.id: user.version for user in zone.users.values()},
            )
            for zone_id, zone in self._zones.items()
            if zone.position is not None
        }


@asynccontextmanager
async def own_client(port: int, zones: Sequence[str]) -> AsyncIterator[Screen]:
    """Watch with our own client."""
    async with watch(f"http://127.0.0.1:{port}", zones) as watched:
        yield OwnScreen(watched)


class SseScreen:
    """An event source that comes back with its last event id, as browsers do."""

    def __init__(self, port: int, zones: Sequence[str]) -> None:
        self._url = f"http://127.0.0.1:{port}"
        self._zones = zones
        self.zones: dict[str, Picture] = {}
        self.recoveries: list[bool] = []

    async def run(self) -> None:
        """Watch until cancelled."""
        last_id: str | None = None
        while True:
            is_return = last_id is not None
            with contextlib.suppress(httpx.TransportError, StreamEndedError):
                async with event_source(self._url, *self._zones, last_event_id=last_id) as source:
                    while True:
                        event = await source.event()
                        last_id = source.last_id
                        if is_return and event.name != "status":
                            self.recoveries.append(event.name == "changes")
                            is_return = False
                        self._take(event.name, event.data)
            await asyncio.sleep(POLL_S)

    def _take(self, name: str, data: Json) -> None:
        if name == "snapshot":
            zone = data["channel"].removeprefix("zone:")
            self.zones.setdefault(zone, Picture()).take_snapshot(data)
        elif name == "changes":
            for part in data["zones"]:
                self.zones[part["zone_id"]].take_change(part["rev"], part["events"])

    async def pictures(self) -> dict[str, Picture]:
        """Return the zones."""
        return self.zones


@asynccontextmanager
async def event_stream(port: int, zones: Sequence[str]) -> AsyncIterator[Screen]:
    """Watch with an event source."""
    screen = SseScreen(port, zones)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(screen.run())
        try:
            yield screen
        finally:
            running.cancel()
