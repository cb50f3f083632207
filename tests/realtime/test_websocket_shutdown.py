"""Shutdown: clients are told, what was written arrives, and nothing outlives the bound."""

from __future__ import annotations

import asyncio
import signal

import pytest
import sse_starlette.sse
from starlette.applications import Starlette

from realtime.connections import Connections
from realtime.settings import Settings
from realtime.websocket.session import Session
from realtime.websocket_server import Server, server_config
from tests.realtime.raw_socket import raw_socket
from tests.realtime.wire_world import served, until


@pytest.mark.usefixtures("each_encoding")
async def test_clients_are_told_to_come_back_elsewhere() -> None:
    """Everybody gets 3001 after whatever was delivered before."""
    async with served() as world, world.talker("zone:A") as talker, world.talker() as other:
        world.commit((1, "A"))
        await asyncio.sleep(0)
        world.server.handle_exit(signal.SIGTERM, None)
        assert (await talker.line())["push"]["pub"]["offset"] == 1
        assert await talker.closing() == (3001, "shutdown")
        assert await other.closing() == (3001, "shutdown")


async def test_a_stopping_node_takes_no_newcomers() -> None:
    """Neither an open socket nor a new one becomes a connection any more."""
    async with served() as world, world.talker(), raw_socket(world.port) as raw:
        world.node.connections.farewell()
        assert b"503" in await raw.shake_hands()


@pytest.mark.usefixtures("each_encoding")
async def test_replies_under_way_arrive_before_the_farewell() -> None:
    """A command that waits is given up, but what was answered is flushed."""
    async with served() as world, world.talker() as talker:
        world.commit(*((number, "A") for number in range(20_000)))
        await talker.say({"id": 5, "subscribe": {"channel": "zone:A"}})
        await until(lambda: len(world.node.feed.channels_of(_only(world.node.connections))) == 1)
        world.server.handle_exit(signal.SIGTERM, None)
        assert len((await talker.line())["subscribe"]["data"]["users"]) == 20_000
        assert await talker.closing() == (3001, "shutdown")


def _only(connections: Connections) -> Session:
    (connection,) = connections._live
    assert isinstance(connection, Session)
    return connection


@pytest.mark.parametrize("is_reading", [True, False], ids=["silent", "stuck"])
async def test_who_does_not_leave_is_dropped_within_the_bound(*, is_reading: bool) -> None:
    """Neither a peer that ignores the close frame nor one that reads nothing delays the end."""
    async with served(shutdown_timeout_s=0.5) as world:
        world.commit(*((number, "A") for number in range(20_000)))
        async with raw_socket(world.port, receive_buffer_bytes=4_096) as raw:
            await raw.shake_hands()
            raw.write('{"id":1,"connect":{}}')
            if not is_reading:
                raw.write('{"id":2,"subscribe":{"channel":"zone:A"}}')
            await until(lambda: len(world.node.connections) == 1)
            loop = asyncio.get_running_loop()
            began_s = loop.time()
            world.server.handle_exit(signal.SIGTERM, None)
            await until(lambda: not world.protocols)
            assert loop.time() - began_s < 1.5
            await world.until_alone()


async def test_a_waiting_command_does_not_delay_the_end() -> None:
    """A subscribe that hangs on the database is cancelled with its connection."""
    async with served(shutdown_timeout_s=0.5) as world, world.talker() as talker:
        world.truth.gate.clear()
        await talker.say({"id": 5, "subscribe": {"channel": "zone:A"}})
        await until(lambda: ("state", "zone:A") in world.truth.asked)
        world.server.handle_exit(signal.SIGTERM, None)
        assert await talker.closing() == (3001, "shutdown")
        async with asyncio.timeout(3):
            await world.until_alone()


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_at_once(second: signal.Signals) -> None:
    """Who presses twice doesn't wait for anybody."""
    async with served(shutdown_timeout_s=60) as world, raw_socket(world.port) as raw:
        await raw.shake_hands()
        raw.write('{"id":1,"connect":{}}')
        await raw.read_text()
        world.server.handle_exit(signal.SIGTERM, None)
        await until(lambda: world.node.connections.closing)
        world.server.handle_exit(second, None)
        async with asyncio.timeout(2):
            await until(lambda: not world.protocols)


def test_the_handler_is_ours_also_when_sse_starlette_replaced_uvicorns() -> None:
    """Its import changes `uvicorn.Server.handle_exit`, which would cut streams unsaid."""
    assert sse_starlette.sse.AppStatus.original_handler is not None
    app = Starlette()
    server = Server(server_config(app, Settings()), app, Settings())
    server.handle_exit(signal.SIGTERM, None)
    assert (server.should_exit, server.force_exit) == (True, False)
    assert sse_starlette.sse.AppStatus.should_exit is False
    server.handle_exit(signal.SIGTERM, None)
    assert server.force_exit is True
    assert server._captured_signals == [signal.SIGTERM, signal.SIGTERM]
