"""The module that nodes serve, `zonecast.js`, in Node and against running nodes.

In the tests of recovery and of the trace it is one of the screens; here is what only it does.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.clients.screens import POLL_S, JavaScriptScreen, Picture, javascript
from tests.clients.tcp_proxy import tcp_proxy
from tests.clients.test_recovery import Writer, writer_at
from tests.nodes import NodeProcess, running_nodes
from tests.realtime.auth.minter import Minter

HERE = Path(__file__).parent
STATIC = HERE.parents[1] / "realtime" / "web" / "static"
MINIFIED_MAX_BYTES = 8 * 1024
SLEEP_S = 6.0
GRACE_S = 4.0

Json = dict[str, Any]
Watch = Callable[..., AbstractAsyncContextManager[JavaScriptScreen]]


@pytest.fixture
def watch(node: Path) -> Watch:
    """Watch a port with the module, until it is ready."""

    @asynccontextmanager
    async def run(port: int, zones: object, **options: object) -> AsyncIterator[JavaScriptScreen]:
        async with javascript(node, "zonecast_screen.mjs") as screen:
            url = f"http://127.0.0.1:{port}"
            screen.say({"do": "watch", "url": url, "zones": zones, **options})
            await screen.until(named("ready"))
            yield screen

    return run


@pytest.fixture(params=["websocket", "sse"])
def transport(request: pytest.FixtureRequest) -> str:
    """Both transports."""
    return str(request.param)


@pytest.fixture
async def pinging_node(sqlite_url: str, tmp_path: Path) -> AsyncIterator[NodeProcess]:
    """A node whose clients soon notice when it is silent."""
    settings = {"database_url": sqlite_url, "ping_interval_s": 1}
    async with running_nodes(tmp_path, 1, settings) as (service,):
        yield service


@pytest.fixture
async def guarded_node(sqlite_url: str, tmp_path: Path) -> AsyncIterator[NodeProcess]:
    """A node that asks for tokens."""
    settings = {"database_url": sqlite_url, "token_grace_s": 1, **Minter().settings()}
    async with running_nodes(tmp_path, 1, settings) as (service,):
        yield service


def named(name: str, **fields: object) -> Callable[[list[Json]], list[Json]]:
    """Return what finds events of a name, with these fields."""

    def find(events: list[Json]) -> list[Json]:
        return [
            event
            for event in events
            if event["event"] == name and all(event.get(k) == v for k, v in fields.items())
        ]

    return find


async def run_node(node: Path, *arguments: str) -> tuple[int, str]:
    """Run a program of Node; return its exit code and what it printed."""
    process = await asyncio.create_subprocess_exec(
        node,
        *arguments,
        cwd=HERE,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "NO_COLOR": "1"},
    )
    printed, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, printed.decode()


async def test_what_a_service_says_in_any_order_is_put_together(node: Path) -> None:
    """By a script of the protocol's lines; see the file."""
    code, printed = await run_node(node, "--test", "zonecast.test.mjs")
    assert code == 0, printed


async def test_the_module_is_small(node: Path) -> None:
    """Under 8 KB, without its comments and with short names."""
    program = "node_modules/terser/bin/terser"
    module = str(STATIC / "zonecast.js")
    code, printed = await run_node(
        node, program, module, "--module", "--compress", "passes=3,ecma=2022", "--mangle"
    )
    assert code == 0, printed
    assert len(printed.strip().encode()) < MINIFIED_MAX_BYTES


async def test_the_types_are_those_of_the_module(node: Path) -> None:
    """What its users write is accepted, and mistakes of theirs are found."""
    code, printed = await run_node(node, "node_modules/typescript/bin/tsc", "-p", "types")
    assert code == 0, printed


async def test_a_move_is_one_change(
    embedded_node: list[NodeProcess], watch: Watch, transport: str
) -> None:
    """In both zones at once."""
    async with writer_at(embedded_node[0]) as client:
        writer = Writer(client)
        await writer.set_up()
        async with watch(embedded_node[0].port, ["A", "B"], transport=transport) as screen:
            start = len(screen.events)
            await writer.move(3, "B")
            (change,) = await screen.until(named("change"), start)
            assert [(move["id"], move["from"], move["to"]) for move in change["users"]] == [
                (3, "A", "B")
            ]
            assert change["zones"] == [["A", [1, 2, 4, 5]], ["B", [3]]]
            assert len(change["txs"]) == 1
            assert (change.get("time") is None) == (transport == "sse")


async def test_moves_while_the_connection_was_lost_are_one_change(
    embedded_node: list[NodeProcess], watch: Watch
) -> None:
    """Nobody is shown in both zones, or in neither, on the way there."""
    async with writer_at(embedded_node[0]) as client, tcp_proxy(embedded_node[0].port) as proxy:
        writer = Writer(client)
        await writer.set_up()
        async with watch(proxy.port, ["A", "B"]) as screen:
            start = len(screen.events)
            proxy.is_open = False
            proxy.cut()
            await screen.until(named("status", state="connecting"), start)
            for number in (1, 2, 3):
                await writer.move(number, "B")
            await writer.move(2, "A")
            proxy.is_open = True
            changes = named("change")(await screen.until(named("status", state="live"), start))
            moves = [move for change in changes for move in change["users"]]
            assert sorted((m["id"], m["from"], m["to"], m["version"]) for m in moves) == [
                (1, "A", "B", 2),
                (2, "A", "A", 3),
                (3, "A", "B", 2),
            ]
            assert len(changes) == 1
            assert changes[0]["txs"] == []


async def test_a_killed_node_is_told_since_when_and_resumed_once_it_is_back(
    embedded_node: list[NodeProcess], watch: Watch, transport: str
) -> None:
    """What is shown stays, and is known to be old since the last word of the node."""
    (service,) = embedded_node
    async with writer_at(service) as client:
        writer = Writer(client)
        await writer.set_up()
        async with watch(service.port, ["A", "B"], transport=transport) as screen:
            start = len(screen.events)
            await service.kill()
            lost = named("status", state="connecting")(
                await screen.until(named("status", state="connecting"), start)
            )
            assert lost[0]["since"] > 0
            assert len((await screen.pictures())["A"].users) == 5
            await service.start()
            await screen.until(named("status", state="live"), start)
            await writer.move(1, "B")
            await screen.until(named("change"), start)
            truth = await writer.truth()
            assert await screen.pictures() == truth
            status = (await screen.report())["status"]
            assert status["connections"] == 2


async def test_where_no_websocket_is_let_through_it_comes_as_an_event_stream(
    embedded_node: list[NodeProcess], watch: Watch
) -> None:
    """By itself, and again after the stream was cut."""
    async with writer_at(embedded_node[0]) as client, tcp_proxy(embedded_node[0].port) as proxy:
        writer = Writer(client)
        await writer.set_up()
        proxy.lets_sockets_through = False
        async with watch(proxy.port, ["A", "B"]) as screen:
            assert (await screen.report())["status"]["transport"] == "sse"
            start = len(screen.events)
            proxy.cut()
            await screen.until(named("status", state="live"), start)
            await writer.move(1, "B")
            await screen.until(named("change"), start)
            assert await screen.pictures() == await writer.truth()


@pytest.mark.timeout(240)
async def test_a_machine_that_slept_connects_anew_and_resumes(
    embedded_node: list[NodeProcess], watch: Watch, transport: str
) -> None:
    """The process stood still; it doesn't trust its connection, whatever the network says."""
    async with writer_at(embedded_node[0]) as client:
        writer = Writer(client)
        await writer.set_up()
        async with watch(embedded_node[0].port, ["A", "B"], transport=transport) as screen:
            start = len(screen.events)
            os.kill(screen.pid, signal.SIGSTOP)
            try:
                await writer.move(1, "B")
                await asyncio.sleep(SLEEP_S)  # A time that passes, not something that happens.
            finally:
                os.kill(screen.pid, signal.SIGCONT)
            lost = await screen.until(named("status", state="connecting"), start)
            assert named("status", state="connecting")(lost)[0]["error"] == {"message": "slept"}
            await screen.until(named("status", state="live"), start)
            assert await screen.pictures() == await writer.truth()
            assert all(screen.recoveries)


@pytest.mark.timeout(240)
async def test_a_node_that_says_nothing_is_given_up(
    pinging_node: NodeProcess, watch: Watch
) -> None:
    """A connection that is open and silent is not taken for a live one."""
    service = pinging_node
    async with writer_at(service) as client:
        await Writer(client).set_up()
        async with watch(service.port, ["A"]) as screen:
            start = len(screen.events)
            service.sigstop()
            try:
                lost = await screen.until(named("status", state="connecting"), start)
            finally:
                service.sigcont()
            assert named("status", state="connecting")(lost)[0]["error"]["message"] == "no answer"
            await screen.until(named("status", state="live"), start)


async def test_all_zones_are_watched_also_those_made_later(
    embedded_node: list[NodeProcess], watch: Watch, transport: str
) -> None:
    """And no more once they are deleted; also what happened while nobody was connected."""
    async with writer_at(embedded_node[0]) as client, tcp_proxy(embedded_node[0].port) as proxy:
        writer = Writer(client)
        await writer.set_up()
        async with watch(proxy.port, "*", transport=transport) as screen:
            assert set(await screen.pictures()) == {"A", "B"}
            start = len(screen.events)
            await make_zone(client, "C")
            await writer.move(1, "C")
            await screen.until(lambda events: any(moved(1, "C")(e) for e in events), start)
            assert (await client.delete("/zones/C?move_to=B")).status_code == 204
            await screen.until(lambda events: any(moved(1, "B")(e) for e in events), start)
            await until_zones(screen, {"A", "B"})
            proxy.is_open = False
            proxy.cut()
            start = len(screen.events)
            await screen.until(named("status", state="connecting"), start)
            await make_zone(client, "D")
            assert (await client.delete("/zones/B?move_to=D")).status_code == 204
            proxy.is_open = True
            await screen.until(named("status", state="live"), start)
            pictures = await until_zones(screen, {"A", "D"})
            assert set(pictures["D"].users) == {1}


async def until_zones(screen: JavaScriptScreen, zones: set[str]) -> dict[str, Picture]:
    """Wait, bounded by the test, until a screen has the states of these zones, and no others."""
    while True:
        pictures = await screen.pictures()
        if set(pictures) == zones and all(picture.rev >= 0 for picture in pictures.values()):
            return pictures
        await asyncio.sleep(POLL_S)


async def make_zone(client: httpx.AsyncClient, zone_id: str) -> None:
    """Make a zone."""
    answer = await client.post("/zones", json={"zone_id": zone_id, "name": zone_id})
    assert answer.status_code == 201, answer.text


def moved(user_id: int, zone: str) -> Callable[[Json], bool]:
    """Return what tells whether an event is a user's arrival in a zone."""
    return lambda event: (
        event["event"] == "change"
        and any(move["id"] == user_id and move.get("to") == zone for move in event["users"])
    )


async def test_zones_are_added_and_removed_while_it_runs(
    embedded_node: list[NodeProcess], watch: Watch, transport: str
) -> None:
    """A zone that isn't watched any more shows nobody."""
    async with writer_at(embedded_node[0]) as client:
        writer = Writer(client)
        await writer.set_up()
        async with watch(embedded_node[0].port, ["B"], transport=transport) as screen:
            start = len(screen.events)
            screen.say({"do": "add", "zone": "A"})
            await screen.until(lambda events: any(moved(5, "A")(e) for e in events), start)
            screen.say({"do": "remove", "zone": "A"})
            assert set(await screen.pictures()) == {"B"}
            await writer.move(1, "B")
            await screen.until(lambda events: any(moved(1, "B")(e) for e in events), start)


async def test_a_zone_that_is_made_later_appears(
    embedded_node: list[NodeProcess], watch: Watch
) -> None:
    """It is missing first, which is told; the others are live meanwhile."""
    async with writer_at(embedded_node[0]) as client:
        await make_zone(client, "A")
        async with watch(embedded_node[0].port, ["A", "Z"]) as screen:
            (error,) = named("error")(screen.events)
            assert (error["zone"], error["code"]) == ("Z", 102)
            assert (await screen.report())["status"]["state"] == "live"
            await make_zone(client, "Z")
            await screen.until(lambda events: any(["Z", []] in e.get("zones", []) for e in events))


async def test_on_an_event_stream_a_missing_zone_does_not_keep_the_others(
    embedded_node: list[NodeProcess], watch: Watch
) -> None:
    """The stream of both is refused; the one that is there is watched."""
    async with writer_at(embedded_node[0]) as client:
        await make_zone(client, "A")
        async with watch(embedded_node[0].port, ["A", "Z"], transport="sse") as screen:
            (error,) = named("error")(screen.events)
            assert (error["zone"], error["code"]) == ("Z", 102)
            assert (await screen.pictures())["A"].rev >= 0


async def test_users_in_no_zone_are_one_more_zone(
    embedded_node: list[NodeProcess], watch: Watch
) -> None:
    """Who leaves for it is shown there, and its digest is the service's."""
    async with writer_at(embedded_node[0]) as client:
        writer = Writer(client)
        await writer.set_up()
        async with watch(embedded_node[0].port, ["A", None]) as screen:
            rows = [{"global_id": 1, "zone_id": None}]
            answer = await client.post("/transfers", json={"transfers": rows})
            assert answer.status_code == 200
            events = await screen.until(
                lambda events: any(
                    move["id"] == 1 and move["from"] == "A" and move["to"] is None
                    for event in named("change")(events)
                    for move in event["users"]
                    if "from" in move and "to" in move
                )
            )
            assert events
            digest = (await client.get("/zones/A/digest")).json()["digest"]
            assert (await screen.report())["digests"]["A"] == digest


@pytest.mark.timeout(300)
async def test_a_token_is_renewed_before_it_ends(
    guarded_node: NodeProcess, watch: Watch, transport: str
) -> None:
    """On a WebSocket nothing is interrupted; an event stream is resumed with the new one."""
    minter = Minter()
    everything = {"zones": ["*"], "scope": "read write"}
    async with writer_at(guarded_node) as client:
        client.headers.update(minter.header(**everything))
        writer = Writer(client)
        await writer.set_up()
        token = minter.token(**everything, exp=int(time.time()) + 5)
        async with watch(
            guarded_node.port, ["A", "B"], transport=transport, token=token, renews=True
        ) as screen:
            screen.say({"do": "token", "token": minter.token(**everything)})
            await screen.until(lambda events: len(named("token wanted")(events)) == 2)
            if transport == "sse":
                await screen.until(named("status", connections=2, state="live"))
            start = len(screen.events)
            await asyncio.sleep(GRACE_S)  # The first token has ended by now, and its grace.
            await writer.move(1, "B")
            await screen.until(lambda events: any(moved(1, "B")(e) for e in events), start)
            status = (await screen.report())["status"]
            assert status["connections"] == (1 if transport == "websocket" else 2)
            assert status["snapshots"] == 0


async def test_who_has_no_token_is_told_so_and_left_alone(
    guarded_node: NodeProcess, node: Path, transport: str
) -> None:
    """It is closed with the reason, and asks no more."""
    async with javascript(node, "zonecast_screen.mjs") as screen:
        url = f"http://127.0.0.1:{guarded_node.port}"
        screen.say({"do": "watch", "url": url, "zones": ["A"], "transport": transport})
        (closed,) = named("status", state="closed")(
            await screen.until(named("status", state="closed"))
        )
        assert closed["error"]["code"] == (101 if transport == "websocket" else 401)


async def test_a_service_elsewhere_is_no_reason_to_stop(node: Path) -> None:
    """Nothing listens: it tries, and says so."""
    async with javascript(node, "zonecast_screen.mjs") as screen:
        screen.say({"do": "watch", "url": "http://127.0.0.1:1", "zones": ["A"]})
        await screen.until(lambda events: len(named("status")(events)) >= 1)
        status = json.loads(json.dumps(named("status")(screen.events)[0]))
        assert (status["state"], status["since"]) == ("connecting", None)
        screen.say({"do": "close"})
        await screen.until(named("status", state="closed"))
