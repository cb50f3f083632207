"""A Redis with a replica and a Sentinel, as real processes: the master fails over."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from tests.processes import Scratch
from tests.servers import Binaries, RedisServer, start_redis

MASTER = "zonecast"
READY_TIMEOUT_S = 30.0
POLL_S = 0.05


class SentinelServer(RedisServer):
    """A Sentinel that watches one Redis.

    Args:
        binaries: Redis's own: any of them can be a Sentinel.
        folder: Its working directory and log.
        primary: The master at its first start.
        down_after_s: How long the master may be silent before a replica takes over.
    """

    def __init__(
        self, binaries: Binaries, folder: Path, primary: RedisServer, down_after_s: float
    ) -> None:
        super().__init__(binaries, folder)
        lines = [
            f"port {self.port}",
            "bind 127.0.0.1",
            f"sentinel monitor {MASTER} 127.0.0.1 {primary.port} 1",
            f"sentinel down-after-milliseconds {MASTER} {round(down_after_s * 1000)}",
            f"sentinel failover-timeout {MASTER} 10000",
        ]
        # It writes what it learns into this file.
        self._settings = folder / "sentinel.conf"
        self._settings.write_text("\n".join(lines) + "\n", encoding="utf-8")

    @property
    def url(self) -> str:
        """The URL by which nodes find the master."""
        return f"redis+sentinel://127.0.0.1:{self.port}/{MASTER}/0"

    def command(self) -> list[str]:
        """Run the server as a Sentinel."""
        return [str(self._binaries.server), str(self._settings), "--sentinel"]

    async def master_port(self) -> int:
        """Return where it says that the master is."""
        async with Redis(port=self.port, decode_responses=True) as client:
            masters = cast("dict[str, dict[str, Any]]", await client.sentinel_masters())
        return int(masters[MASTER]["port"])

    async def knows_replica(self) -> bool:
        """Tell whether there is a replica that could take over."""
        async with Redis(port=self.port, decode_responses=True) as client:
            replicas: list[dict[str, Any]] = await client.sentinel_slaves(MASTER)
        return any(
            replica["flags"] == "slave" and replica["master-link-status"] == "ok"
            for replica in replicas
        )

    async def fail_over(self) -> None:
        """Make the replica the master, as an operator does; wait, bounded, until it is."""
        before = await self.master_port()
        async with Redis(port=self.port) as client, asyncio.timeout(READY_TIMEOUT_S):
            while await self.master_port() == before:
                with contextlib.suppress(RedisError):
                    # Refused while it is under way, and while there is no good replica.
                    await client.sentinel_failover(MASTER)
                await asyncio.sleep(POLL_S)


class RedisTrio:
    """Two Redis, of which one is the primary, and a Sentinel.

    Attributes:
        primary: Who is the master, as far as the tests made it.
        replica: The other.
        sentinel: Who knows.
    """

    def __init__(
        self, primary: RedisServer, replica: RedisServer, sentinel: SentinelServer
    ) -> None:
        self.primary = primary
        self.replica = replica
        self.sentinel = sentinel

    @property
    def servers(self) -> tuple[RedisServer, ...]:
        """All three."""
        return self.primary, self.replica, self.sentinel

    async def until_safe(self) -> None:
        """Wait, bounded, until the replica could take over."""
        async with asyncio.timeout(READY_TIMEOUT_S):
            # A Sentinel asks every ten seconds, and tells nobody.
            while not await self.sentinel.knows_replica():  # noqa: ASYNC110
                await asyncio.sleep(POLL_S)

    async def until_taken_over(self) -> None:
        """Wait, bounded, until the replica is the master, and swap names."""
        async with asyncio.timeout(READY_TIMEOUT_S):
            # As before.
            while await self.sentinel.master_port() != self.replica.port:  # noqa: ASYNC110
                await asyncio.sleep(POLL_S)
        self.primary, self.replica = self.replica, self.primary
        self.primary.primary, self.replica.primary = None, self.primary

    async def fail_over(self) -> None:
        """Swap the two as an operator does."""
        await self.sentinel.fail_over()
        await self.until_taken_over()


@asynccontextmanager
async def running_trio(
    binaries: Binaries, scratch: Scratch, down_after_s: float
) -> AsyncIterator[RedisTrio]:
    """Run the three until the body ends."""
    primary = await start_redis(binaries, scratch)
    replica = RedisServer(binaries, scratch.new_folder("redis"))
    replica.primary = primary
    sentinel = SentinelServer(binaries, scratch.new_folder("sentinel"), primary, down_after_s)
    trio = RedisTrio(primary, replica, sentinel)
    try:
        await replica.start()
        await _until_replicated(replica)
        await sentinel.start()
        await trio.until_safe()
        yield trio
    finally:
        for server in reversed(trio.servers):
            await server.stop()


async def _until_replicated(replica: RedisServer) -> None:
    # A Sentinel that finds the replica connected needs not ask again.
    async with Redis(port=replica.port) as client, asyncio.timeout(READY_TIMEOUT_S):
        # It tells nobody.
        while (await client.info("replication"))["master_link_status"] != "up":  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
