"""F5: everybody comes back at once, while changes go on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from bench.contest import in_turn
from bench.crowd import CrowdError, CrowdPlan, gathered, gathering
from bench.machine import allow_files, cpu_s, family
from bench.peers import servers as peers
from bench.publishers import BusPublisher
from bench.rows import Plan, Row, Target
from bench.stage import CONNECT, SUBSCRIBE, ZONE, Side, Stage, our_crowd, raised

CLIENTS: Final = 5_000
USERS: Final = 1_000
CHANGES_PER_S: Final = 100
AWAY_S: Final = 1.0
STATISTICS_LAG_S: Final = 1.5
PEER: Final = "uvicorn, naive: handshake only"
RESUME: Final = '{"id":2,"subscribe":{"channel":"zone:%s","recover":true,"epoch":"%s","offset":%d}}'


@dataclass(frozen=True, slots=True)
class _Return:
    """How one storm went.

    Attributes:
        per_cpu_s: Clients that were consistent, per CPU second of the server.
        seconds: Until the last was.
        readiness: When clients were, milliseconds since the first came.
        state_reads: How often the database was asked for a state meanwhile.
    """

    per_cpu_s: float
    seconds: float
    readiness: Mapping[str, float]
    state_reads: int = 0


async def reconnect_storm(plan: Plan) -> list[Row]:
    """F5: 5,000 clients at once, half resuming and half new, in a zone of 1,000 users."""
    allow_files(CLIENTS)
    ours: list[_Return] = []
    async with raised() as stage:
        for run in range(plan.runs):
            plan.say(f"ours, run {run + 1} of {plan.runs}")
            found = await _storm(stage)
            if isinstance(found, CrowdError):
                plan.say(f"ours: this run does not count: {found}\n")
            else:
                ours.append(found)
        if not ours:
            raise CrowdError("in no run all of the clients became consistent")

        async def shake(side: Side) -> _Return:
            return await _measured(stage, replace(side.crowd, at_once=CLIENTS), list(side.pids))

        theirs: list[_Return] = []
        try:
            theirs = (await in_turn(stage, plan, {PEER: peers.naive}, shake))[PEER]
        except CrowdError as error:
            plan.say(f"left out: {error}\n")
    what = f"{CLIENTS:,} come back at once, zone of {USERS:,} users"
    more = {
        f"{name}_ms": max(found.readiness[f"{name}_ms"] for found in ours)
        for name in ("p50", "p99", "max")
    }
    reads = [float(found.state_reads) for found in ours]
    return [
        Row(
            "F5",
            what,
            "clients/CPU s",
            [found.per_cpu_s for found in ours],
            PEER,
            [found.per_cpu_s for found in theirs],
            Target("value", 2_500),
            more=more,
        ),
        Row(
            "F5",
            "time until all are consistent",
            "s",
            [found.seconds for found in ours],
            PEER,
            [found.seconds for found in theirs],
        ),
        Row(
            "F5",
            "reads of the zone's state meanwhile",
            "reads",
            reads,
            target=Target("value", 1, at_least=False),
        ),
    ]


async def _storm(stage: Stage) -> _Return | CrowdError:
    async with stage.node() as node:
        await stage.fill(node, {ZONE: USERS})
        pids = family(node.pid)
        async with (
            stage.publisher() as publisher,
            gathered(stage.folder, our_crowd(node.port), 1),
            asyncio.TaskGroup() as tasks,
        ):
            resume = RESUME % (
                ZONE,
                publisher.changes.position.epoch,
                publisher.changes.position.rev,
            )
            writing = tasks.create_task(_go_on(publisher))
            await asyncio.sleep(AWAY_S)
            reads = await _state_reads(stage)
            plan = replace(
                our_crowd(node.port),
                sends=(CONNECT, SUBSCRIBE % ZONE),
                other=resume,
                at_once=CLIENTS,
            )
            try:
                found = await _measured(stage, plan, pids)
            except CrowdError as error:
                # Raised only outside of the group, which would wrap it.
                return error
            finally:
                writing.cancel()
            await asyncio.sleep(STATISTICS_LAG_S)
            return replace(found, state_reads=await _state_reads(stage) - reads)


async def _measured(stage: Stage, plan: CrowdPlan, pids: list[int]) -> _Return:
    before_s, began_s = cpu_s(pids), time.monotonic()
    async with gathering(stage.folder, plan, CLIENTS) as crowd:
        await crowd.wait_ready()
        used_s, took_s = cpu_s(pids) - before_s, time.monotonic() - began_s
        readiness: dict[str, Any] = crowd.readiness["readiness"]
    return _Return(CLIENTS / used_s, took_s, readiness)


async def _go_on(publisher: BusPublisher) -> None:
    while True:
        await publisher.publish(1)
        await asyncio.sleep(1 / CHANGES_PER_S)


async def _state_reads(stage: Stage) -> int:
    """Count scans of the zones: each state begins with its zone, and nobody else reads it here."""
    async with stage.connection() as connection:
        return int(
            await connection.fetchval(
                "SELECT seq_scan + idx_scan FROM pg_stat_user_tables WHERE relname = 'zones'"
            )
        )
