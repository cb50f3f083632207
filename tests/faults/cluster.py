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
from tests.servers import PostgresServer, RedisServer

READY_TIMEOUT_S = 20.0
POLL_S = 0.05

RESUME_MAX_CHANGES = 80

SETTINGS: dict[str, object] = {
    "pool_size": 5,
    "ping_interval_s": 2,
    "pong_timeout_s": 3,
    "sse_keepalive_interval_s": 2,
    # Small enough that clients that don't read for a moment fall behind.
    "slow_buffer_max_bytes": 32_768,
    # Small enough that changes of several users travel as a position alone.
    "bus_message_max_bytes": 4_096,
    "shutdown_timeout_s": 5,
    "resume_max_changes": RESUME_MAX_CHANGES,
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
    """The servers of scenarios."""

    postgres: PostgresServer
    redis: RedisServer
    members: list[Member] = field(default_factory=list)

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

    async def mend(self) -> None:
        """Start whatever doesn't run: an earlier scenario may have ended halfway."""
        for server in (self.postgres, self.redis, *(member.process for member in self.members)):
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
    folder: Path, postgres: PostgresServer, redis: RedisServer, nodes: int
) -> AsyncIterator[Cluster]:
    """Run nodes on servers of their own until the body ends."""
    settings = {"database_url": postgres.url, "redis_url": redis.url, **SETTINGS}
    async with running_nodes(folder, nodes, settings) as processes:
        members = [Member(f"node-{n}", process) for n, process in enumerate(processes, 1)]
        yield Cluster(postgres, redis, members)
