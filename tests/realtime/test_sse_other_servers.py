"""Streams under servers that hand no connection over: sse-starlette's response serves them."""

from __future__ import annotations

import asyncio
from typing import Literal

import pytest

from realtime.sse.mailbox import Mailbox
from tests.realtime.event_source import StreamEndedError
from tests.realtime.sse_world import served_sse
from tests.realtime.stuck_reader import flood, only_stream, stuck_reader
from tests.realtime.test_sse_stream import materialised, truth_digests, zones_of

Http = Literal["h11", "httptools"]
EITHER = pytest.mark.parametrize("http", ["h11", "httptools"])


@EITHER
async def test_a_stream_begins_goes_on_and_is_kept_alive(http: Http) -> None:
    """As under our own server."""
    async with (
        served_sse(http=http, sse_keepalive_interval_s=0.1) as world,
        world.source("A", "B") as source,
    ):
        assert source.response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert source.response.headers["cache-control"] == "no-store"
        assert await source.next("status") == {"state": "live", "since": None}
        for _ in "AB":
            await source.next("snapshot")
        assert isinstance(only_stream(world)._wire, Mailbox)
        world.commit((1, "A"), (2, "B"))
        assert zones_of(await source.next("changes")) == {"A": 1, "B": 1}
        assert source.last_id == "A=e1:1,B=e1:1"
        async for line in source.lines:
            if line == ": keep-alive":
                break
        world.truth.renew_epochs("e2")
        seen = {(await source.next("snapshot"))["channel"] for _ in range(2)}
        assert seen == {"zone:A", "zone:B"}
        async with world.source("A", "B") as other:
            for number in range(60):
                world.commit((number % 7, "AB"[number % 2]))
            assert await materialised(world, other, "A", "B") == truth_digests(world, "A", "B")


@EITHER
async def test_a_goodbye_comes_after_what_was_said(http: Http) -> None:
    """And the node is alone then."""
    async with served_sse(http=http) as world, world.source("A") as source:
        await source.next("snapshot")
        world.commit((1, "A"))
        world.node.feed._hub.flush()
        world.node.connections.farewell()
        assert zones_of(await source.next("changes")) == {"A": 1}
        with pytest.raises(StreamEndedError):
            await source.event()
        await world.until_alone()
        assert await world.metric("connections_closed_total", transport="sse", code="3001") == 1
        assert await world.metric("sent_bytes_total", transport="sse") > 100


async def test_who_reads_slowly_is_held_back_and_brought_up_to_date() -> None:
    """What waits is bounded, and so is how long."""
    async with served_sse(http="httptools", slow_buffer_max_bytes=200_000) as world:
        async with stuck_reader(world, "?zone=A&zone=B") as reader:
            stream = only_stream(world)
            while not stream.congested:
                await flood(world, 2)
            most = stream.queued_bytes
            await flood(world, 50)
            assert world.node.feed.slow_count == 1
            assert stream.queued_bytes <= most
            last = world.truth.heads["zone:B"].rev
            await reader.read_until(b"B=e1:%d\n" % last)
            assert world.node.feed.slow_count == 0
        await world.until_alone()


async def test_who_never_reads_is_let_go() -> None:
    """The node has no more to do with it; the connection ends when its server finds out."""
    async with (
        served_sse(
            http="httptools",
            slow_buffer_max_bytes=100_000,
            slow_drain_timeout_s=0.5,
            shutdown_timeout_s=0.5,
        ) as world,
        stuck_reader(world, "?zone=A&zone=B"),
    ):
        stream = only_stream(world)
        while not stream.congested:
            await flood(world, 2)
        await world.until_alone()
        assert stream.close_code == 3008
        assert await world.metric("subscriptions") == 0


async def test_an_abort_ends_a_stream_at_once() -> None:
    """Also when there is nothing to write."""
    async with served_sse(http="httptools") as world, world.source("A") as source:
        await source.next("snapshot")
        await asyncio.sleep(0)
        only_stream(world).abort()
        await world.until_alone()
        assert await world.metric("connections_closed_total", transport="sse", code="1006") == 1
