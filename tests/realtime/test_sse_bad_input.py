"""Bad input, a full node, a database that is gone, and clients that don't read."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from channels.feed import FeedConfig
from channels.repairs import FollowerConfig
from tests.realtime.sse_world import SseWorld, served_sse
from tests.realtime.stuck_reader import flood, only_stream, stuck_reader
from tests.realtime.wire_world import until


async def problem(world: SseWorld, query: str, **headers: str) -> httpx.Response:
    """Ask for a stream that isn't to be had."""
    async with httpx.AsyncClient(trust_env=False) as client:
        response = await client.get(f"{world.url}/sse{query}", headers=headers)
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["status"] == response.status_code
    return response


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 422),
        ("?zone=", 422),
        ("?zone=A%20B", 422),
        ("?zone=" + "x" * 65, 422),
        ("?zone=" + "&zone=".join(f"Z{number}" for number in range(65)), 422),
        ("?zone=nowhere", 404),
        ("?zone=A&zone=nowhere", 404),
        ("?zone=A&since=A", 400),
        ("?zone=A&since=A%3De1%3A-1", 400),
        ("?zone=A&since=A%3De1%3A9007199254740992", 400),
    ],
)
async def test_bad_requests_are_refused_before_the_stream_begins(query: str, status: int) -> None:
    """Each with a problem, and nothing is left behind."""
    async with served_sse() as world:
        assert (await problem(world, query)).status_code == status
        assert len(world.node.connections) == 0
        assert world.node.feed.follower.replicas.keys() <= {"zone:A"}


async def test_a_zone_named_twice_is_watched_once() -> None:
    """It counts once, and its changes come once."""
    async with served_sse(sse_max_zones=1) as world, world.source("A", "A") as source:
        await source.next("snapshot")
        world.commit((1, "A"))
        assert len((await source.next("changes"))["zones"]) == 1


async def test_other_methods_are_refused_and_head_opens_no_stream() -> None:
    """A stream is only read."""
    async with served_sse() as world, httpx.AsyncClient(trust_env=False) as client:
        assert (await client.post(f"{world.url}/sse?zone=A")).status_code == 405
        head = await client.head(f"{world.url}/sse?zone=A")
        assert head.headers["content-type"].startswith("text/event-stream")
        await world.until_alone()


async def test_a_full_node_says_when_to_come_back() -> None:
    """One more than the limit gets 503, and there is room again when somebody leaves."""
    async with served_sse(max_connections=1) as world:
        async with world.source("A") as source:
            await source.next("snapshot")
            response = await problem(world, "?zone=A")
            assert response.status_code == 503
            assert int(response.headers["retry-after"]) >= 1
        await world.until_alone()
        async with world.source("A") as source:
            await source.next("snapshot")


async def test_without_the_database_new_zones_wait_and_followed_ones_are_served() -> None:
    """503 where nothing is known; who comes to a zone that is followed gets the known state."""
    async with served_sse() as world, world.source("A") as keeper:
        await keeper.next("snapshot")
        world.truth.down = True
        response = await problem(world, "?zone=B")
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) >= 1
        async with world.source("A") as source:
            await source.next("snapshot")


async def test_a_database_that_does_not_answer_does_not_hold_the_request() -> None:
    """The wait ends with 503 at the bound of requests."""
    async with served_sse(request_timeout_s=0.2) as world:
        world.truth.gate.clear()
        assert (await problem(world, "?zone=A")).status_code == 503
        world.truth.gate.set()
        assert len(world.node.connections) == 0


async def test_a_zone_too_large_for_a_snapshot_is_refused() -> None:
    """The problem names where to read it page by page."""
    async with served_sse(snapshot_max_bytes=1_000) as world:
        world.commit(*((number, "A") for number in range(1, 50)))
        response = await problem(world, "?zone=A")
        assert response.status_code == 413
        assert "/users?zone_id=A" in response.json()["detail"]


async def test_who_reads_slowly_is_brought_up_to_date_with_bounded_memory() -> None:
    """While it is stuck nothing piles up beyond the limit; then it gets to where the truth is."""
    limit = 200_000
    feed = FeedConfig(following=FollowerConfig(resume_max_changes=20, linger_s=0.01))
    async with served_sse(slow_buffer_max_bytes=limit, feed=feed) as world:
        async with stuck_reader(world, "?zone=A&zone=B") as reader:
            stream = only_stream(world)
            while not stream.congested:
                await flood(world, 2)
            most = stream.queued_bytes
            await flood(world, 200)
            assert world.node.feed.slow_count == 1
            assert stream.queued_bytes <= most
            last = world.truth.heads["zone:B"].rev
            await reader.read_until(b"B=e1:%d\n" % last)
            assert world.node.feed.slow_count == 0
            world.commit((999, "B"))
            await reader.read_until(b"B=e1:%d\n" % (last + 1))
        await world.until_alone()


async def test_who_never_reads_is_cut() -> None:
    """After the bound the connection is aborted, buffers included."""
    async with served_sse(slow_buffer_max_bytes=100_000, slow_drain_timeout_s=0.5) as world:
        async with stuck_reader(world, "?zone=A&zone=B") as reader:
            stream = only_stream(world)
            while not stream.congested:
                await flood(world, 2)
            await world.until_alone()
            assert stream.close_code == 3008
            await until(lambda: not world.server.server_state.connections)
            await reader.read_until_closed()
        assert world.node.feed.channels_of(stream) == frozenset()
        assert await world.metric("subscriptions") == 0


async def test_a_snapshot_in_flight_does_not_make_a_stream_slow() -> None:
    """A large state and few changes: nobody is held back, and the order is kept."""
    async with served_sse(slow_buffer_max_bytes=50_000) as world:
        world.commit(*((number, "A") for number in range(1, 20_001)))
        async with stuck_reader(world, "?zone=A") as reader:
            world.commit((1, "B"))
            await asyncio.sleep(0)
            assert not only_stream(world).congested
            await reader.read_until(b"A=e1:2\n")
            assert reader.received.count(b"event: snapshot") == 1
            assert reader.received.index(b"A=e1:1\n") < reader.received.index(b"A=e1:2\n")
