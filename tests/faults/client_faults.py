"""Faults of clients and of their network: slow, stuck, flooding, and cut."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import AsyncExitStack

from tests.faults.breaker import Breaker, FaultOf
from tests.faults.cluster import SLOW_DRAIN_TIMEOUT_S
from tests.faults.crowd import SMALL_BUFFER_BYTES, text_of_client
from tests.faults.watchers import CONNECT_TIMEOUT_S
from tests.realtime.raw_socket import raw_socket

BURSTS = 14
FLOODING = 3
FLOOD_COMMANDS = 3_000
SILENT_S = 6.0
"""Nodes wait two seconds for the next ping, and three for its answer."""


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


async def stuck(breaker: Breaker) -> None:
    """Let some clients read nothing for longer than nodes put up with."""
    chosen = breaker.random.sample(breaker.watchers, max(1, len(breaker.watchers) // 3))
    for watcher in chosen:
        watcher.hold()
    try:
        # Nodes look once a second.
        await breaker.wait(SLOW_DRAIN_TIMEOUT_S + 2, SLOW_DRAIN_TIMEOUT_S + 4)
    finally:
        for watcher in chosen:
            watcher.release()


async def in_bursts(breaker: Breaker) -> None:
    """Let some clients read a little, again and again."""
    chosen = breaker.random.sample(breaker.watchers, max(1, len(breaker.watchers) // 2))
    try:
        for _ in range(BURSTS):
            for watcher in chosen:
                watcher.hold()
            await breaker.wait(0.2, 0.8)
            for watcher in breaker.random.sample(chosen, max(1, len(chosen) // 2)):
                watcher.release()
            await breaker.wait(0.005, 0.05)
    finally:
        for watcher in chosen:
            watcher.release()


async def flooding(breaker: Breaker) -> None:
    """Let strangers ask a node for the history of a zone thousands of times, and read nothing."""
    target = breaker.cluster.choose(breaker.random)
    if target is None:
        return
    history = '"history":{"channel":"zone:Z1","limit":300}'
    flood = b"".join(
        text_of_client(f'{{"id":{number},{history}}}') for number in range(2, FLOOD_COMMANDS)
    )
    async with AsyncExitStack() as stack:
        for _ in range(FLOODING):
            # Another fault may take the node away meanwhile.
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    raw = await stack.enter_async_context(
                        raw_socket(target.port, receive_buffer_bytes=SMALL_BUFFER_BYTES)
                    )
                    await raw.shake_hands()
                    raw.write('{"id":1,"connect":{}}')
                    raw.writer.write(flood)
        await breaker.wait(2, 4)


async def half_open(breaker: Breaker) -> None:
    """Let the network of some clients fall silent for longer than nodes wait for a sign of life.

    They come back by another way as soon as they notice, before or after their nodes did.
    """
    chosen = breaker.random.sample(breaker.watchers, max(1, len(breaker.watchers) // 2))
    from_s = breaker.recorder.now_s()
    for watcher in chosen:
        watcher.gate.silence()
    try:
        await breaker.wait(SILENT_S, SILENT_S + 3)
    finally:
        for watcher in chosen:
            watcher.gate.drop_silent()
            breaker.recorder.outage(from_s, f"client:{watcher.name}", "half open")


async def cut(breaker: Breaker) -> None:
    """Drop all connections of all clients at once."""
    for watcher in breaker.watchers:
        watcher.gate.cut()
    await breaker.wait(0.1, 0.5)


FAULTS: dict[str, FaultOf] = {
    "clients slow": slow,
    "clients stuck": stuck,
    "clients in bursts": in_bursts,
    "clients flooding": flooding,
    "clients half open": half_open,
    "clients cut": cut,
}
