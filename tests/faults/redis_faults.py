"""Faults of Redis: dead, absent, silent, another one, and nodes cut off from it."""

from __future__ import annotations

from redis.asyncio import Redis

from tests.faults.breaker import LONGER_THAN_STALENESS_S, Breaker, FaultOf

OVERRUN_BYTES = 200_000
SMALL_LIMIT = "pubsub 65536 0 0"
"""More than any message of a scenario, less than `OVERRUN_BYTES`."""
USUAL_LIMIT = "pubsub 33554432 8388608 60"


async def kill(breaker: Breaker) -> None:
    """Kill Redis, and start it empty."""
    await breaker.cluster.redis.kill()
    await breaker.wait(0.1, 1)
    await breaker.cluster.redis.start()


async def stop(breaker: Breaker) -> None:
    """Have no Redis for longer than a change may take, in soaks for most of a minute."""
    await breaker.cluster.redis.stop()
    least_s, most_s = LONGER_THAN_STALENESS_S
    await breaker.wait(least_s * breaker.patience, most_s * breaker.patience)
    await breaker.cluster.redis.start()


async def freeze(breaker: Breaker) -> None:
    """Have a Redis that accepts and answers nothing, for longer than a change may take."""
    breaker.cluster.redis.sigstop()
    try:
        await breaker.wait(*LONGER_THAN_STALENESS_S)
    finally:
        breaker.cluster.redis.sigcont()


async def deafen(breaker: Breaker) -> None:
    """Kill the subscribing connections of all nodes."""
    for _ in range(breaker.random.randint(1, 3)):
        await breaker.cluster.redis.call("CLIENT KILL TYPE pubsub")
        await breaker.wait(0.1, 0.8)


async def overrun(breaker: Breaker) -> None:
    """Have Redis cut all subscribers because more waits for them than it keeps."""
    for _ in range(breaker.random.randint(1, 3)):
        await overrun_subscribers(breaker.cluster.redis.port)
        await breaker.wait(0.1, 0.8)


async def overrun_subscribers(port: int, key_prefix: str = "zonecast") -> None:
    """Overrun the output buffers of all nodes that subscribe to a Redis, once."""
    async with Redis(port=port) as admin:
        await admin.config_set("client-output-buffer-limit", SMALL_LIMIT)
        try:
            # What waits is looked at when it is queued, before any of it is sent.
            await admin.publish(f"{key_prefix}:all", b"x" * OVERRUN_BYTES)
        finally:
            await admin.config_set("client-output-buffer-limit", USUAL_LIMIT)


async def fail_over(breaker: Breaker) -> None:
    """Kill Redis behind the Sentinel, let its replica take over, and bring it back as one."""
    trio = breaker.cluster.trio
    assert trio is not None, "needs a cluster with a Sentinel"
    await trio.until_safe()
    await trio.primary.kill()
    await breaker.wait(0.1, 1)
    await trio.fail_over()
    breaker.cluster.redis = trio.primary
    await breaker.wait(0.1, 1)
    await trio.replica.start()


FAULTS: dict[str, FaultOf] = {
    "redis killed and started empty": kill,
    "redis stopped": stop,
    "redis frozen": freeze,
    "pub/sub connections killed": deafen,
    "subscriber buffer overrun": overrun,
    "redis failed over": fail_over,
}
