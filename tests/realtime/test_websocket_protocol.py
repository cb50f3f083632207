"""The shared-frame protocol: shared bytes, honest congestion, and an end to every connection."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from uvicorn.lifespan.on import LifespanOn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState
from websockets.frames import Frame, Opcode

from channels.feed import FeedConfig
from channels.repairs import FollowerConfig
from realtime.http_protocol import BoundedHttpProtocol
from realtime.settings import Settings
from realtime.websocket.protocol import SharedFrameProtocol
from realtime.websocket.session import Session
from realtime.websocket_server import server_config
from tests.realtime.raw_socket import RawSocket, raw_socket
from tests.realtime.wire_world import WireWorld, served, until

CONNECT_AND_WATCH = '{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"zone:A"}}'
SMALL_BUFFER_BYTES = 4_096


def crowd(start: int, count: int = 2_000) -> list[tuple[int, str | None]]:
    """Moves that make a change of some hundred kilobytes."""
    return [(start * 10_000 + number, "A") for number in range(count)]


def session_of(world: WireWorld) -> Any:
    """Return the only connection's session."""
    (session,) = world.node.connections._live
    return session


async def watch(raw: RawSocket) -> list[dict[str, Any]]:
    """Connect, subscribe to zone A, and return the lines of the replies."""
    await raw.shake_hands()
    raw.write(CONNECT_AND_WATCH)
    lines: list[dict[str, Any]] = []
    while len(lines) < 2:
        lines += [json.loads(line) for line in (await raw.read_text()).split("\n")]
    return lines


async def read_changes(raw: RawSocket, last_rev: int) -> list[int]:
    """Read pushes up to a revision and return the revisions in their order."""
    revs: list[int] = []
    while not revs or revs[-1] < last_rev:
        lines = (await raw.read_text()).split("\n")
        revs += [json.loads(line)["push"]["pub"]["offset"] for line in lines]
    return revs


def test_uvicorn_still_has_what_the_protocol_relies_on() -> None:
    """These attributes aren't public: a version that lacks one must not be installed."""
    config = server_config(Starlette(), Settings())
    config.load()
    loop = asyncio.new_event_loop()
    try:
        protocol = HttpToolsProtocol(config, ServerState(), {}, loop)
    finally:
        loop.close()
    for name in ("client", "connections", "headers", "logger", "loop", "parser", "scope"):
        assert hasattr(protocol, name), name
    assert "self.url" in inspect.getsource(HttpToolsProtocol.on_message_begin)
    for name in (
        *("connection_made", "connection_lost", "data_received", "handle_websocket_upgrade"),
        *("on_headers_complete", "on_message_begin"),
    ):
        assert name in vars(HttpToolsProtocol), name
        assert name in vars(BoundedHttpProtocol), name
    # What uvicorn's server calls on each of its connections.
    assert "connection.shutdown()" in inspect.getsource(uvicorn.Server.shutdown)
    assert config.ws_protocol_class is SharedFrameProtocol
    assert issubclass(config.lifespan_class, LifespanOn)
    server = uvicorn.Server(config)
    assert server._captured_signals == []
    assert (server.should_exit, server.force_exit) == (False, False)


async def test_the_same_bytes_go_to_every_subscriber(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change is encoded once, and the frame object is shared."""
    written: list[bytes] = []
    deliver = Session.deliver

    def deliver_and_note(session: Session, frame: bytes) -> None:
        written.append(frame)
        deliver(session, frame)

    async with (
        served() as world,
        world.talker("zone:A") as first,
        world.talker("zone:A") as second,
    ):
        monkeypatch.setattr(Session, "deliver", deliver_and_note)
        world.commit((1, "A"))
        assert await first.message() == await second.message()
        assert len(written) == 2
        assert written[0] is written[1]


async def test_frames_are_never_compressed() -> None:
    """A shared frame fits every connection, as none has a compression context."""
    async with served() as world, world.dial(compression="deflate") as talker:
        assert talker.socket.response is not None
        assert "Sec-WebSocket-Extensions" not in talker.socket.response.headers


async def test_who_reads_again_gets_ordinary_changes() -> None:
    """A connection that fell behind a little catches up without a gap or a doubled change."""
    async with (
        served(slow_buffer_max_bytes=50_000) as world,
        raw_socket(world.port, receive_buffer_bytes=SMALL_BUFFER_BYTES) as raw,
    ):
        await watch(raw)
        session = session_of(world)
        commits = 0
        while not world.node.feed.slow_count:
            commits += 1
            world.commit(*crowd(commits, 400))
            await asyncio.sleep(0)
        buffered = session.transport.get_write_buffer_size()
        for _ in range(5):
            commits += 1
            world.commit(*crowd(commits, 400))
            await asyncio.sleep(0)
        assert session.transport.get_write_buffer_size() <= buffered
        assert await read_changes(raw, commits) == list(range(1, commits + 1))
        assert not world.node.feed.slow_count
        world.commit((1, "A"))
        assert await read_changes(raw, commits + 1) == [commits + 1]


async def test_who_is_too_far_behind_gets_the_state_anew() -> None:
    """When the replica no longer remembers what was missed, 2502 makes the client start anew."""
    feed = FeedConfig(
        following=FollowerConfig(resume_max_changes=3, gap_wait_s=0.01), head_check_interval_s=0.1
    )
    async with (
        served(feed=feed, slow_buffer_max_bytes=50_000) as world,
        raw_socket(world.port, receive_buffer_bytes=SMALL_BUFFER_BYTES) as raw,
    ):
        await watch(raw)
        commits = 0
        while not world.node.feed.slow_count:
            commits += 1
            world.commit(*crowd(commits))
            await asyncio.sleep(0)
        for number in range(10):
            world.commit((number, "A"))
            await asyncio.sleep(0)
        push: dict[str, Any] = {}
        while "unsubscribe" not in push:
            push = json.loads((await raw.read_text()).split("\n")[-1])["push"]
        assert push["unsubscribe"]["code"] == 2502
        raw.write('{"id":3,"subscribe":{"channel":"zone:A","recover":true,"epoch":"_"}}')
        result = json.loads(await raw.read_text())["subscribe"]
        assert result["offset"] == result["data"]["rev"] == commits + 10


async def test_who_never_reads_again_is_aborted() -> None:
    """A stuck reader is cut with 3008, and its socket is freed though it takes no byte."""
    feed = FeedConfig(slow_drain_timeout_s=0.2, atomic_wait_s=0.2)
    async with (
        served(feed=feed, slow_buffer_max_bytes=50_000, ping_interval_s=60) as world,
        raw_socket(world.port, receive_buffer_bytes=SMALL_BUFFER_BYTES) as raw,
    ):
        await watch(raw)
        commits = 0
        while not world.node.feed.slow_count:
            commits += 1
            world.commit(*crowd(commits))
            await asyncio.sleep(0)
        await until(lambda: not world.protocols)
        await world.until_alone()
        closed = {"transport": "websocket", "code": "3008"}
        sample = world.node.metrics.registry.get_sample_value
        assert sample("zonecast_connections_closed_total", closed) == 1


async def test_a_snapshot_in_flight_is_no_congestion() -> None:
    """A state far over the limit may be on its way, and changes follow it as usual."""
    async with served(slow_buffer_max_bytes=20_000) as world:
        for number in range(20):
            world.commit(*crowd(number))
        async with raw_socket(world.port, receive_buffer_bytes=SMALL_BUFFER_BYTES) as raw:
            await raw.shake_hands()
            raw.write(CONNECT_AND_WATCH)
            await until(lambda: len(world.node.connections) == 1)
            session = session_of(world)
            await until(lambda: world.node.feed.watches(session, "zone:A"))
            await asyncio.sleep(0)
            in_flight = session.transport.get_write_buffer_size()
            assert in_flight > 1_000_000
            world.commit((1, "A"))
            await asyncio.sleep(0)
            assert session.transport.get_write_buffer_size() > in_flight
            assert not world.node.feed.slow_count
            while not session.congested:
                world.commit(*crowd(30, 100))
                await asyncio.sleep(0)
            over = session.transport.get_write_buffer_size() - in_flight
            assert 20_000 < over < 60_000


async def test_a_client_that_asks_but_does_not_read_is_not_answered_without_end() -> None:
    """Commands wait until earlier replies were taken, and then go on in order."""
    async with served(slow_buffer_max_bytes=20_000) as world:
        world.commit(*crowd(1))
        async with raw_socket(world.port, receive_buffer_bytes=SMALL_BUFFER_BYTES) as raw:
            await raw.shake_hands()
            raw.write('{"id":1,"connect":{}}')
            for number in range(2, 52):
                raw.write(f'{{"id":{number},"history":{{"channel":"zone:A","limit":1}}}}')
            await until(lambda: len(world.node.connections) == 1)
            session = session_of(world)
            await until(lambda: session.writing_paused)
            await asyncio.sleep(0.1)
            assert session.transport.get_write_buffer_size() < 1_000_000
            ids: list[int] = []
            while len(ids) < 51:
                ids += [json.loads(line)["id"] for line in (await raw.read_text()).split("\n")]
            assert ids == list(range(1, 52))


async def test_a_flood_of_pings_fills_no_buffer() -> None:
    """Pings of a client that reads no pong are not answered for ever."""
    async with (
        served(slow_buffer_max_bytes=20_000) as world,
        raw_socket(world.port, receive_buffer_bytes=SMALL_BUFFER_BYTES) as raw,
    ):
        await watch(raw)
        session = session_of(world)
        pings = Frame(Opcode.PING, b"x" * 125).serialize(mask=True) * 500
        while not session.writing_paused:
            raw.writer.write(pings)
            await raw.writer.drain()
        buffered = session.transport.get_write_buffer_size()
        for _ in range(10):
            raw.writer.write(pings)
            await raw.writer.drain()
        await asyncio.sleep(0.05)
        assert session.transport.get_write_buffer_size() <= buffered + 1_000


async def test_failures_of_what_waits_aside_fill_no_buffer() -> None:
    """What can't be met is answered as anything else is: not to a client that doesn't read."""
    async with (
        served(slow_buffer_max_bytes=20_000, commands_per_s=0) as world,
        raw_socket(world.port, receive_buffer_bytes=SMALL_BUFFER_BYTES) as raw,
    ):
        await watch(raw)
        session = session_of(world)
        asked = b'{"id":3,"subscribe":{"channel":"zone:nowhere","data":{"min":"e1:1"}}}'
        asks = Frame(Opcode.TEXT, asked).serialize(mask=True) * 10
        while not session.writing_paused:
            raw.writer.write(asks)
            await asyncio.sleep(0)
        buffered = session.transport.get_write_buffer_size()
        for _ in range(10):
            raw.writer.write(asks)
        await asyncio.sleep(0.05)
        assert session.transport.get_write_buffer_size() <= buffered + 1_000


async def test_what_is_queued_for_a_session_is_bounded() -> None:
    """While a command waits, reading stops at a bound and goes on behind it, without loss."""
    async with served(max_message_bytes=10_000) as world, world.talker() as talker:
        world.truth.gate.clear()
        await talker.say({"id": 100, "subscribe": {"channel": "zone:A"}})
        session = session_of(world)
        filler = {"filler": "x" * 5_000}
        async with asyncio.TaskGroup() as tasks:
            for number in range(101, 301):
                tasks.create_task(talker.say({"id": number, "ping": {}, **filler}))
            await until(lambda: session.reading_paused)
            assert session.backlog.message_bytes < 300_000
            world.truth.gate.set()
            ids = [(await talker.line())["id"] for _ in range(201)]
        assert ids == list(range(100, 301))


async def test_a_flood_of_empty_messages_is_bounded() -> None:
    """Messages without a byte in them still cost memory: reading stops for them, too."""
    async with served(max_message_bytes=100_000) as world, raw_socket(world.port) as raw:
        await watch(raw)
        session = session_of(world)
        world.truth.gate.clear()
        raw.write('{"id":3,"subscribe":{"channel":"zone:B"}}')
        await until(lambda: ("state", "zone:B") in world.truth.asked)
        raw.writer.write(Frame(Opcode.TEXT, b"").serialize(mask=True) * 400_000)
        await until(lambda: session.reading_paused)
        await asyncio.sleep(0.05)
        # What one read of the socket brings is still taken.
        assert len(session.backlog.messages) < 50_000
        world.truth.gate.set()


async def test_the_query_of_a_handshake_is_never_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Tokens may be in it, and uvicorn's own line would have it in full."""
    caplog.set_level(logging.DEBUG)
    logging.getLogger("uvicorn.error").setLevel(logging.DEBUG)
    try:
        async with served(max_connections=1) as world:
            async with world.dial("/ws?token=hunter2") as talker:
                await talker.ask("connect")
                async with raw_socket(world.port) as raw:
                    assert b"503" in await raw.shake_hands("/ws?token=hunter2")
            await world.until_alone()
    finally:
        logging.getLogger("uvicorn.error").setLevel(logging.NOTSET)
    own = [record for record in caplog.records if not record.name.startswith("websockets.client")]
    assert "hunter2" not in "\n".join(record.getMessage() for record in own)
