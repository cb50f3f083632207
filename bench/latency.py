"""F7: from the commit to a subscriber of another node, with nothing else going on."""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import redis.asyncio

from bench.contest import in_turn
from bench.crowd import CrowdPlan, gathered
from bench.machine import family
from bench.peers.servers import PeerProcess
from bench.publishers import changes_of_nobody, pushed_line
from bench.rows import Plan, Row, Target
from bench.stage import Opening, Side, Stage, ours, raised, running

PAUSE_S: Final = 0.02
WARM_UP: Final = 20
KEY: Final = "forwarded"
FORWARDER: Final = Path(__file__).parent / "peers" / "forwarder.py"
PEER: Final = "Redis to one WebSocket, bare"


class RedisLinePublisher:
    """Publishes changes as bare lines on a channel of Redis."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client
        self._changes = changes_of_nobody()
        self.sent_ns = 0

    async def publish(self, count: int) -> None:
        """Publish so many, one after the other."""
        for change in self._changes.next(count):
            self.sent_ns = time.monotonic_ns()
            await self._client.publish(KEY, pushed_line(change))


@asynccontextmanager
async def _forwarder(stage: Stage) -> AsyncIterator[Side]:
    prefix = stage.cores.prefix
    arguments = [stage.redis.url, KEY]
    peer = PeerProcess(
        stage.new_folder("forwarder"),
        lambda port, _: [*prefix, sys.executable, str(FORWARDER), str(port), *arguments],
    )
    async with running(peer), redis.asyncio.from_url(stage.redis.url) as client:
        yield Side(family(peer.pid), CrowdPlan(peer.port, "/"), RedisLinePublisher(client))


async def commit_to_subscriber(plan: Plan) -> list[Row]:
    """F7: the median delay of single changes to one subscriber."""
    sides: dict[str, Opening] = {"ours": ours, PEER: _forwarder}
    async with raised() as stage:

        async def play(side: Side) -> list[float]:
            return await _delays_ms(stage, side, plan.seconds)

        found = await in_turn(stage, plan, sides, play)
    medians = {name: list(map(statistics.median, runs)) for name, runs in found.items()}
    p99s = [statistics.quantiles(delays, n=100)[98] for delays in found["ours"]]
    return [
        Row(
            "F7",
            "commit to a subscriber of another node, idle, median",
            "ms",
            medians["ours"],
            PEER,
            medians[PEER],
            Target("ratio", 1.5, at_least=False),
            note="theirs: from before PUBLISH",
            more={"p99_ms": statistics.median(p99s)},
        )
    ]


async def _delays_ms(stage: Stage, side: Side, seconds: float) -> list[float]:
    delays_ms = []
    async with gathered(stage.folder, side.crowd, 1) as crowd:
        await asyncio.sleep(PAUSE_S * 10)
        await crowd.begin()
        until_s, sent = time.monotonic() + seconds, 0
        while time.monotonic() < until_s or sent < 2 * WARM_UP:
            await side.publisher.publish(1)
            sent += 1
            await crowd.wait_done(sent)
            delays_ms.append((crowd.done_ns - side.publisher.sent_ns) / 1e6)
            await asyncio.sleep(PAUSE_S)
    return delays_ms[WARM_UP:]
