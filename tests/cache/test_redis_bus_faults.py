"""The Redis bus while Redis is away, frozen, restarted, or hangs up."""

from __future__ import annotations

import asyncio
import time

import pytest
from redis.asyncio import Redis

from cache.bus_config import BusConfig
from channels.ports import BusState, UnavailableError
from tests.cache.conftest import QUICK, redis_node
from tests.cache.nodes import WAIT_S, BusNode, running, transaction, wait_live
from tests.servers import RedisServer


@pytest.fixture
def pair(own_redis: RedisServer) -> tuple[BusNode, BusNode]:
    """Two nodes on a Redis of the test's own."""
    return redis_node(own_redis.url, "a", QUICK), redis_node(own_redis.url, "b", QUICK)


async def until_state(node: BusNode, state: BusState) -> None:
    """Wait until a bus is in a state that it enters by itself."""
    async with asyncio.timeout(WAIT_S):
        # The port has no event for becoming worse; the state is read as callers read it.
        while node.bus.state is not state:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def until_settled(node: BusNode) -> None:
    """Wait until a node has made up for the raise of the fence that it owes."""
    async with asyncio.timeout(WAIT_S):
        # The heartbeat that does it tells nobody.
        while not node.invalidation.trusts_redis:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def refusal_s(node: BusNode) -> float:
    """Publish what can't be sent; returns how long the refusal took."""
    before_s = time.monotonic()
    with pytest.raises(UnavailableError):
        await node.bus.publish([transaction(99, "zone:A")])
    return time.monotonic() - before_s


async def test_a_restarted_redis_is_found_again(
    pair: tuple[BusNode, BusNode], own_redis: RedisServer
) -> None:
    """After a crash everything is subscribed anew, and a gap is told once it is."""
    writer, reader = pair
    async with running(writer, reader):
        assert await reader.bus.subscribe("zone:A")
        await reader.listener.until(lambda: reader.listener.gaps >= 1)
        await own_redis.kill()
        await until_state(writer, BusState.DOWN)
        await until_state(reader, BusState.DOWN)
        assert await refusal_s(writer) < 0.1
        await own_redis.start()
        await reader.listener.until(lambda: reader.listener.gaps >= 2)
        await wait_live(writer)
        await writer.bus.publish([transaction(1, "zone:A")])
        await reader.listener.until_heard("zone:A", 1)


async def test_interest_raised_while_redis_is_away_is_kept(
    pair: tuple[BusNode, BusNode], own_redis: RedisServer
) -> None:
    """It is not waited for, and registered by the reconnect, which tells of a gap."""
    writer, reader = pair
    await own_redis.kill()
    async with running(writer, reader, live=False):
        before_s = time.monotonic()
        assert not await reader.bus.subscribe("zone:A")
        assert not await reader.bus.subscribe("zone:B")
        assert time.monotonic() - before_s < 0.1
        reader.bus.unsubscribe("zone:B")
        await own_redis.start()
        await wait_live(writer, reader)
        await reader.listener.until(lambda: reader.listener.gaps >= 1)
        await writer.bus.publish([transaction(1, "zone:A", "zone:B")])
        await reader.listener.until_heard("zone:A", 1)
    assert reader.listener.revs("zone:B") == []


async def test_a_frozen_redis_costs_one_bounded_wait(
    pair: tuple[BusNode, BusNode], own_redis: RedisServer
) -> None:
    """The first write waits for its bound, the next ones not at all."""
    writer, reader = pair
    async with running(writer, reader):
        own_redis.sigstop()
        first_s = await refusal_s(writer)
        assert first_s < QUICK.publish_timeout_s + 0.5
        later_s = [await refusal_s(writer) for _ in range(100)]
        assert sum(later_s) < QUICK.publish_timeout_s
        own_redis.sigcont()
        await wait_live(writer, reader)


async def test_a_frozen_redis_is_deaf_until_it_goes_on(
    pair: tuple[BusNode, BusNode], own_redis: RedisServer
) -> None:
    """The state tells within `deaf_after_s`; afterwards the node hears again, after a gap."""
    writer, reader = pair
    async with running(writer, reader):
        await reader.bus.subscribe("zone:A")
        await reader.listener.until(lambda: reader.listener.gaps >= 1)
        own_redis.sigstop()
        before_s = time.monotonic()
        await until_state(reader, BusState.DEAF)
        assert time.monotonic() - before_s < QUICK.deaf_after_s + 0.5
        assert not await reader.bus.subscribe("zone:B")
        # Long enough for attempts to reconnect, none of which gets an answer.
        await asyncio.sleep(2 * QUICK.deaf_after_s)
        assert reader.bus.state is BusState.DEAF
        gaps = reader.listener.gaps
        own_redis.sigcont()
        await wait_live(writer, reader)
        await reader.listener.until(lambda: reader.listener.gaps > gaps)
        await writer.bus.publish([transaction(1, "zone:A"), transaction(2, "zone:B")])
        await reader.listener.until_heard("zone:B", 2)
    assert 1 in reader.listener.revs("zone:A")


async def test_a_short_freeze_costs_no_connection(
    own_redis: RedisServer,
) -> None:
    """A Redis that goes on within `deaf_after_s` is used on, once a heartbeat came back."""
    patient = BusConfig(publish_timeout_s=0.2, heartbeat_interval_s=0.1, deaf_after_s=30)
    node = redis_node(own_redis.url, "a", patient)
    async with running(node):
        own_redis.sigstop()
        await refusal_s(node)
        assert node.bus.state is BusState.DEAF
        own_redis.sigcont()
        await wait_live(node)
        await node.bus.publish([transaction(1, "zone:A")])
        assert node.bus.counters.connects == 1  # type: ignore[union-attr] # A Redis bus.


async def test_a_cut_subscription_is_made_anew(
    pair: tuple[BusNode, BusNode], own_redis: RedisServer
) -> None:
    """CLIENT KILL, as for a reader that is too slow: reconnect, subscribe all, tell the gap."""
    writer, reader = pair
    async with running(writer, reader):
        assert await reader.bus.subscribe("zone:A")
        await reader.listener.until(lambda: reader.listener.gaps >= 1)
        async with Redis.from_url(own_redis.url) as admin:
            assert await admin.client_kill_filter(_type="pubsub") == 2
        await reader.listener.until(lambda: reader.listener.gaps >= 2)
        await wait_live(writer)
        await writer.bus.publish([transaction(1, "zone:A")])
        await reader.listener.until_heard("zone:A", 1)


async def test_a_cut_publisher_fails_one_publication_at_most(own_redis: RedisServer) -> None:
    """A connection that died unnoticed is replaced, and the subscriptions stay."""
    writer, reader = (redis_node(own_redis.url, name, BusConfig()) for name in ("a", "b"))
    async with running(writer, reader):
        await reader.bus.subscribe("zone:A")
        await writer.bus.publish([transaction(1, "zone:A")])
        async with Redis.from_url(own_redis.url) as admin:
            assert await admin.client_kill_filter(_type="normal", skipme=True) >= 2
        for rev in (2, 3):
            await wait_live(writer)
            try:
                await writer.bus.publish([transaction(rev, "zone:A")])
            except UnavailableError:
                assert rev == 2
        await reader.listener.until_heard("zone:A", 3)
        assert reader.listener.gaps == 1


async def test_a_failed_raise_of_the_fence_is_made_up_for(
    pair: tuple[BusNode, BusNode], own_redis: RedisServer
) -> None:
    """Until then this node trusts nothing in Redis; then the old dict is gone there."""
    writer, reader = pair
    async with running(writer, reader), Redis.from_url(own_redis.url) as admin:
        await admin.mset({"{zonecast:users}:fence": "f", "{zonecast:users}:value": "old"})
        own_redis.sigstop()
        await refusal_s(writer)
        assert not writer.invalidation.trusts_redis
        assert reader.invalidation.trusts_redis
        there = reader.invalidation.generation
        own_redis.sigcont()
        await wait_live(writer, reader)
        await until_settled(writer)
        assert await admin.exists("{zonecast:users}:fence", "{zonecast:users}:value") == 0
        assert reader.invalidation.generation > there


async def test_a_cancelled_publication_owes_the_fence(
    pair: tuple[BusNode, BusNode], own_redis: RedisServer
) -> None:
    """Nobody knows whether it was raised, so it is raised again."""
    writer, _ = pair
    async with running(writer):
        own_redis.sigstop()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await writer.bus.publish([transaction(1, "zone:A")])
        assert not writer.invalidation.trusts_redis
        own_redis.sigcont()
        await wait_live(writer)
        await until_settled(writer)


async def test_cancelling_a_bus_that_cannot_connect_leaves_nothing(own_redis: RedisServer) -> None:
    """At any moment of an attempt: refused, hung in the handshake, or waiting for the next."""
    before = asyncio.all_tasks()
    for stop in (own_redis.sigstop, None):
        if stop is None:
            await own_redis.kill()
        else:
            stop()
        for delay_s in (0.0, 0.001, 0.01, 0.1, 0.35):
            node = redis_node(own_redis.url, "a", QUICK)
            async with running(node, live=False):
                await asyncio.sleep(delay_s)
            assert asyncio.all_tasks() == before
            assert node.bus.state is BusState.DOWN


async def test_a_stopped_bus_leaves_no_connection(
    pair: tuple[BusNode, BusNode], own_redis: RedisServer
) -> None:
    """The server sees two clients a node come, under their names, and go."""
    async with Redis.from_url(own_redis.url) as admin:
        async with running(*pair):
            await pair[0].bus.publish([transaction(1, "zone:A")])
            names = {client["name"] for client in await admin.client_list()}
            assert names >= {"zonecast:a:sub", "zonecast:a:pub", "zonecast:b:sub"}
        async with asyncio.timeout(WAIT_S):
            # The server notices a hang-up in its own time, and tells nobody.
            while len(await admin.client_list()) > 1:  # noqa: ASYNC110
                await asyncio.sleep(0.005)


async def test_garbage_is_counted_and_dropped(
    pair: tuple[BusNode, BusNode], own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever else publishes on our channels disturbs nobody, nor fills the log with it."""
    writer, reader = pair
    async with running(writer, reader), Redis.from_url(own_redis.url) as admin:
        await reader.bus.subscribe("zone:A")
        for channel in ("zonecast:c:zone:A", "zonecast:all", "zonecast:node:b"):
            for data in (b"", b"\xff\x00", b"{}", b"users", b"[" * 50_000, b"secret"):
                await admin.publish(channel, data)
        await writer.bus.publish([transaction(1, "zone:A")])
        await reader.listener.until_heard("zone:A", 1)
        assert reader.bus.counters.malformed == 6  # type: ignore[union-attr] # A Redis bus.
        assert reader.bus.state is BusState.LIVE
    assert reader.listener.revs("zone:A") == [1]
    assert "secret" not in caplog.text


async def test_a_message_of_a_newer_release_is_a_gap(
    pair: tuple[BusNode, BusNode], own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Heads are compared for what can't be read; the log says so once, and the bus goes on."""
    writer, reader = pair
    async with running(writer, reader), Redis.from_url(own_redis.url) as admin:
        await reader.bus.subscribe("zone:A")
        await reader.listener.until(lambda: reader.listener.gaps >= 1)
        gaps, generation = reader.listener.gaps, reader.invalidation.generation
        for _ in range(3):
            await admin.publish("zonecast:c:zone:A", b'{"v":2,"secret":1}')
        await writer.bus.publish([transaction(1, "zone:A")])
        await reader.listener.until_heard("zone:A", 1)
        assert reader.listener.gaps == gaps + 3
        assert reader.invalidation.generation > generation
        assert reader.bus.counters.newer == 3  # type: ignore[union-attr] # A Redis bus.
        assert reader.bus.counters.malformed == 0  # type: ignore[union-attr] # As before.
    assert caplog.text.count("an envelope of version 2") == 1
    assert "secret" not in caplog.text


async def test_a_notice_of_a_newer_release_drops_the_near_copy(
    pair: tuple[BusNode, BusNode], own_redis: RedisServer
) -> None:
    """What isn't understood may be an invalidation, so it counts as one."""
    _, reader = pair
    async with running(reader), Redis.from_url(own_redis.url) as admin:
        await reader.listener.until(lambda: reader.listener.gaps >= 1)
        before = reader.invalidation.generation
        await admin.publish("zonecast:all", b'{"v":2,"dicts":["users","zones"]}')
        async with asyncio.timeout(WAIT_S):
            while reader.invalidation.generation == before:  # noqa: ASYNC110 - It tells nobody.
                await asyncio.sleep(0.005)


async def test_a_large_change_comes_as_its_position(pair: tuple[BusNode, BusNode]) -> None:
    """Over the limit only the position travels, and so for very wide transactions."""
    writer, reader = pair
    events = tuple(transaction(1, "zone:A").changes[0].events) * 2_000
    wide = [f"zone:{i}" for i in range(150)]
    async with running(writer, reader):
        await reader.bus.subscribe("zone:A")
        await reader.bus.subscribe("zone:7")
        await writer.bus.publish([transaction(1, "zone:A", events=events), transaction(2, *wide)])
        await reader.listener.until_heard("zone:7", 2)
    assert [message.events for message in reader.listener.messages] == [None, None]
    assert reader.listener.messages[1].parts == ()


async def test_thousands_of_channels_survive_a_reconnect(
    pair: tuple[BusNode, BusNode], own_redis: RedisServer
) -> None:
    """All are confirmed, in few commands, and again after the connection was lost."""
    writer, reader = pair
    channels = [f"zone:{i}" for i in range(5_000)]
    async with running(writer, reader):
        async with asyncio.TaskGroup() as group:
            for channel in channels:
                group.create_task(reader.bus.subscribe(channel))
        async with Redis.from_url(own_redis.url) as admin:
            # The stock counts commands, not channels: one for each would be thousands.
            stats = await admin.info("commandstats")
            assert stats["cmdstat_subscribe"]["calls"] < 100
            gaps = reader.listener.gaps
            await admin.client_kill_filter(_type="pubsub")
        await reader.listener.until(lambda: reader.listener.gaps > gaps)
        await wait_live(writer, reader)
        for first in range(0, 5_000, 500):
            await writer.bus.publish([transaction(1, c) for c in channels[first : first + 500]])
        await reader.listener.until(lambda: len(reader.listener.messages) >= 5_000)
        # At first a busy machine may have confirmed late, which is a gap and no loss.
        assert all([await reader.bus.subscribe(channel) for channel in channels])
    assert {message.channel for message in reader.listener.messages} == set(channels)
