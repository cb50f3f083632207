"""Streams that took a connection over: what is left of the request, and what its client may do."""

from __future__ import annotations

import asyncio
import gc

import pytest

from realtime.http_protocol import BoundedHttpProtocol
from realtime.sse.stream import EXPIRED
from tests.realtime.event_source import StreamEndedError
from tests.realtime.sse_world import served_sse
from tests.realtime.stuck_reader import asking, flood, only_stream, stuck_reader
from tests.realtime.test_sse_stream import zones_of
from tests.realtime.wire_world import until

GOODBYE = b"0\r\n\r\n"


async def test_nothing_of_the_request_is_left() -> None:
    """No task of the server, no HTTP protocol; the server knows the connection all the same."""
    async with served_sse() as world, world.source("A") as one, world.source("A") as two:
        for source in (one, two):
            await source.next("snapshot")
        state = world.server.server_state
        await until(lambda: not state.tasks)
        gc.collect()
        left = [thing for thing in gc.get_objects() if isinstance(thing, BoundedHttpProtocol)]
        assert [one for one in left if one.server_state is state] == []
        assert len(state.connections) == 2
        world.commit((1, "A"))
        for source in (one, two):
            assert zones_of(await source.next("changes")) == {"A": 1}


async def test_a_stream_is_chunked_and_says_that_its_connection_ends() -> None:
    """So a proxy can tell the end of a stream from a broken connection."""
    async with served_sse() as world, stuck_reader(world, "?zone=A") as reader:
        await reader.read_until(b"event: snapshot")
        head = reader.received.partition(b"\r\n\r\n")[0].lower()
        assert b"transfer-encoding: chunked" in head
        assert b"connection: close" in head
        assert b"connection: keep-alive" not in head
        only_stream(world).farewell()
        await reader.read_until_closed()
        assert reader.received.endswith(GOODBYE)


async def test_a_client_of_http_1_0_gets_no_chunks() -> None:
    """nginx asks so by default; the end is that of the connection."""
    async with served_sse() as world, stuck_reader(world, "?zone=A", version="1.0") as reader:
        await reader.read_until(b"event: snapshot")
        head, _, body = reader.received.partition(b"\r\n\r\n")
        assert b"chunked" not in head
        assert body.startswith(b"retry: ")
        world.commit((1, "A"))
        await reader.read_until(b"event: changes")
        only_stream(world).farewell()
        await reader.read_until_closed()
        body = reader.received.partition(b"\r\n\r\n")[2]
        assert all(
            line.partition(b":")[0] in {b"", b"retry", b"event", b"data", b"id"}
            for line in body.split(b"\n")
        )


@pytest.mark.parametrize(
    "more",
    ["GET /sse?zone=B HTTP/1.1\r\nHost: test\r\n\r\n", "GET /healthz HT"],
    ids=["whole", "begun"],
)
async def test_what_a_client_asks_for_behind_a_stream_is_dropped(more: str) -> None:
    """It was told that the connection ends; neither stream nor bound of heads minds it."""
    async with (
        served_sse(connect_timeout_s=0.2, sse_keepalive_interval_s=0.1) as world,
        stuck_reader(world, "?zone=A", more=more) as reader,
    ):
        await reader.read_until(b"event: snapshot")
        await reader.say(b"GET /sse?zone=C HTTP/1.1\r\nHost: test\r\n\r\n\x00\xff")
        while reader.received.count(b": keep-alive") < 5:
            await reader.read_more()
        assert len(world.node.connections) == 1
        assert b"zone:C" not in reader.received
        assert b"zone:B" not in reader.received


async def test_a_client_that_left_before_its_stream_began_leaves_nothing() -> None:
    """The zones were still being read."""
    async with served_sse() as world:
        world.truth.gate.clear()
        async with asking(world, "?zone=A"):
            await until(lambda: len(world.node.connections) == 1)
        await until(lambda: not world.server.server_state.connections)
        world.truth.gate.set()
        await world.until_alone()
        assert await world.metric("subscriptions") == 0
        assert await world.metric("connections_opened_total", transport="sse") == 0


async def test_a_client_that_leaves_while_zones_begin_anew_leaves_nothing() -> None:
    """What was being read for it is not delivered to nobody."""
    async with served_sse() as world:
        async with world.source("A") as source:
            await source.next("snapshot")
            stream = only_stream(world)
            world.truth.gate.clear()
            stream._wanted["zone:B"] = None
            stream.rejoin()
            assert stream._joining is not None
        await world.until_alone()
        world.truth.gate.set()
        await until(lambda: stream._joining is None)
        assert world.node.feed.channels_of(stream) == frozenset()
        assert await world.metric("subscriptions") == 0


async def test_who_does_not_read_the_goodbye_is_cut() -> None:
    """Its connection would stay for as long as it likes."""
    async with (
        served_sse(slow_buffer_max_bytes=100_000, slow_drain_timeout_s=0.5) as world,
        stuck_reader(world, "?zone=A&zone=B") as reader,
    ):
        stream = only_stream(world)
        while not stream.queued_bytes:
            await flood(world, 1)
        stream.farewell()
        await world.until_alone()
        assert stream.close_code == 3008
        await reader.read_until_closed()
        assert not reader.received.endswith(GOODBYE)


async def test_who_does_not_read_the_state_is_cut() -> None:
    """Also while nothing happens that would find it slow."""
    async with served_sse(slow_drain_timeout_s=0.5, sse_keepalive_interval_s=0.2) as world:
        world.commit(*((number, "A") for number in range(1, 20_001)))
        async with stuck_reader(world, "?zone=A"):
            stream = only_stream(world)
            await world.until_alone()
            assert stream.close_code == 3008


async def test_a_half_closed_socket_counts_as_closed() -> None:
    """As when a browser's tab is closed."""
    async with served_sse() as world, stuck_reader(world, "?zone=A") as reader:
        await reader.read_until(b"event: snapshot")
        reader.half_close()
        await world.until_alone()
        code = {"transport": "sse", "code": "1001"}
        assert await world.metric("connections_closed_total", **code) == 1


async def test_a_stream_can_be_ended_with_the_reason() -> None:
    """The event comes after all that was said before."""
    async with served_sse() as world, world.source("A") as source:
        await source.next("snapshot")
        world.commit((1, "A"))
        world.node.feed._hub.flush()
        only_stream(world).end_with(3507, "permission denied")
        assert zones_of(await source.next("changes")) == {"A": 1}
        said = await source.next("disconnect")
        assert said == {"code": 3507, "reason": "permission denied"}
        with pytest.raises(StreamEndedError):
            await source.event()
        await world.until_alone()
        code = {"transport": "sse", "code": "3507"}
        assert await world.metric("connections_closed_total", **code) == 1


async def test_a_stream_ends_when_its_time_is_over() -> None:
    """It says so, by the wheel that keeps it alive."""
    async with served_sse() as world, world.source("A") as source:
        await source.next("snapshot")
        only_stream(world).expire_at(asyncio.get_running_loop().time())
        assert await source.next("disconnect") == {"code": EXPIRED, "reason": "expired"}
        with pytest.raises(StreamEndedError):
            await source.event()
