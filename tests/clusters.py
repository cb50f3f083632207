"""A Redis Cluster of real processes: three masters, with replicas where a test wants them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast

from redis.asyncio import Redis
from redis.crc import key_slot

from tests.processes import Scratch, ServerStartError, free_port
from tests.servers import START_TRIES, Binaries, RedisServer

READY_TIMEOUT_S = 30.0
POLL_S = 0.05
MASTERS = 3
SLOTS = 16_384
REPLICA_KNOWN_S = 10.0


class ClusterServer(RedisServer):
    """One server of a cluster.

    Args:
        binaries: Redis's own.
        folder: Its working directory, log, and what it knows of the cluster.
        silence_ms: How long another one may be silent before it counts as failed.
    """

    def __init__(self, binaries: Binaries, folder: Path, silence_ms: int) -> None:
        super().__init__(binaries, folder)
        self.bus_port = free_port()
        self._silence_ms = silence_ms

    def command(self) -> list[str]:
        """Run the server in cluster mode."""
        settings = {
            "cluster-enabled": "yes",
            "cluster-config-file": "nodes.conf",
            "cluster-node-timeout": str(self._silence_ms),
            # The usual one, 10,000 above, may be taken by an outgoing connection.
            "cluster-port": str(self.bus_port),
        }
        arguments = [text for key, value in settings.items() for text in (f"--{key}", value)]
        return [*super().command(), *arguments]

    @contextlib.asynccontextmanager
    async def admin(self) -> AsyncIterator[Redis]:
        """Open a connection of its own, with text replies."""
        async with Redis(port=self.port, decode_responses=True, socket_timeout=5) as client:
            yield client

    async def ask(self, *words: object) -> Any:
        """Return the reply to one command."""
        async with self.admin() as client:
            return await client.execute_command(*words)  # type: ignore[no-untyped-call] # redis-py.

    async def node_id(self) -> str:
        """Return what the others call it."""
        return str(await self.ask("CLUSTER MYID"))


class RedisCluster:
    """Servers that share the keys.

    Attributes:
        servers: All, masters first as they were made.
    """

    def __init__(self, servers: Sequence[ClusterServer]) -> None:
        self.servers = list(servers)

    @property
    def url(self) -> str:
        """The URL by which nodes find all of them: it names two."""
        seeds = ",".join(f"127.0.0.1:{server.port}" for server in self.servers[:2])
        return f"redis+cluster://{seeds}"

    async def owner_of(self, key: str) -> ClusterServer:
        """Return the master of a key or sharded channel, as a majority has it."""
        slot = key_slot(key.encode())
        for server in self.servers:
            if not server.running:
                continue
            with contextlib.suppress(OSError):
                for first, last, master, *_ in await server.ask("CLUSTER SLOTS"):
                    if first <= slot <= last:
                        return self.at(int(master[1]))
        raise LookupError(key)

    def at(self, port: int) -> ClusterServer:
        """Return the server on a port."""
        return next(server for server in self.servers if server.port == port)

    async def replica_of(self, master: ClusterServer) -> ClusterServer:
        """Return a replica of a master, once the master has heard of it."""
        own_id = await master.node_id()
        async with asyncio.timeout(REPLICA_KNOWN_S):
            # Nothing tells when it has.
            while not (rows := await master.ask("CLUSTER REPLICAS", own_id)):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        first = next(iter(rows))
        if isinstance(rows, dict):
            return self.at(int(first.rpartition(":")[2]))
        return self.at(int(str(first).split()[1].partition("@")[0].rpartition(":")[2]))

    async def move_slot(self, key: str, target: ClusterServer) -> None:
        """Migrate the slot of a key as `redis-cli --cluster reshard` does, keys included."""
        slot, source = key_slot(key.encode()), await self.owner_of(key)
        to = await target.node_id()
        await target.ask("CLUSTER SETSLOT", slot, "IMPORTING", await source.node_id())
        await source.ask("CLUSTER SETSLOT", slot, "MIGRATING", to)
        while keys := cast("list[str]", await source.ask("CLUSTER GETKEYSINSLOT", slot, 100)):
            await source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        for server in (target, source):
            await server.ask("CLUSTER SETSLOT", slot, "NODE", to)

    async def until_whole(self) -> None:
        """Wait, bounded, until every running server finds that all slots are served."""
        async with asyncio.timeout(READY_TIMEOUT_S):
            for server in self.servers:
                # They tell nobody.
                while server.running and not await _is_whole(server, self._names()):  # noqa: ASYNC110
                    await asyncio.sleep(POLL_S)

    def _names(self) -> int:
        return len(self.servers)


async def _is_whole(server: ClusterServer, members: int) -> bool:
    info = await server.ask("CLUSTER INFO")
    known = {key: str(value) for key, value in cast("dict[str, object]", info).items()}
    return (
        known["cluster_state"] == "ok"
        and known["cluster_slots_ok"] == str(SLOTS)
        and int(known["cluster_known_nodes"]) >= members
    )


@asynccontextmanager
async def running_cluster(
    binaries: Binaries, scratch: Scratch, *, with_replicas: bool = False, silence_ms: int = 1000
) -> AsyncIterator[RedisCluster]:
    """Run three masters, and a replica of each if wanted, until the body ends."""
    async with AsyncExitStack() as stack:
        count = MASTERS * (2 if with_replicas else 1)
        servers = []
        for _ in range(count):
            servers.append(await _start(binaries, scratch, silence_ms))
            stack.push_async_callback(servers[-1].stop)
        masters, replicas = servers[:MASTERS], servers[MASTERS:]
        share = SLOTS // MASTERS + 1
        for number, master in enumerate(masters):
            await master.ask("CLUSTER SET-CONFIG-EPOCH", number + 1)
            first, last = number * share, min(SLOTS, (number + 1) * share) - 1
            await master.ask("CLUSTER ADDSLOTSRANGE", first, last)
        for server in servers[1:]:
            await server.ask("CLUSTER MEET", "127.0.0.1", servers[0].port, servers[0].bus_port)
        cluster = RedisCluster(servers)
        await cluster.until_whole()
        for master, replica in zip(masters, replicas, strict=False):
            await replica.ask("CLUSTER REPLICATE", await master.node_id())
        if replicas:
            await _until_replicated(masters)
        yield cluster


async def _until_replicated(masters: Sequence[ClusterServer]) -> None:
    async with asyncio.timeout(READY_TIMEOUT_S):
        for master in masters:
            # As before.
            while (await master.ask("INFO", "replication"))["connected_slaves"] != 1:  # noqa: ASYNC110
                await asyncio.sleep(POLL_S)


async def _start(binaries: Binaries, scratch: Scratch, silence_ms: int) -> ClusterServer:
    for tries_left in reversed(range(START_TRIES)):
        server = ClusterServer(binaries, scratch.new_folder("cluster"), silence_ms)
        try:
            await server.start()
        except ServerStartError:
            if not tries_left:
                raise
        else:
            return server
    raise AssertionError
