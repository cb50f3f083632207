"""The cluster: PostgreSQL, Redis and nodes, each a process, and which nodes get traffic."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.faults.gate import Target
from tests.nodes import NodeProcess, running_nodes
from tests.processes import ServerStartError
from tests.sentinels import RedisTrio
from tests.servers import PostgresServer, RedisServer

READY_TIMEOUT_S = 20.0
POLL_S = 0.05
START_TRIES = 20
START_PAUSE_S = 1.0

RESUME_MAX_CHANGES = 80
SLOW_DRAIN_TIMEOUT_S = 4

SETTINGS: dict[str, object] = {
    "pool_size": 5,
    "lock_timeout_s": 1.5,
    "ping_interval_s": 2,
    "pong_timeout_s": 3,
    "sse_keepalive_interval_s": 2,
    # Small enough that clients that don't read for a moment fall behind.
    "slow_buffer_max_bytes": 32_768,
    "slow_drain_timeout_s": SLOW_DRAIN_TIMEOUT_S,
    # Small enough that changes of several users travel as a position alone.
    "bus_message_max_bytes": 4_096,
    "shutdown_timeout_s": 5,
    "resume_max_changes": RESUME_MAX_CHANGES,
    # What is pruned has to be kept for the validator: "log compacted" does both.
    "retention_interval_s": 0,
}
"""Quick bounds: what takes half a minute in production is to happen within a scenario."""


@dataclass
class Member:
    """A node, and whether the load balancer sends it traffic."""

    name: str
    process: NodeProcess
    is_in: bool = True


@dataclass
class Cluster:
    """The servers of scenarios.

    Attributes:
        postgres: The truth.
        redis: The Redis that nodes use now.
        members: The nodes.
        trio: The Redis, its replica and the Sentinel by which nodes find it, if there is one.
    """

    postgres: PostgresServer
    redis: RedisServer
    members: list[Member] = field(default_factory=list)
    trio: RedisTrio | None = None

    def choose(self, random: Random, favourite: int | None = None) -> Target | None:
        """Choose a node that gets traffic, the favourite if it does; `None` when there is none."""
        if favourite is not None and self.members[favourite].is_in:
            member = self.members[favourite]
            return Target(member.name, member.process.port)
        up = [member for member in self.members if member.is_in]
        if not up:
            return None
        member = random.choice(up)
        return Target(member.name, member.process.port)

    @asynccontextmanager
    async def taken_out(self, member: Member) -> AsyncIterator[None]:
        """Send a node nothing new while the body breaks it."""
        member.is_in = False
        try:
            yield
        finally:
            member.is_in = True

    async def start(self, member: Member) -> None:
        """Start a node as an orchestrator does: again, where the database was away.

        Raises:
            ServerStartError: It didn't start in `START_TRIES` tries.
        """
        for tries_left in reversed(range(START_TRIES)):
            try:
                await member.process.start()
            except ServerStartError:
                if not tries_left:
                    raise
                await asyncio.sleep(START_PAUSE_S)
            else:
                return

    async def mend(self) -> None:
        """Start whatever doesn't run: an earlier scenario may have ended halfway."""
        redis = self.trio.servers if self.trio else (self.redis,)
        for server in (self.postgres, *redis, *(member.process for member in self.members)):
            if server.running:
                server.sigcont()
            else:
                await server.start()
        for member in self.members:
            member.is_in = True

    async def until_ready(self) -> bool:
        """Wait, bounded, until all nodes say that they are ready; tell whether they do."""
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                for member in self.members:
                    # A node tells in no other way.
                    while not await member.process.answers():  # noqa: ASYNC110
                        await asyncio.sleep(POLL_S)
        except TimeoutError:
            return False
        return True


@asynccontextmanager
async def running_cluster(
    folder: Path, postgres: PostgresServer, redis: RedisServer | RedisTrio, nodes: int
) -> AsyncIterator[Cluster]:
    """Run nodes on servers of their own until the body ends."""
    trio = redis if isinstance(redis, RedisTrio) else None
    primary = redis.primary if isinstance(redis, RedisTrio) else redis
    redis_url = trio.sentinel.url if trio else primary.url
    settings = {"database_url": postgres.url, "redis_url": redis_url, **SETTINGS}
    async with running_nodes(folder, nodes, settings) as processes:
        members = [Member(f"node-{n}", process) for n, process in enumerate(processes, 1)]
        yield Cluster(postgres, primary, members, trio)
