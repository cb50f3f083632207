"""Short scenarios with fixed seeds: every promise holds while something is broken.

`python3 dev.py soak` runs long ones, with all faults drawn at random.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conftest import migrate_to_head
from tests.faults.cluster import Cluster, running_cluster
from tests.faults.report import tell
from tests.faults.scenario import Plan, Scenario
from tests.processes import Scratch
from tests.servers import DATABASE, Binaries, Postgres, start_redis

SHORT_S = 6.0
NODES = 3

FAULTS = {
    1: ["redis killed and started empty", "pub/sub connections killed", "clients slow"],
    2: ["node killed", "redis frozen"],
    3: ["nodes rolled", "clients cut", "log compacted"],
    4: ["postgres connections terminated", "redis stopped", "postgres restarted"],
    5: ["node frozen", "node drained"],
    7: ["postgres restored", "postgres failed over"],
}
"""What is broken, by seed: each fault once."""


@pytest.fixture(scope="module")
async def cluster(
    postgres: Postgres, redis_binaries: Binaries, scratch: Scratch
) -> AsyncIterator[Cluster]:
    """Nodes on a PostgreSQL and a Redis of their own, which may be broken."""
    postgres_server = await postgres.start_server()
    redis = await start_redis(redis_binaries, scratch)
    try:
        await postgres_server.create_database(DATABASE)
        await migrate_to_head(postgres_server.url)
        folder = scratch.new_folder("nodes")
        async with running_cluster(folder, postgres_server, redis, NODES) as cluster:
            yield cluster
    finally:
        await redis.stop()
        await postgres_server.stop()


async def assert_promises_hold(cluster: Cluster, plan: Plan, node: Path | None) -> None:
    """Run a plan; its history has to be one that the promises allow."""
    outcome = await Scenario(cluster, plan, node).run()
    assert not outcome.violations, "\n".join(tell(outcome))
    assert outcome.operations > 40, "hardly anything was written"
    for client in outcome.history.clients:
        received = sum(len(frame.items) for frame in client.frames)
        assert received > 10, f"{client.name} received hardly anything"
    dicts = {read.etag for read in outcome.history.dict_reads if read.status == 200}
    assert len(dicts) > 5, "the users dict was hardly read"
    assert outcome.faults == dict.fromkeys(plan.faults or (), 1)


@pytest.mark.parametrize("seed", FAULTS)
async def test_promises_hold_while_something_is_broken(cluster: Cluster, seed: int) -> None:
    """Plain clients, event streams and the Python SDK, on nodes that are written to."""
    plan = Plan(seed, SHORT_S, FAULTS[seed], websockets=4, javascript=0)
    await assert_promises_hold(cluster, plan, None)


async def test_promises_hold_for_the_javascript_sdk(cluster: Cluster, node: Path) -> None:
    """It resumes elsewhere when its node is killed, and shows what the database holds."""
    plan = Plan(6, SHORT_S, ["node killed"], websockets=1, sse=1, python=0, javascript=4)
    await assert_promises_hold(cluster, plan, node)
