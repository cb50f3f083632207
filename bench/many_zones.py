"""F11: many zones: on one connection, and on one node."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Final

from bench.crowd import CrowdPlan, gathered
from bench.machine import allow_files, cpu_s, family, rss_bytes
from bench.rows import Plan, Row, Target
from bench.stage import CONNECT, PinnedNode, Stage, our_crowd, raised

BATCH: Final = 1_000
FOLLOWED: Final = 10_000
SUBSCRIBE_ONE: Final = '{"id":%d,"subscribe":{"channel":"zone:a%d"}}'
HALVES: Final = ("a", "b")
"""How the names of zones begin: half of them each."""
SETTLE_S: Final = 1.0
IDLE_S: Final = 4.0

# As the service would leave them: 10,000 requests would take longer than the measurement.
_FILL = (
    """INSERT INTO zones (zone_id, name, attributes, created_at, updated_at)
    SELECT $2::text || n, 'zone', '{}', now(), now() FROM generate_series(0, $1::int - 1) AS n""",
    """INSERT INTO channel_heads (channel, epoch, rev, floor)
    SELECT 'zone:' || $2::text || n, $3, 1, 1 FROM generate_series(0, $1::int - 1) AS n""",
)


async def many_zones(plan: Plan) -> list[Row]:
    """F11: CPU of 1,000 subscribes in a message; memory and CPU of 10,000 followed zones."""
    allow_files(FOLLOWED)
    batches_ms, first_half, second_half, idle = [], [], [], []
    async with raised() as stage:
        await _fill(stage)
        for run in range(plan.runs):
            plan.say(f"run {run + 1} of {plan.runs}")
            async with stage.node() as node:
                batches_ms.append(await _batch_ms(stage, node))
            async with stage.node() as node:
                first, second, share = await _follow(stage, node)
            first_half.append(first)
            second_half.append(second)
            idle.append(share)
    return [
        Row(
            "F11",
            f"subscribe to {BATCH:,} zones in one message",
            "CPU ms",
            batches_ms,
            target=Target("value", 300, at_least=False),
        ),
        Row(
            "F11",
            f"memory per zone and watcher, {FOLLOWED // 2:,} to {FOLLOWED:,} zones",
            "bytes",
            second_half,
            f"the first {FOLLOWED // 2:,}",
            first_half,
            Target("ratio", 1.1, at_least=False),
        ),
        Row("F11", f"share of a core, {FOLLOWED:,} zones followed, idle", "cores", idle),
    ]


async def _fill(stage: Stage) -> None:
    async with stage.connection() as connection:
        for half in HALVES:
            await connection.execute(_FILL[0], FOLLOWED // 2, half)
            await connection.execute(_FILL[1], FOLLOWED // 2, half, secrets.token_hex(8))
        await connection.execute("ANALYZE")


async def _batch_ms(stage: Stage, node: PinnedNode) -> float:
    pids = family(node.pid)
    commands = "\n".join(SUBSCRIBE_ONE % (2 + zone, zone) for zone in range(BATCH))
    last = f'"id":{BATCH + 1},"subscribe"'
    plan = CrowdPlan(node.port, "/connection/websocket", sends=(CONNECT, commands), ready=last)
    async with gathered(stage.folder, our_crowd(node.port, "a1"), 1):
        await asyncio.sleep(SETTLE_S)
        before_s = cpu_s(pids)
        async with gathered(stage.folder, plan, 1):
            return (cpu_s(pids) - before_s) * 1000


async def _follow(stage: Stage, node: PinnedNode) -> tuple[float, float, float]:
    """Return bytes for each of the first and the second half, and the share of a core, idle."""
    pids = family(node.pid)
    half = FOLLOWED // 2
    # Subscriber 0 watches zone a0, and so on: the crowd fills in the number.
    first, second = (our_crowd(node.port, f"{name}%d") for name in HALVES)
    async with gathered(stage.folder, our_crowd(node.port, "a1"), 1):
        await asyncio.sleep(SETTLE_S)
        empty = rss_bytes(pids)
        async with gathered(stage.folder, first, half):
            await asyncio.sleep(SETTLE_S)
            between = rss_bytes(pids)
            async with gathered(stage.folder, second, half):
                await asyncio.sleep(SETTLE_S)
                full = rss_bytes(pids)
                before_s, began_s = cpu_s(pids), time.monotonic()
                await asyncio.sleep(IDLE_S)
                share = (cpu_s(pids) - before_s) / (time.monotonic() - began_s)
    return (between - empty) / half, (full - between) / half, share
