"""The load client counts what it is told: lines and events, however the bytes are cut."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bench.crowd import CrowdError, CrowdPlan, gathered
from bench.load.programs import compiled
from realtime.websocket.frames import PING, frame_header, text_frame

SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
STREAMING = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)
READY = text_frame(b'{"id":2,"subscribe":{"data":{"t":1}}}')

Play = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the program is, compiled."""
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("requires a C compiler: install gcc and libc6-dev")
    place = tmp_path_factory.mktemp("load")
    compiled("crowd", place)
    return place


@asynccontextmanager
async def known_server(play: Play) -> AsyncIterator[int]:
    """Serve each connection with `play` behind the head of its request."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await play(reader, writer)
            await reader.read()
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


def pushes(*numbers: int, sent_ns: int = 0) -> bytes:
    return b"\n".join(b'{"push":{"n":%d,"t":%d}}' % (n, sent_ns or n) for n in numbers)


@pytest.mark.parametrize("step", [1, 3, 7, 1 << 20])
async def test_each_line_of_a_message_counts_once(folder: Path, step: int) -> None:
    """Replies, pings and lines without the mark don't; cutting the bytes changes nothing."""
    gate = asyncio.Event()
    ping = frame_header(4, PING) + b"ping" + text_frame(b"{}")
    after = b"".join(
        [
            text_frame(pushes(1)),
            ping,
            text_frame(pushes(*range(2, 34))),
            text_frame(b'{"id":3}\n' + pushes(34) + b'\n{"push":{"other":1}}'),
            text_frame(b'{"push":{"pad":"' + b"x" * 70_000 + b'","t":1},"again":{"t":2}}'),
        ]
    )

    async def play(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SWITCHING + text_frame(b'{"id":1,"connect":{}}') + READY)
        await gate.wait()
        for begin in range(0, len(after), step) if step > 3 else range(0, 9_000, step):
            writer.write(after[begin : begin + step])
            await asyncio.sleep(0)
        writer.write(b"" if step > 3 else after[9_000:])

    async with known_server(play) as port:
        plan = CrowdPlan(port, "/", sends=("a", "b"), ready='"subscribe":{')
        async with gathered(folder, plan, 3) as crowd:
            await crowd.begin()
            gate.set()
            await crowd.wait_done(35)
            report = await crowd.report()
    assert report["deliveries"] == 3 * 35
    assert crowd.done == 35


@pytest.mark.parametrize("step", [1, 5, 1 << 20])
async def test_each_event_of_a_chunked_stream_counts_once(folder: Path, step: int) -> None:
    """Chunks may end anywhere in an event; comments and other events don't count."""
    gate = asyncio.Event()
    body = b": keep-alive\n\n" + b"".join(
        b'id: z=e:%d\nevent: changes\ndata: {"t":%d}\n\n' % (n, n) for n in range(1, 21)
    )
    body += b"event: status\ndata: {}\n\n"

    def chunk(data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data)

    async def play(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAMING + chunk(b'event: snapshot\ndata: {"t":1}\n\n'))
        await gate.wait()
        for begin in range(0, len(body), step):
            writer.write(chunk(body[begin : begin + step]))

    async with known_server(play) as port:
        plan = CrowdPlan(port, "/", is_sse=True, ready="event: snapshot")
        async with gathered(folder, plan, 2) as crowd:
            await crowd.begin()
            gate.set()
            await crowd.wait_done(20)
            report = await crowd.report()
    assert report["deliveries"] == 2 * 20


async def test_everybody_has_had_what_the_last_one_has_had(folder: Path) -> None:
    """One subscriber that is behind holds the count back."""
    gate, last = asyncio.Event(), asyncio.Event()
    seen: list[asyncio.StreamWriter] = []

    async def play(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        is_first = not seen
        seen.append(writer)
        writer.write(SWITCHING)
        await gate.wait()
        writer.write(text_frame(pushes(1, 2)))
        if is_first:
            await last.wait()
        writer.write(text_frame(pushes(3)))

    async with (
        known_server(play) as port,
        gathered(folder, CrowdPlan(port, "/"), 4) as crowd,
    ):
        await crowd.begin()
        gate.set()
        await crowd.wait_done(2)
        held_back = crowd.done
        last.set()
        await crowd.wait_done(3)
    assert held_back == 2


async def test_a_delay_is_the_time_since_the_stamp(folder: Path) -> None:
    """The number behind the mark is nanoseconds of the clock that all processes share."""
    gate = asyncio.Event()

    async def play(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SWITCHING)
        await gate.wait()
        writer.write(text_frame(pushes(1, sent_ns=time.monotonic_ns() - 5_000_000_000)))

    async with (
        known_server(play) as port,
        gathered(folder, CrowdPlan(port, "/"), 1) as crowd,
    ):
        await crowd.begin()
        gate.set()
        await crowd.wait_done(1)
        report = await crowd.report()
    assert report["delay"]["samples"] == 1
    assert 4_900 < report["delay"]["p50_ms"] < 15_000


async def test_commands_are_sent_in_steps_and_differ_where_asked(folder: Path) -> None:
    """The second goes when the first is answered; every other one gets another text."""
    heard: list[bytes] = []

    async def frame(reader: asyncio.StreamReader) -> bytes:
        head = await reader.readexactly(2)
        await reader.readexactly(4)
        return await reader.readexactly(head[1] & 127)

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SWITCHING)
        first = await frame(reader)
        writer.write(text_frame(b'{"id":1}'))
        heard.append(first + b" " + await frame(reader))
        writer.write(READY)

    async with known_server(play) as port:
        plan = CrowdPlan(port, "/", sends=("hello", "new %d"), other="old %d", ready="subscribe")
        async with gathered(folder, plan, 4) as crowd:
            ready = crowd.readiness
    assert sorted(heard) == [b"hello new 0", b"hello new 2", b"hello old 1", b"hello old 3"]
    assert ready["readiness"]["samples"] == 4


async def test_delays_are_taken_while_others_are_still_coming(folder: Path) -> None:
    """Of changes that reach who is ready before the last one is."""
    is_served = asyncio.Event()

    async def play(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if is_served.is_set():
            writer.write(SWITCHING + READY)
            return
        is_served.set()
        late = time.monotonic_ns() - 50_000_000
        writer.write(SWITCHING + READY + text_frame(pushes(1, 2, sent_ns=late)))

    async with known_server(play) as port:
        plan = CrowdPlan(port, "/", ready='"subscribe":{', at_once=1)
        async with gathered(folder, plan, 2) as crowd:
            delay = crowd.readiness["delay"]
    assert delay["samples"] == 2
    assert delay["p50_ms"] >= 49


async def test_a_lost_connection_is_told(folder: Path) -> None:
    """A run in which somebody was lost can't pass for one in which all were served."""
    gate = asyncio.Event()

    async def play(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SWITCHING)
        await gate.wait()
        writer.close()

    async with known_server(play) as port, gathered(folder, CrowdPlan(port, "/"), 2) as crowd:
        await crowd.begin()
        gate.set()
        with pytest.raises(CrowdError, match="lost"):
            await crowd.wait_done(1)


async def test_a_refusal_is_told(folder: Path) -> None:
    """The status of the answer is named."""

    async def play(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")

    async with known_server(play) as port:
        with pytest.raises(CrowdError, match="503"):
            async with gathered(folder, CrowdPlan(port, "/"), 1):
                pass
