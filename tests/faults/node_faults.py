"""Faults of nodes: killed, also in the middle of a write, stopped in order, standing still."""

from __future__ import annotations

import asyncio
import contextlib

import httpx

from tests.faults.breaker import Breaker, FaultOf
from tests.faults.cluster import Cluster, Member
from tests.faults.failpoints import AFTER_PUBLISH, BEFORE_PUBLISH
from tests.faults.workload import HOT

DIES_WITHIN_S = 10.0


async def kill(breaker: Breaker) -> None:
    """Kill a node without a warning, and start it again."""
    node = breaker.random.choice(breaker.cluster.members)
    # Only then does the load balancer notice.
    await node.process.kill()
    async with breaker.cluster.taken_out(node):
        await breaker.wait(0.2, 2)
        await breaker.cluster.start(node)


async def kill_before_publish(breaker: Breaker) -> None:
    """Have a node die of a write that it has committed and told nobody of."""
    await _kill_in_a_write(breaker, BEFORE_PUBLISH)


async def kill_after_publish(breaker: Breaker) -> None:
    """Have a node die of a write that it has published and not answered."""
    await _kill_in_a_write(breaker, AFTER_PUBLISH)


async def _kill_in_a_write(breaker: Breaker, failpoint: str) -> None:
    node = breaker.random.choice(breaker.cluster.members)
    async with breaker.cluster.taken_out(node):
        await node.process.stop()
        node.process.failpoint = failpoint
        try:
            await breaker.cluster.start(node)
        finally:
            node.process.failpoint = ""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DIES_WITHIN_S):
            await _write_until_dead(node, breaker.random.randrange(1_000))
    # Without a database that it could write to it is still there.
    await node.process.kill()
    async with breaker.cluster.taken_out(node):
        await breaker.wait(0.2, 2)
        await breaker.cluster.start(node)


async def _write_until_dead(node: Member, number: int) -> None:
    """Write what the workload may not write in time."""
    async with httpx.AsyncClient(base_url=node.process.url, trust_env=False) as client:
        while node.process.running:
            number += 1
            with contextlib.suppress(httpx.HTTPError):
                await client.patch(f"/zones/{HOT}", json={"name": f"last words {number}"})
            await asyncio.sleep(0.05)


async def drain(breaker: Breaker) -> None:
    """Stop a node in order while it is used, and start it again."""
    await _restart(breaker.cluster, breaker.random.choice(breaker.cluster.members))


async def roll(breaker: Breaker) -> None:
    """Restart all nodes in order, one after the other."""
    for node in breaker.cluster.members:
        await _restart(breaker.cluster, node)


async def _restart(cluster: Cluster, node: Member) -> None:
    async with cluster.taken_out(node):
        await node.process.stop()
        await cluster.start(node)


async def freeze(breaker: Breaker) -> None:
    """Have a node that accepts and answers nothing for some seconds, in soaks for half a minute."""
    node = breaker.random.choice(breaker.cluster.members)
    from_s = breaker.recorder.now_s()
    node.process.sigstop()
    try:
        await breaker.wait(0, 0.7)
        async with breaker.cluster.taken_out(node):
            await breaker.wait(2 * breaker.patience, 5 * breaker.patience)
    finally:
        node.process.sigcont()
    breaker.recorder.outage(from_s, f"node:{node.name}", "frozen")


FAULTS: dict[str, FaultOf] = {
    "node killed": kill,
    "node killed before publish": kill_before_publish,
    "node killed after publish": kill_after_publish,
    "node drained": drain,
    "nodes rolled": roll,
    "node frozen": freeze,
}
