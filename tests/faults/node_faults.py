"""Faults of nodes: killed, stopped in order, and standing still."""

from __future__ import annotations

from tests.faults.breaker import Breaker, FaultOf
from tests.faults.cluster import Cluster, Member


async def kill(breaker: Breaker) -> None:
    """Kill a node without a warning, and start it again."""
    node = breaker.random.choice(breaker.cluster.members)
    # Only then does the load balancer notice.
    await node.process.kill()
    async with breaker.cluster.taken_out(node):
        await breaker.wait(0.2, 2)
        await node.process.start()


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
        await node.process.start()


async def freeze(breaker: Breaker) -> None:
    """Have a node that accepts and answers nothing for some seconds."""
    node = breaker.random.choice(breaker.cluster.members)
    from_s = breaker.recorder.now_s()
    node.process.sigstop()
    try:
        await breaker.wait(0, 0.7)
        async with breaker.cluster.taken_out(node):
            await breaker.wait(2, 5)
    finally:
        node.process.sigcont()
    breaker.recorder.outage(from_s, f"node:{node.name}", "frozen")


FAULTS: dict[str, FaultOf] = {
    "node killed": kill,
    "node drained": drain,
    "nodes rolled": roll,
    "node frozen": freeze,
}
