"""The faults: each breaks something for real, for a bounded time, and mends it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random

from tests.faults.cluster import Cluster, Member
from tests.faults.history import Fault, Recorder
from tests.faults.truth import DATABASE_ERRORS
from tests.faults.watchers import Watcher

TERMINATE_ALL = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"""

LONGER_THAN_STALENESS_S = (5.5, 7.0)


@dataclass
class Breaker:
    """Breaks the servers of a cluster, and the clients' network.

    Attributes:
        cluster: The servers.
        watchers: The clients.
        recorder: Where faults and outages are noted.
        random: How long, and which.
    """

    cluster: Cluster
    watchers: list[Watcher]
    recorder: Recorder
    random: Random

    async def cause(self, name: str) -> None:
        """Cause the fault of this name, and mend it."""
        from_s = self.recorder.now_s()
        await FAULTS[name](self)
        self.recorder.history.faults.append(Fault(name, from_s, self.recorder.now_s()))

    async def _wait(self, least_s: float, most_s: float) -> None:
        await asyncio.sleep(self.random.uniform(least_s, most_s))

    # Redis

    async def kill_redis(self) -> None:
        """Kill Redis, and start it empty."""
        await self.cluster.redis.kill()
        await self._wait(0.1, 1)
        await self.cluster.redis.start()

    async def stop_redis(self) -> None:
        """Have no Redis for longer than a change may take."""
        await self.cluster.redis.stop()
        await self._wait(*LONGER_THAN_STALENESS_S)
        await self.cluster.redis.start()

    async def freeze_redis(self) -> None:
        """Have a Redis that accepts and answers nothing, for longer than a change may take."""
        self.cluster.redis.sigstop()
        try:
            await self._wait(*LONGER_THAN_STALENESS_S)
        finally:
            self.cluster.redis.sigcont()

    async def deafen(self) -> None:
        """Kill the subscribing connections of all nodes."""
        for _ in range(self.random.randint(1, 3)):
            await self.cluster.redis.call("CLIENT KILL TYPE pubsub")
            await self._wait(0.1, 0.8)

    # Nodes

    async def kill_node(self) -> None:
        """Kill a node without a warning, and start it again."""
        node = self.random.choice(self.cluster.members)
        # Only then does the load balancer notice.
        await node.process.kill()
        async with self.cluster.taken_out(node):
            await self._wait(0.2, 2)
            await node.process.start()

    async def drain_node(self) -> None:
        """Stop a node in order while it is used, and start it again."""
        await self._restart(self.random.choice(self.cluster.members))

    async def roll_nodes(self) -> None:
        """Restart all nodes in order, one after the other."""
        for node in self.cluster.members:
            await self._restart(node)

    async def _restart(self, node: Member) -> None:
        async with self.cluster.taken_out(node):
            await node.process.stop()
            await node.process.start()

    async def freeze_node(self) -> None:
        """Have a node that accepts and answers nothing for some seconds."""
        node = self.random.choice(self.cluster.members)
        from_s = self.recorder.now_s()
        node.process.sigstop()
        try:
            await self._wait(0, 0.7)
            async with self.cluster.taken_out(node):
                await self._wait(2, 5)
        finally:
            node.process.sigcont()
        self.recorder.outage(from_s, f"node:{node.name}", "frozen")

    # PostgreSQL

    async def cut_postgres(self) -> None:
        """Terminate all connections to the database."""
        for _ in range(self.random.randint(1, 3)):
            with contextlib.suppress(*DATABASE_ERRORS):
                await self.cluster.postgres.execute(TERMINATE_ALL)
            await self._wait(0.1, 0.8)

    async def restart_postgres(self) -> None:
        """Restart the database, with a pause or without."""
        await self.cluster.postgres.stop()
        await self._wait(0, 1.5)
        await self.cluster.postgres.start()

    # Clients

    async def slow_clients(self) -> None:
        """Let some clients read nothing for some seconds."""
        count = max(1, len(self.watchers) // 3)
        chosen = self.random.sample(self.watchers, count)
        for watcher in chosen:
            watcher.hold()
        try:
            await self._wait(2, 6)
        finally:
            for watcher in chosen:
                watcher.release()

    async def cut_clients(self) -> None:
        """Drop all connections of all clients at once."""
        for watcher in self.watchers:
            watcher.gate.cut()
        await self._wait(0.1, 0.5)


FAULTS: dict[str, Callable[[Breaker], Awaitable[None]]] = {
    "redis killed and started empty": Breaker.kill_redis,
    "redis stopped": Breaker.stop_redis,
    "redis frozen": Breaker.freeze_redis,
    "pub/sub connections killed": Breaker.deafen,
    "node killed": Breaker.kill_node,
    "node drained": Breaker.drain_node,
    "nodes rolled": Breaker.roll_nodes,
    "node frozen": Breaker.freeze_node,
    "postgres connections terminated": Breaker.cut_postgres,
    "postgres restarted": Breaker.restart_postgres,
    "clients slow": Breaker.slow_clients,
    "clients cut": Breaker.cut_clients,
}
"""All faults, by the names that reports use."""

FAMILIES = ({"redis", "pub/sub"}, {"node", "nodes"}, {"postgres"}, {"clients"})
"""Faults of one of these families are never caused at the same time."""


def family(name: str) -> int:
    """Return which family a fault belongs to."""
    first = name.split(maxsplit=1)[0]
    return next(index for index, words in enumerate(FAMILIES) if first in words)
