"""A Redis Cluster while its masters fail, freeze and hand slots on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from cache.client import Connector, RedisConfig
from cache.cluster_bus import ClusterBus
from cache.cluster_map import ClusterMap, MalformedMapError, slot_of
from channels.ports import BusState, UnavailableError
from tests.cache.conftest import QUICK, redis_node
from tests.cache.nodes import WAIT_S, BusNode, running, transaction, wait_live
from tests.cache.shelves import FENCE, VALUE, Source, new_shelf
from tests.clusters import ClusterServer, RedisCluster, running_cluster
from tests.processes import Scratch
from tests.servers import Binaries

ZONES = [f"zone:{letter}" for letter in "ABCDEFGH"]


@pytest.fixture
async def cluster(redis_binaries: Binaries, scratch: Scratch) -> AsyncIterator[RedisCluster]:
    """Three masters of the test's own."""
    async with running_cluster(redis_binaries, scratch, silence_ms=10_000) as cluster:
        yield cluster


@pytest.fixture
async def doubled(redis_binaries: Binaries, scratch: Scratch) -> AsyncIterator[RedisCluster]:
    """Three masters with a replica each, which takes over within seconds."""
    async with running_cluster(
        redis_binaries, scratch, with_replicas=True, silence_ms=500
    ) as cluster:
        yield cluster


def pair(cluster: RedisCluster) -> tuple[BusNode, BusNode]:
    """Make two nodes."""
    return redis_node(cluster.url, "a", QUICK), redis_node(cluster.url, "b", QUICK)


def key_of(channel: str) -> str:
    """Return a channel's name on the servers."""
    return f"zonecast:c:{channel}"


async def until_state(node: BusNode, *states: BusState) -> None:
    """Wait until a bus is in one of the states, which it enters by itself."""
    async with asyncio.timeout(WAIT_S):
        # The port has no event for becoming worse.
        while node.bus.state not in states:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def losses_of(node: BusNode) -> int:
    """Return how many links to masters a node has given up."""
    assert isinstance(node.bus, ClusterBus)
    return node.bus.counters.losses


async def follow_all(node: BusNode, channels: list[str]) -> None:
    """Subscribe to channels and wait until everything so far is confirmed and told."""
    for channel in channels:
        assert await node.bus.subscribe(channel)


async def by_server(cluster: RedisCluster) -> dict[int, list[str]]:
    """Return zones' channels by the port of their masters."""
    found: dict[int, list[str]] = {}
    for channel in ZONES:
        server = await cluster.owner_of(key_of(channel))
        found.setdefault(server.port, []).append(channel)
    return found


async def test_each_master_carries_its_own_channels(cluster: RedisCluster) -> None:
    """Channels are the shard key: a node has a connection to each master, and no more."""
    writer, reader = pair(cluster)
    async with running(writer, reader):
        await follow_all(reader, ZONES)
        await writer.bus.publish([transaction(1, *ZONES)])
        for channel in ZONES:
            await reader.listener.until_heard(channel, 1)
        carried = await by_server(cluster)
        assert len(carried) == len(cluster.servers)
        for server in cluster.servers:
            own = set(await server.ask("PUBSUB SHARDCHANNELS", "zonecast:c:zone:*"))
            assert own == {key_of(channel) for channel in carried[server.port]}
            names = [client["name"] for client in await server.ask("CLIENT LIST")]
            assert names.count("zonecast:b:sub") == 1


async def test_a_frozen_master_is_noticed_and_holds_up_nobody_else(cluster: RedisCluster) -> None:
    """Its heartbeat tells; its channels cost one bounded wait, the others' go on."""
    writer, reader = pair(cluster)
    async with running(writer, reader):
        await follow_all(reader, ZONES)
        fence_at = await cluster.owner_of(FENCE)
        frozen = next(s for s in cluster.servers if s is not fence_at)
        carried = await by_server(cluster)
        theirs = carried.pop(frozen.port)
        others = [channel for channels in carried.values() for channel in channels]
        losses = [losses_of(node) for node in (reader, writer)]
        frozen.sigstop()
        await until_state(reader, BusState.DEAF)
        await until_state(writer, BusState.DEAF)
        # A publication that isn't answered tells it first; then the link is given up.
        async with asyncio.timeout(WAIT_S):
            while any(  # noqa: ASYNC110 - as above
                losses_of(node) == before
                for node, before in zip((reader, writer), losses, strict=True)
            ):
                await asyncio.sleep(0.005)
        before_s = time.monotonic()
        for rev in range(1, 21):
            with pytest.raises(UnavailableError):
                await writer.bus.publish([transaction(rev, *ZONES)])
        assert time.monotonic() - before_s < QUICK.publish_timeout_s + 2
        for channel in others:
            await reader.listener.until_heard(channel, 20)
        assert not await reader.bus.subscribe(f"{theirs[0]}")
        gaps = reader.listener.gaps
        frozen.sigcont()
        await reader.listener.until(lambda: reader.listener.gaps > gaps)
        await wait_live(writer, reader)
        await writer.bus.publish([transaction(21, theirs[0])])
        await reader.listener.until_heard(theirs[0], 21)


async def test_a_replica_takes_over_from_a_killed_master(doubled: RedisCluster) -> None:
    """All nodes follow to it; what was missed meanwhile is told as a gap."""
    writer, reader = pair(doubled)
    async with running(writer, reader):
        await follow_all(reader, ZONES)
        await reader.listener.until(lambda: reader.listener.gaps >= 3)
        killed = await doubled.owner_of(key_of("zone:A"))
        gaps = reader.listener.gaps
        await killed.kill()
        await until_state(writer, BusState.DOWN, BusState.DEAF)
        await until_state(reader, BusState.DOWN, BusState.DEAF)
        async with asyncio.timeout(30):
            await writer.bus.wait_live()
            await reader.bus.wait_live()
        await reader.listener.until(lambda: reader.listener.gaps > gaps)
        await writer.bus.publish([transaction(1, *ZONES)])
        for channel in ZONES:
            await reader.listener.until_heard(channel, 1)
        assert await doubled.owner_of(key_of("zone:A")) is not killed


async def test_a_planned_failover_takes_all_nodes_along(doubled: RedisCluster) -> None:
    """The old master lives on as a replica, which would take subscriptions."""
    writer, reader = pair(doubled)
    async with running(writer, reader):
        await follow_all(reader, ZONES)
        old = await doubled.owner_of(key_of("zone:A"))
        heir = await doubled.replica_of(old)
        await heir.ask("CLUSTER FAILOVER")
        async with asyncio.timeout(WAIT_S):
            # Servers tell nobody who comes.
            while "zonecast:b:sub" not in await names_of(heir):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        await wait_live(writer, reader)
        await writer.bus.publish([transaction(1, *ZONES)])
        for channel in ZONES:
            await reader.listener.until_heard(channel, 1)
        async with asyncio.timeout(WAIT_S):
            while "zonecast:b:sub" in await names_of(old):  # noqa: ASYNC110 - as before
                await asyncio.sleep(0.02)


async def names_of(server: ClusterServer) -> set[str]:
    """Return the names of a server's clients."""
    return {client["name"] for client in await server.ask("CLIENT LIST")}


async def test_a_slot_that_moves_takes_its_channel_along(cluster: RedisCluster) -> None:
    """While changes flow: none is published into the void, and readers are told of the gap."""
    writer, reader = pair(cluster)
    revs = iter(range(1, 1_000_000))
    sent: list[int] = []
    stop = asyncio.Event()

    async def write() -> None:
        while not stop.is_set():
            rev = next(revs)
            await writer.bus.publish([transaction(rev, "zone:A", "zone:B")])
            sent.append(rev)
            await asyncio.sleep(0.001)

    async with running(writer, reader):
        await follow_all(reader, ["zone:A", "zone:B"])
        source = await cluster.owner_of(key_of("zone:A"))
        target = next(server for server in cluster.servers if server is not source)
        losses = reader.bus.counters.losses  # type: ignore[union-attr] # A cluster's bus.
        async with asyncio.TaskGroup() as group:
            group.create_task(write())
            await reader.listener.until_heard("zone:A", 20)
            gaps = reader.listener.gaps
            await cluster.move_slot(key_of("zone:A"), target)
            await reader.listener.until(lambda: reader.listener.gaps > gaps)
            # From the gap on, everything is heard again.
            after = sent[-1] + 50
            await reader.listener.until_heard("zone:A", after)
            stop.set()
        heard = reader.listener.revs("zone:A")
        assert [rev for rev in range(after - 40, after + 1) if rev not in heard] == []
        assert heard == sorted(set(heard))
        assert await cluster.owner_of(key_of("zone:A")) is target
        # The other subscriptions of the two masters were not made anew for one slot.
        assert reader.bus.counters.losses == losses  # type: ignore[union-attr] # As before.


async def test_the_heartbeat_goes_another_way_when_its_slot_moves(cluster: RedisCluster) -> None:
    """A master is not given up because one slot of its many went."""
    (node,) = (redis_node(cluster.url, "a", QUICK),)
    async with running(node):
        source = cluster.servers[0]
        (own,) = await source.ask("PUBSUB SHARDCHANNELS", "zonecast:node:a:*")
        await cluster.move_slot(own, cluster.servers[1])
        async with asyncio.timeout(WAIT_S):
            ask = ("PUBSUB SHARDCHANNELS", "zonecast:node:a:*")
            while await source.ask(*ask) in ([], [own]):  # noqa: ASYNC110 - It tells nobody.
                await asyncio.sleep(0.02)
        await wait_live(node)


async def test_the_fence_is_raised_while_its_slot_moves(cluster: RedisCluster) -> None:
    """Keys that are half gone can't be deleted at once: the raise is owed, and then made."""
    writer, _ = pair(cluster)
    source = await cluster.owner_of(FENCE)
    target = next(server for server in cluster.servers if server is not source)
    async with running(writer):
        slot = slot_of(FENCE.encode())
        await source.ask("SET", FENCE, "f")
        await source.ask("SET", VALUE, "old")
        await target.ask("CLUSTER SETSLOT", slot, "IMPORTING", await source.node_id())
        await source.ask("CLUSTER SETSLOT", slot, "MIGRATING", await target.node_id())
        await source.ask("MIGRATE", "127.0.0.1", target.port, FENCE, 0, 5000)
        await writer.bus.publish([transaction(1, "zone:A")])
        assert not writer.invalidation.trusts_redis
        await source.ask("MIGRATE", "127.0.0.1", target.port, VALUE, 0, 5000)
        for server in (target, source):
            await server.ask("CLUSTER SETSLOT", slot, "NODE", await target.node_id())
        async with asyncio.timeout(WAIT_S):
            # The heartbeat that makes up for it tells nobody.
            while not writer.invalidation.trusts_redis:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        assert await target.ask("EXISTS", FENCE, VALUE) == 0


async def test_the_users_dict_is_cached_and_moves_with_its_slot(cluster: RedisCluster) -> None:
    """Fence and value share a slot, so scripts work, and clients follow a redirection."""
    source = Source()
    one, other = new_shelf(cluster.url), new_shelf(cluster.url)
    try:
        assert await one.version(source) == 1
        assert await other.version(source) == 1
        assert source.loads == 1
        owner = await cluster.owner_of(FENCE)
        assert await owner.ask("EXISTS", FENCE, VALUE) == 2
        await cluster.move_slot(FENCE, next(s for s in cluster.servers if s is not owner))
        third = new_shelf(cluster.url)
        assert await third.version(source) == 1
        await third.cache.close()
        other.cache.drop_near_copy()
        assert await other.version(source) == 1
        assert source.loads == 1
        await one.cache.invalidate_users_dict()
        one.cache.drop_near_copy()
        source.version = 2
        assert await one.version(source) == 2
    finally:
        for shelf in (one, other):
            await shelf.cache.close()


async def test_a_drop_by_hand_reaches_all_nodes(cluster: RedisCluster) -> None:
    """The notice goes over the shard that holds the dict."""
    (node,) = (redis_node(cluster.url, "a", QUICK),)
    shelf = new_shelf(cluster.url)
    async with running(node):
        # Of the heartbeats' first answers, and what else is told at the start.
        await node.listener.until(lambda: node.listener.gaps >= 3)
        before = node.invalidation.generation
        await shelf.cache.invalidate_users_dict()
        async with asyncio.timeout(WAIT_S):
            while node.invalidation.generation == before:  # noqa: ASYNC110 - It tells nobody.
                await asyncio.sleep(0.005)
    await shelf.cache.close()


async def test_an_incomplete_cluster_is_down_in_part(cluster: RedisCluster) -> None:
    """A slot that nobody serves is told by the state, and its changes are refused."""
    writer, _ = pair(cluster)
    for server in cluster.servers:
        await server.ask("CONFIG SET", "cluster-require-full-coverage", "no")
    async with running(writer):
        for server in cluster.servers:
            # Of every server's table: that a slot has no owner any more is not gossiped.
            await server.ask("CLUSTER DELSLOTS", slot_of(key_of("zone:A").encode()))
        writer.bus._stale.set()  # type: ignore[union-attr] # Else it is noticed in seconds.
        await until_state(writer, BusState.DOWN)
        with pytest.raises(UnavailableError):
            await writer.bus.publish([transaction(1, "zone:A")])


async def test_no_server_at_all_is_told_once(
    redis_binaries: Binaries, scratch: Scratch, caplog: pytest.LogCaptureFixture
) -> None:
    """In one line for each reason, however long it lasts; and it is cancelled at any moment."""
    node = redis_node("redis+cluster://:hush-hush@127.0.0.1:1,127.0.0.1:2", "a", QUICK)
    async with running(node, live=False):
        await asyncio.sleep(0.6)
        assert node.bus.state is BusState.DOWN
        assert not await node.bus.subscribe("zone:A")
    lines = [r for r in caplog.records if "does not answer" in r.getMessage()]
    assert 1 <= len(lines) <= 2
    assert "hush-hush" not in caplog.text


@pytest.mark.parametrize(
    "reply", [None, b"", [[0]], [[0, 1, [b"h"]]], [[0, 1, None]], [[0, 16_384, [b"h", 1, b"i"]]]]
)
def test_an_answer_that_is_no_map_is_refused(reply: object) -> None:
    """Whatever a server says, it is one error."""
    with pytest.raises(MalformedMapError):
        ClusterMap.of_reply(reply, ("host", 1))


def test_a_server_without_a_name_is_who_was_asked() -> None:
    """So Redis answers before it learnt its own address."""
    found = ClusterMap.of_reply([[0, 5, [b"", 7000, b"id"]]], ("host", 1))
    assert found.masters == {("host", 7000)}
    assert not found.is_complete


async def test_clients_of_a_server_that_is_no_cluster_say_so(redis_url: str) -> None:
    """The wrong kind of URL is told in the words of the server."""
    url = redis_url.replace("redis://", "redis+cluster://").removesuffix("/0")
    directory = Connector(RedisConfig(url)).cluster
    assert directory is not None
    assert not await directory.refresh()
    assert "cluster support disabled" in directory.failure


async def test_a_cluster_speaks_as_a_client_is_named(cluster: RedisCluster) -> None:
    """Operators find our connections by their names on each server, and they go at the end."""
    writer, reader = pair(cluster)
    async with running(writer, reader):
        await writer.bus.publish([transaction(1, *ZONES)])
        for server in cluster.servers:
            assert await names_of(server) >= {"zonecast:a:sub", "zonecast:a:pub"}
    async with asyncio.timeout(WAIT_S):
        for server in cluster.servers:
            async with Redis(port=server.port, decode_responses=True) as admin:
                while len(await admin.client_list()) > 1:  # noqa: ASYNC110 - It tells nobody.
                    await asyncio.sleep(0.01)
