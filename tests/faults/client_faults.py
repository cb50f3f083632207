"""Faults of clients and of their network: slow, and cut."""

from __future__ import annotations

from tests.faults.breaker import Breaker, FaultOf


async def slow(breaker: Breaker) -> None:
    """Let some clients read nothing for some seconds."""
    count = max(1, len(breaker.watchers) // 3)
    chosen = breaker.random.sample(breaker.watchers, count)
    for watcher in chosen:
        watcher.hold()
    try:
        await breaker.wait(2, 6)
    finally:
        for watcher in chosen:
            watcher.release()


async def cut(breaker: Breaker) -> None:
    """Drop all connections of all clients at once."""
    for watcher in breaker.watchers:
        watcher.gate.cut()
    await breaker.wait(0.1, 0.5)


FAULTS: dict[str, FaultOf] = {
    "clients slow": slow,
    "clients cut": cut,
}
