"""F13: the same zone on one node, on two and on four."""

from __future__ import annotations

import statistics
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

import redis.asyncio

from bench.contest import closed_loop
from bench.crowd import CrowdError, gathered
from bench.machine import cpu_s, family
from bench.rows import Plan, Row, Target
from bench.stage import USERS, ZONE, Stage, our_crowd, raised

NODES: Final = (1, 2, 4)
SUBSCRIBERS_EACH: Final = 500
WINDOW: Final = 32
WARM_UP_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class _Run:
    """What one run came to.

    Attributes:
        deliveries_per_cpu_s: Of all nodes, per CPU second of all.
        reads_per_change: Scans of the change log and of zones: repairs and states, the first
            state of each node included.
        messages_per_change: What Redis handed to nodes, heartbeats and invalidations included.
        load_share: Of a core, that the crowds used together.
    """

    deliveries_per_cpu_s: float
    reads_per_change: float
    messages_per_change: float
    load_share: float


async def several_nodes(plan: Plan) -> list[Row]:
    """F13: deliveries per CPU second, and what each change costs the database and Redis."""
    found: dict[int, list[_Run]] = {count: [] for count in NODES}
    async with raised() as stage:
        async with stage.node() as node:
            await stage.fill(node, {ZONE: USERS})
        for run in range(plan.runs):
            for count in NODES:
                plan.say(f"{count} nodes, run {run + 1} of {plan.runs}")
                try:
                    found[count].append(await _run(stage, count, plan.seconds))
                except CrowdError as error:
                    plan.say(f"{count} nodes: this run does not count: {error}\n")
    if not all(found.values()):
        raise CrowdError("of some number of nodes no run counted")
    alone = [run.deliveries_per_cpu_s for run in found[1]]
    rows = []
    for count in NODES[1:]:
        runs = found[count]
        rows.append(
            Row(
                "F13",
                f"fan-out by {count} nodes, {SUBSCRIBERS_EACH} each, {WINDOW} in flight",
                "deliveries/CPU s",
                [run.deliveries_per_cpu_s for run in runs],
                "one node",
                alone,
                Target("ratio", 0.9),
                note="all nodes on the server's core",
                loads=[run.load_share for run in runs],
                peer_loads=[run.load_share for run in found[1]],
            )
        )
    most = found[NODES[-1]]
    rows.append(
        Row(
            "F13",
            f"reads of the database for each change, {NODES[-1]} nodes",
            "reads",
            [run.reads_per_change for run in most],
            target=Target("value", 0.01, at_least=False),
        )
    )
    rows.append(
        Row(
            "F13",
            f"messages of Redis for each change of one channel, {NODES[-1]} nodes",
            "messages",
            [run.messages_per_change for run in most],
            target=Target("value", NODES[-1] * 1.1, at_least=False),
            more={"one node": statistics.median(run.messages_per_change for run in found[1])},
        )
    )
    return rows


async def _run(stage: Stage, count: int, seconds: float) -> _Run:
    reads = await _reads(stage)
    async with AsyncExitStack() as stack:
        nodes = await stack.enter_async_context(stage.nodes(count))
        client = await stack.enter_async_context(redis.asyncio.from_url(stage.redis.url))
        publisher = await stack.enter_async_context(stage.publisher())
        crowds = [
            await stack.enter_async_context(
                gathered(stage.folder, our_crowd(node.port), SUBSCRIBERS_EACH)
            )
            for node in nodes
        ]
        warmed_up = await closed_loop(crowds, publisher, WINDOW, WARM_UP_S)
        pids = [pid for node in nodes for pid in family(node.pid)]
        before_s, began_s, heard = cpu_s(pids), time.monotonic(), await _heard(client)
        sent = await closed_loop(crowds, publisher, WINDOW, seconds)
        used_s, took_s = cpu_s(pids) - before_s, time.monotonic() - began_s
        messages = await _heard(client) - heard
        load_s = sum([(await crowd.report())["cpu_s"] for crowd in crowds])
    return _Run(
        sent * SUBSCRIBERS_EACH * count / used_s,
        (await _reads(stage) - reads) / (warmed_up + sent),
        messages / sent,
        load_s / took_s,
    )


async def _heard(client: Any) -> int:
    """Count PUBLISH commands times the nodes that follow the zone: no fewer than were handed on."""
    calls = (await client.info("commandstats"))["cmdstat_publish"]["calls"]
    ((_, followers),) = await client.pubsub_numsub(f"zonecast:c:zone:{ZONE}")
    return int(calls) * int(followers)


async def _reads(stage: Stage) -> int:
    async with stage.connection() as connection:
        await stage.wait_alone(connection)
        return int(
            await connection.fetchval(
                "SELECT sum(seq_scan + coalesce(idx_scan, 0)) FROM pg_stat_user_tables"
                " WHERE relname IN ('zones', 'changes')"
            )
        )
