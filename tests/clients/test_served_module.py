"""The module that nodes serve, `zonecast.js`, in Node: its connections, and what it is.

In the tests of recovery and of the trace it is one of the screens; here is what only it does.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest

from tests.clients.screens import javascript
from tests.clients.served_module import Watch, named
from tests.clients.tcp_proxy import tcp_proxy
from tests.clients.test_recovery import Writer, writer_at
from tests.nodes import NodeProcess

HERE = Path(__file__).parent
STATIC = HERE.parents[1] / "realtime" / "web" / "static"
MINIFIED_MAX_BYTES = 8 * 1024
SLEEP_S = 6.0


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


async def test_a_service_elsewhere_is_no_reason_to_stop(node: Path) -> None:
    """Nothing listens: it tries, and says so."""
    async with javascript(node, "zonecast_screen.mjs") as screen:
        screen.say({"do": "watch", "url": "http://127.0.0.1:1", "zones": ["A"]})
        await screen.until(lambda events: len(named("status")(events)) >= 1)
        status = json.loads(json.dumps(named("status")(screen.events)[0]))
        assert (status["state"], status["since"]) == ("connecting", None)
        screen.say({"do": "close"})
        await screen.until(named("status", state="closed"))
