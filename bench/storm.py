"""F5: everybody comes back at once, while changes go on."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench.contest import in_turn
from bench.crowd import CrowdError, CrowdPlan, gathered, gathering
from bench.flame import sampled
from bench.machine import allow_files, cpu_s, family
from bench.peers import servers as peers
from bench.publishers import BusPublisher
from bench.rows import Plan, Row, Target
from bench.stage import CONNECT, SUBSCRIBE, ZONE, Side, Stage, our_crowd, raised

CLIENTS: Final = 5_000
DRAWN_CLIENTS: Final = 1_000
"""For a flame graph: sampling stops the node so often that more would time out."""
USERS: Final = 1_000
CHANGES_PER_S: Final = 100
AWAY_S: Final = 1.0
FIRST_WATCHER_READS: Final = 1
PEER: Final = "uvicorn, naive: handshake only"
RESUME: Final = '{"id":2,"subscribe":{"channel":"zone:%s","recover":true,"epoch":"%s","offset":%d}}'


@dataclass(frozen=True, slots=True)
class _Return:
    """How one storm went.

    Attributes:
        per_cpu_s: Clients that were consistent, per CPU second of the server.
        seconds: Until the last was.
        readiness: When clients were, milliseconds since the first came.
        delay: Of the changes that went on, milliseconds, to whoever was consistent by then.
        load_share: Of a core, that the crowd used.
        state_reads: How often the database was asked for a state meanwhile.
        more: What went on.
    """

    per_cpu_s: float
    seconds: float
    readiness: Mapping[str, float]
    delay: Mapping[str, float]
    load_share: float
    state_reads: int = 0
    more: Mapping[str, float] = field(default_factory=dict)


Watching = Callable[[int], AbstractAsyncContextManager[None]]
"""What is done to a process during the storm."""


@asynccontextmanager
async def _nothing(_: int) -> AsyncIterator[None]:
    yield


async def reconnect_storm(plan: Plan) -> list[Row]:
    """F5: 5,000 clients at once, half resuming and half new, in a zone of 1,000 users."""
    allow_files(CLIENTS)
    ours: list[_Return] = []
    async with raised() as stage:
        await _fill(stage)
        for run in range(plan.runs):
            plan.say(f"ours, run {run + 1} of {plan.runs}")
            try:
                ours.append(await _storm(stage, CLIENTS))
            except CrowdError as error:
                plan.say(f"ours: this run does not count: {error}\n")
        if not ours:
            raise CrowdError("in no run all of the clients became consistent")

        async def shake(side: Side) -> _Return:
            crowd = replace(side.crowd, at_once=CLIENTS)
            return await _measured(stage, crowd, CLIENTS, list(side.pids))

        theirs: list[_Return] = []
        try:
            theirs = (await in_turn(stage, plan, {PEER: peers.naive}, shake))[PEER]
        except CrowdError as error:
            plan.say(f"left out: {error}\n")
    return _rows(ours, theirs)


async def flame_of_storm(plan: Plan, file: Path) -> None:
    """F5: draw what a node does while clients come back."""
    allow_files(DRAWN_CLIENTS)
    async with raised() as stage:
        await _fill(stage)
        plan.say("sampling")
        title = f"F5: {DRAWN_CLIENTS:,} come back at once, zone of {USERS:,} users"
        await _storm(stage, DRAWN_CLIENTS, lambda pid: sampled(pid, file, title))


def _rows(ours: Sequence[_Return], theirs: Sequence[_Return]) -> list[Row]:
    make = partial(
        Row,
        "F5",
        loads=[found.load_share for found in ours],
        peer_loads=[found.load_share for found in theirs],
    )
    names = ours[0].more.keys()
    rows = [
        make(
            what=f"{CLIENTS:,} come back at once, zone of {USERS:,} users",
            unit="clients/CPU s",
            values=[found.per_cpu_s for found in ours],
            peer=PEER,
            peer_values=[found.per_cpu_s for found in theirs],
            target=Target("value", 2_500),
            more={name: statistics.median(run.more[name] for run in ours) for name in names},
        )
    ]
    rows += [
        make(
            what=f"time to a consistent state, {name} of the clients",
            unit="ms",
            values=[found.readiness[f"{name}_ms"] for found in ours],
            peer=PEER,
            peer_values=[found.readiness[f"{name}_ms"] for found in theirs],
        )
        for name in ("p50", "p99", "max")
    ]
    rows += [
        Row(
            "F5",
            f"delay of the changes meanwhile, {name}",
            "ms",
            [found.delay[f"{name}_ms"] for found in ours],
        )
        for name in ("p50", "p99")
    ]
    reads = [float(found.state_reads) for found in ours]
    at_most_one = Target("value", 1, at_least=False)
    what = "reads of the zone's state in the database meanwhile"
    return [*rows, Row("F5", what, "reads", reads, target=at_most_one)]


async def _fill(stage: Stage) -> None:
    async with stage.node() as node:
        await stage.fill(node, {ZONE: USERS})


async def _storm(stage: Stage, count: int, watching: Watching = _nothing) -> _Return:
    """Let everybody come back once; raises `CrowdError`."""
    reads = await _state_reads(stage)
    failed: CrowdError | None = None
    async with stage.node() as node:
        pids = family(node.pid)
        async with (
            stage.publisher() as publisher,
            gathered(stage.folder, our_crowd(node.port), 1),
            asyncio.TaskGroup() as tasks,
        ):
            begin = publisher.changes.position
            plan = replace(
                our_crowd(node.port),
                sends=(CONNECT, SUBSCRIBE % ZONE),
                other=RESUME % (ZONE, begin.epoch, begin.rev),
                at_once=count,
            )
            writing = tasks.create_task(_go_on(publisher))
            await asyncio.sleep(AWAY_S)
            try:
                async with watching(node.pid):
                    before = publisher.changes.position
                    found = await _measured(stage, plan, count, pids)
            except CrowdError as error:
                # Raised only outside of the group, which would wrap it.
                failed = error
            finally:
                writing.cancel()
            after = publisher.changes.position
    if failed is not None:
        raise failed
    return replace(
        found,
        state_reads=await _state_reads(stage) - reads - FIRST_WATCHER_READS,
        more={
            "changes_per_s": (after.rev - before.rev) / found.seconds,
            "missed_by_first": before.rev - begin.rev,
            "missed_by_last": after.rev - begin.rev,
        },
    )


async def _measured(stage: Stage, plan: CrowdPlan, count: int, pids: list[int]) -> _Return:
    before_s, began_s = cpu_s(pids), time.monotonic()
    async with gathering(stage.folder, plan, count) as crowd:
        await crowd.wait_ready()
        used_s, took_s = cpu_s(pids) - before_s, time.monotonic() - began_s
    said: dict[str, Any] = crowd.readiness
    load_share = said["cpu_s"] / said["seconds"]
    return _Return(count / used_s, took_s, said["readiness"], said["delay"], load_share)


async def _go_on(publisher: BusPublisher) -> None:
    loop = asyncio.get_running_loop()
    due_s = loop.time()
    while True:
        await publisher.publish(1)
        due_s = max(due_s + 1 / CHANGES_PER_S, loop.time() - 1)
        await asyncio.sleep(due_s - loop.time())


async def _state_reads(stage: Stage) -> int:
    """Count scans of the zones: each state begins with its zone, and nobody else reads it here.

    No node may run: what a connection counted is sure to be seen only when it has ended.
    """
    async with stage.connection() as connection:
        await stage.wait_alone(connection)
        return int(
            await connection.fetchval(
                "SELECT seq_scan + idx_scan FROM pg_stat_user_tables WHERE relname = 'zones'"
            )
        )
