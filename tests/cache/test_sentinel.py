"""Redis behind a Sentinel: bus and cache follow the master wherever it goes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from cache.bus_config import BusConfig
from cache.client import Connector, RedisConfig, reason_of
from cache.invalidation import Invalidation
from cache.redis_bus import RedisBus
from tests.cache.conftest import QUICK, redis_node
from tests.cache.nodes import WAIT_S, BusNode, running, transaction, wait_live
from tests.processes import Scratch
from tests.sentinels import RedisTrio, running_trio
from tests.servers import Binaries

SECRET = "hush-hush"  # noqa: S105 -- What must not be shown.


@pytest.fixture
async def trio(redis_binaries: Binaries, scratch: Scratch) -> AsyncIterator[RedisTrio]:
    """A primary, a replica and a Sentinel, which fails over within seconds."""
    async with running_trio(redis_binaries, scratch, down_after_s=0.5) as trio:
        yield trio


async def clients_of(port: int) -> set[str]:
    """Return the names of a server's clients."""
    async with Redis(port=port) as admin:
        return {client["name"] for client in await admin.client_list()}


async def until_moved(*nodes: BusNode, port: int, name: str) -> None:
    """Wait until a server has a client, and all nodes are live."""
    async with asyncio.timeout(WAIT_S):
        # Servers tell nobody who comes.
        while name not in await clients_of(port):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    await wait_live(*nodes)


@asynccontextmanager
async def deaf_server() -> AsyncIterator[int]:
    """Run what accepts connections and answers nothing; yields its port."""
    ends = asyncio.Event()

    async def hold(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ends.wait()
        writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        ends.set()
        server.close()


async def test_a_planned_failover_takes_all_nodes_along(trio: RedisTrio) -> None:
    """The old master goes on as one for ten seconds, and yet nobody stays with it."""
    writer, reader = (redis_node(trio.sentinel.url, name, QUICK) for name in ("a", "b"))
    async with running(writer, reader):
        assert await reader.bus.subscribe("zone:A")
        await reader.listener.until(lambda: reader.listener.gaps >= 1)
        old, gaps = trio.primary, reader.listener.gaps
        await trio.fail_over()
        for name in ("zonecast:a:sub", "zonecast:b:sub"):
            await until_moved(writer, reader, port=trio.primary.port, name=name)
        await reader.listener.until(lambda: reader.listener.gaps > gaps)
        await writer.bus.publish([transaction(1, "zone:A")])
        await reader.listener.until_heard("zone:A", 1)
        async with Redis(port=old.port) as admin:
            assert (await admin.info("replication"))["role"] == "master"
        left = await clients_of(old.port)
        assert not left & {"zonecast:a:sub", "zonecast:b:sub"}


async def test_after_a_crash_the_replica_is_found(trio: RedisTrio) -> None:
    """Also when the old master comes back: it is a replica then."""
    writer, reader = (redis_node(trio.sentinel.url, name, QUICK) for name in ("a", "b"))
    async with running(writer, reader):
        assert await reader.bus.subscribe("zone:A")
        await reader.listener.until(lambda: reader.listener.gaps >= 1)
        gaps = reader.listener.gaps
        await trio.primary.kill()
        await trio.until_taken_over()
        await trio.replica.start()
        await reader.listener.until(lambda: reader.listener.gaps > gaps)
        await wait_live(writer, reader)
        await writer.bus.publish([transaction(1, "zone:A")])
        await reader.listener.until_heard("zone:A", 1)
        there = await clients_of(trio.primary.port)
        assert there >= {"zonecast:a:sub", "zonecast:a:pub", "zonecast:b:sub"}


async def test_the_cache_reads_no_server_that_the_bus_has_left(trio: RedisTrio) -> None:
    """One connector knows the master for both: what the old one holds is never served."""
    config = RedisConfig(trio.sentinel.url, command_timeout_s=1, connect_timeout_s=1)
    connector = Connector(config)
    client = connector.create_client(name="cache", max_connections=2)
    invalidation = Invalidation()
    node = BusNode(RedisBus(connector, "a", invalidation, QUICK), invalidation)
    async with running(node):
        await client.set("key", "old")
        old = trio.primary
        await trio.fail_over()
        await until_moved(node, port=trio.primary.port, name="zonecast:a:sub")
        async with Redis(port=trio.primary.port) as admin:
            await admin.set("key", "new")
        async with Redis(port=old.port) as admin:
            assert await admin.get("key") == b"old"
        assert await client.get("key") == b"new"
    await client.aclose()


async def test_a_server_that_is_no_master_is_refused(
    trio: RedisTrio, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the Sentinel says: a replica would take what is published, for itself."""
    caplog.set_level(logging.INFO)
    async with Redis(port=trio.primary.port) as admin:
        await admin.slaveof("127.0.0.1", trio.replica.port)
    node = redis_node(trio.sentinel.url, "a", QUICK)
    client = Connector(RedisConfig(trio.sentinel.url)).create_client(name="c", max_connections=1)
    async with running(node, live=False), asyncio.timeout(WAIT_S):
        # The log is where operators look.
        while f"127.0.0.1:{trio.primary.port} is no master" not in caplog.text:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        with pytest.raises(RedisConnectionError, match="is no master"):
            await client.get("key")
    await client.aclose()


async def test_a_sentinel_that_hangs_lets_the_next_be_asked(trio: RedisTrio) -> None:
    """Each has a share of the time in which a connection has to be made."""
    async with deaf_server() as port:
        url = trio.sentinel.url.replace("127.0.0.1:", f"127.0.0.1:{port},127.0.0.1:")
        node = redis_node(url, "a", BusConfig())
        async with running(node):
            await node.bus.publish([transaction(1, "zone:A")])


async def test_without_sentinels_the_reason_is_one_line_without_secrets(
    trio: RedisTrio, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither their own password is shown, nor that of Redis."""
    caplog.set_level(logging.INFO)
    await trio.sentinel.stop()
    url = trio.sentinel.url.replace("://", f"://user:{SECRET}@")
    connector = Connector(RedisConfig(f"{url}?sentinel_password={SECRET}"))
    client = connector.create_client(name="cache", max_connections=1)
    with pytest.raises(
        RedisConnectionError, match="no Sentinel tells of a working master"
    ) as caught:
        await client.ping()
    bus = RedisBus(connector, "a", Invalidation(), QUICK)
    node = BusNode(bus, Invalidation())
    async with running(node, live=False), asyncio.timeout(WAIT_S):
        # As before.
        while "no Sentinel tells" not in caplog.text:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert "connecting to 127.0.0.1" in reason_of(caught.value)
    shown = " ".join([caplog.text, repr(bus), repr(client), reason_of(caught.value)])
    assert SECRET not in shown
    await client.aclose()


async def test_redis_is_used_on_while_the_sentinels_are_away(trio: RedisTrio) -> None:
    """They are needed to find the master, not to talk to it."""
    node = redis_node(trio.sentinel.url, "a", QUICK)
    async with running(node):
        await trio.sentinel.stop()
        # Long enough to ask them several times.
        await asyncio.sleep(6 * QUICK.heartbeat_interval_s)
        await node.bus.publish([transaction(1, "zone:A")])
        assert node.bus.counters.connects == 1  # type: ignore[union-attr] # A Redis bus.
