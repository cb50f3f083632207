"""The heartbeat: who lives stays, who is silent goes, and one timer asks them all."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from websockets.frames import Frame, Opcode

from realtime.heartbeat import Heartbeat
from tests.realtime.encodings import JSON_LINES, Encoding
from tests.realtime.raw_socket import RawSocket, raw_socket
from tests.realtime.wire_world import served, until

QUICK: dict[str, Any] = {"ping_interval_s": 0.1, "pong_timeout_s": 0.2}
"""Ten pings a second, and so a second without an answer is five times too long."""
LONG_S = 1.0


async def connected(raw: RawSocket, encoding: Encoding = JSON_LINES) -> None:
    """Connect on a raw socket."""
    await raw.shake_hands(headers=encoding.offer)
    raw.say(encoding, encoding.write([{"id": 1, "connect": {}}]))
    (reply,) = await raw.hear(encoding)
    assert "connect" in reply


def ping_of(encoding: Encoding) -> tuple[Opcode, bytes]:
    """Return the frame that asks an SDK for a sign of life."""
    ping = encoding.ping
    return encoding.opcode, ping.encode() if isinstance(ping, str) else ping


async def test_a_ping_comes_in_both_protocols(each_encoding: Encoding) -> None:
    """Each interval brings a WebSocket ping and the empty object, or reply."""
    async with served(**QUICK) as world, raw_socket(world.port) as raw:
        await connected(raw, each_encoding)
        for _ in range(3):
            assert await raw.read_frame() == (Opcode.PING, b"")
            assert await raw.read_frame() == ping_of(each_encoding)
            raw.say(each_encoding, each_encoding.pong)


async def test_who_answers_as_sdks_do_stays(each_encoding: Encoding) -> None:
    """An official SDK's pong is a sign of life."""
    async with served(**QUICK) as world, raw_socket(world.port) as raw:
        await connected(raw, each_encoding)
        async with asyncio.timeout(LONG_S * 3):
            for _ in range(8):
                while await raw.read_frame() != ping_of(each_encoding):
                    pass
                raw.say(each_encoding, each_encoding.pong)
        raw.say(each_encoding, each_encoding.write([{"id": 2, "ping": {}}]))
        assert await raw.hear(each_encoding) == [{"id": 2, "ping": {}}]


@pytest.mark.usefixtures("each_encoding")
async def test_who_answers_only_websocket_pings_stays() -> None:
    """A plain WebSocket client knows nothing of empty objects."""
    async with served(**QUICK) as world, world.talker() as talker:
        pings = 0
        async with asyncio.timeout(LONG_S * 3):
            while pings < 8:
                pings += await talker.socket.recv() == talker.encoding.ping
        assert (await talker.ask("ping"))["ping"] == {}


async def test_who_answers_nothing_is_closed_with_3012() -> None:
    """A silent client is told why, and its socket is freed though it doesn't answer that."""
    async with served(**QUICK) as world, raw_socket(world.port) as raw:
        await connected(raw)
        assert await raw.read_close() == (3012, "no pong")
        await world.until_alone()
        await until(lambda: not world.protocols)


async def test_who_is_not_connected_yet_is_not_pinged() -> None:
    """Pings begin with the connect reply; before it other bounds hold."""
    async with served(**QUICK, connect_timeout_s=0.5) as world, raw_socket(world.port) as raw:
        await raw.shake_hands()
        assert (await raw.read_frame())[0] is Opcode.CLOSE


async def test_a_stuck_reader_is_aborted() -> None:
    """Who takes no byte gets no close frame: the connection ends all the same."""
    async with served(**QUICK) as world:
        world.commit(*((number, "A") for number in range(20_000)))
        async with raw_socket(world.port, receive_buffer_bytes=4_096) as raw:
            await raw.shake_hands()
            raw.write('{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"zone:A"}}')
            await until(lambda: len(world.node.connections) == 1)
            await world.until_alone()
            await until(lambda: not world.protocols)
            await raw.read_to_end()


async def test_a_slow_download_is_no_silence() -> None:
    """A ping behind a large state can't be answered soon; who takes bytes lives."""
    async with served(ping_interval_s=0.1, pong_timeout_s=0.6) as world:
        world.commit(*((number, "A") for number in range(20_000)))
        # With a first watcher the state is at hand: no ping overtakes the reply while it is made.
        async with (
            world.talker("zone:A"),
            raw_socket(world.port, receive_buffer_bytes=65_536) as raw,
        ):
            await raw.shake_hands()
            raw.write('{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"zone:A"}}')
            loop = asyncio.get_running_loop()
            began_s = due_s = loop.time()
            tail = b""
            while b"digest" not in tail:
                news = await raw.reader.read(8_192)
                assert news, "the connection was cut"
                tail = tail[-20:] + news
                due_s += len(news) / 1_400_000
                await asyncio.sleep(max(0, due_s - loop.time()))
            assert loop.time() - began_s > 0.1 + 0.6
            raw.write('{"id":3,"ping":{}}')
            while b'{"id":3,"ping":{}}' not in tail:
                tail = tail[-20:] + await raw.reader.readexactly(1)
            assert len(world.node.connections) == 2


@pytest.mark.usefixtures("each_encoding")
async def test_pongs_are_heard_while_a_command_waits() -> None:
    """A healthy client is not cut because the database is slow to answer it."""
    async with served(**QUICK) as world, world.talker() as talker:
        world.truth.gate.clear()
        await talker.say({"id": 9, "subscribe": {"channel": "zone:A"}})
        pings = 0
        while pings < 8:
            pings += await talker.socket.recv() == talker.encoding.ping
        world.truth.gate.set()
        assert "digest" in json.dumps(await talker.line())


async def test_a_client_that_says_too_much_is_not_taken_for_silent() -> None:
    """While a full inbox keeps the server from reading, nobody can hear a pong."""
    async with (
        served(ping_interval_s=0.1, pong_timeout_s=0.2, max_message_bytes=2_000) as world,
        world.talker() as talker,
    ):
        world.truth.gate.clear()
        await talker.say({"id": 9, "subscribe": {"channel": "zone:A"}})
        for number in range(10, 20):
            await talker.say({"id": number, "ping": {}, "filler": "x" * 1_000})
        await until(lambda: any(protocol.reading_paused for protocol in world.protocols))
        await asyncio.sleep(LONG_S)
        world.truth.gate.set()
        assert [(await talker.line())["id"] for _ in range(11)] == list(range(9, 20))


class Asked:
    """A connection that counts how often it was asked, and when."""

    def __init__(self) -> None:
        self.pinged_s: list[float] = []
        self.checked = 0

    def ping(self) -> None:
        self.pinged_s.append(asyncio.get_running_loop().time())

    def begin_listening(self) -> None:
        assert self.pinged_s

    def check_alive(self) -> bool:
        self.checked += 1
        return False


async def test_pings_are_spread_and_each_connection_gets_one_an_interval() -> None:
    """Many who connect at once aren't pinged at once, and nobody is left out."""
    ticks = 0

    def ticked() -> None:
        nonlocal ticks
        ticks += 1

    heartbeat = Heartbeat(ping_interval_s=0.5, pong_timeout_s=0.1, ticked=ticked)
    crowd = [Asked() for _ in range(200)]
    for patient in crowd:
        heartbeat.join(patient)
    await until(lambda: all(len(patient.pinged_s) == 2 for patient in crowd))
    moments = {round(patient.pinged_s[0], 3) for patient in crowd}
    assert len(moments) >= 8
    for patient in crowd:
        assert 0.3 < patient.pinged_s[1] - patient.pinged_s[0] < 0.9
        assert patient.checked >= 1
        heartbeat.leave(patient)
    assert len(heartbeat) == 0
    after = ticks
    await asyncio.sleep(0.2)
    assert ticks == after, "the timer ends with the last connection"


@pytest.mark.usefixtures("each_encoding")
async def test_bytes_on_the_wire_are_counted() -> None:
    """What was written reaches the metrics when the last connection leaves, at the latest."""
    async with served() as world:
        async with world.talker("zone:A") as talker:
            world.commit((1, "A"))
            await talker.message()
        await world.until_alone()
        sent = world.node.metrics.registry.get_sample_value(
            "zonecast_sent_bytes_total", {"transport": "websocket"}
        )
        assert sent is not None
        assert sent > len(Frame(Opcode.TEXT, b"").serialize(mask=False)) + 300
