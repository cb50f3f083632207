"""Faults of Redis: dead, absent, silent, and a node cut off from it."""

from __future__ import annotations

from tests.faults.breaker import LONGER_THAN_STALENESS_S, Breaker, FaultOf


async def kill(breaker: Breaker) -> None:
    """Kill Redis, and start it empty."""
    await breaker.cluster.redis.kill()
    await breaker.wait(0.1, 1)
    await breaker.cluster.redis.start()


async def stop(breaker: Breaker) -> None:
    """Have no Redis for longer than a change may take."""
    await breaker.cluster.redis.stop()
    await breaker.wait(*LONGER_THAN_STALENESS_S)
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


FAULTS: dict[str, FaultOf] = {
    "redis killed and started empty": kill,
    "redis stopped": stop,
    "redis frozen": freeze,
    "pub/sub connections killed": deafen,
}
