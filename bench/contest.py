"""Contests: the same work for ours and for peers, in turn, as often as asked."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from bench.crowd import Crowd, CrowdError, gathered
from bench.machine import MissingError, cpu_s, rss_bytes
from bench.publishers import Publisher
from bench.rows import LOAD_MAX_SHARE, Plan
from bench.stage import Opening, Side, Stage

WARM_UP_SHARE = 0.25
SETTLE_S = 1.0
LEAST_CPU_S = 0.02
"""Two ticks of the clock that CPU time is counted by."""


@dataclass(frozen=True, slots=True)
class Rate:
    """What one repetition came to.

    Attributes:
        deliveries_per_cpu_s: Per CPU second of the server.
        deliveries_per_s: By the clock.
        server_share: Of a core, that the server used.
        crowd_share: Of a core, that the crowd used: near 1 it was the crowd that was measured.
        p50_ms: Delay from the time in the change to its delivery.
        p99_ms: The same.
    """

    deliveries_per_cpu_s: float
    deliveries_per_s: float
    server_share: float
    crowd_share: float
    p50_ms: float
    p99_ms: float


async def in_turn(
    stage: Stage,
    plan: Plan,
    sides: Mapping[str, Opening],
    play: Any,
) -> dict[str, list[Any]]:
    """Let each side play once a run; a peer whose server is missing is said so, and left out.

    Args:
        stage: Where.
        plan: How often.
        sides: By name, the one that is measured first.
        play: Awaited with a `Side`; what it returns is collected, of the first at least once.

    Raises:
        CrowdError: no run of the first counted.
        MissingError: the first can't be run.
    """
    found: dict[str, list[Any]] = {name: [] for name in sides}
    measured = next(iter(sides))
    missing: set[str] = set()
    for run in range(plan.runs):
        for name, opening in sides.items():
            if name in missing:
                continue
            plan.say(f"{name}, run {run + 1} of {plan.runs}")
            try:
                async with opening(stage) as side:
                    found[name].append(await play(side))
            except MissingError as error:
                if name == measured:
                    raise
                missing.add(name)
                plan.say(f"left out: {error}\n")
            except CrowdError as error:
                plan.say(f"{name}: this run does not count: {error}\n")
    if not found[measured]:
        raise CrowdError(f"no run of `{measured}` counted")
    return found


async def saturate(
    stage: Stage,
    side: Side,
    *,
    count: int,
    window: int,
    seconds: float,
    begun: Callable[[], None] | None = None,
) -> Rate:
    """Keep `window` changes under way to all of `count` subscribers, and never more.

    The next block goes when the last one has reached everybody, so that nothing may be
    dropped, and the server has at most that many to join. `begun` is called after the warm-up.
    """
    async with gathered(stage.folder, side.crowd, count) as crowd:
        await closed_loop([crowd], side.publisher, window, seconds * WARM_UP_SHARE)
        if begun is not None:
            begun()
        began_s, began_cpu_s = time.monotonic(), cpu_s(side.pids)
        await closed_loop([crowd], side.publisher, window, seconds)
        return await _rate(crowd, side, began_s, began_cpu_s)


async def closed_loop(
    crowds: Sequence[Crowd], publisher: Publisher, window: int, seconds: float
) -> int:
    """Send a block whenever all crowds have had the last one; return how many changes went."""
    for crowd in crowds:
        await crowd.begin()
    until_s, sent = time.monotonic() + seconds, 0
    while time.monotonic() < until_s:
        await publisher.publish(window)
        sent += window
        for crowd in crowds:
            await crowd.wait_done(sent)
    return sent


async def pace(stage: Stage, side: Side, *, count: int, per_s: float, seconds: float) -> Rate:
    """Send changes one by one at a steady pace, whatever becomes of them."""
    async with gathered(stage.folder, side.crowd, count) as crowd:
        await _open_loop(crowd, side.publisher, per_s, seconds * WARM_UP_SHARE)
        began_s, began_cpu_s = time.monotonic(), cpu_s(side.pids)
        await _open_loop(crowd, side.publisher, per_s, seconds)
        rate = await _rate(crowd, side, began_s, began_cpu_s)
    if rate.crowd_share > LOAD_MAX_SHARE:
        raise CrowdError(f"the load used {rate.crowd_share:.0%} of a core: these are its delays")
    return rate


async def _open_loop(crowd: Crowd, publisher: Publisher, per_s: float, seconds: float) -> None:
    await crowd.begin()
    loop = asyncio.get_running_loop()
    due_s = loop.time()
    sent = 0
    while sent < max(1, round(per_s * seconds)):
        await publisher.publish(1)
        sent += 1
        due_s = max(due_s + 1 / per_s, loop.time() - 1)
        await asyncio.sleep(due_s - loop.time())
    await crowd.wait_done(sent)


async def _rate(crowd: Crowd, side: Side, began_s: float, began_cpu_s: float) -> Rate:
    took_s = time.monotonic() - began_s
    used_s = cpu_s(side.pids) - began_cpu_s
    if used_s < LEAST_CPU_S:
        raise CrowdError("the server used no CPU: these are not the processes that serve")
    report = await crowd.report()
    deliveries = report["deliveries"]
    return Rate(
        deliveries_per_cpu_s=deliveries / used_s,
        deliveries_per_s=deliveries / took_s,
        server_share=used_s / took_s,
        crowd_share=report["cpu_s"] / took_s,
        p50_ms=report["delay"]["p50_ms"],
        p99_ms=report["delay"]["p99_ms"],
    )


async def rest(stage: Stage, side: Side, *, count: int) -> float:
    """Return the bytes of the server's memory for each of `count` idle subscribers."""
    async with AsyncExitStack() as stack:
        # What the first connections need once is not of any connection.
        await stack.enter_async_context(gathered(stage.folder, side.crowd, 50))
        await asyncio.sleep(SETTLE_S)
        before = rss_bytes(side.pids)
        await stack.enter_async_context(gathered(stage.folder, side.crowd, count))
        await asyncio.sleep(SETTLE_S)
        return (rss_bytes(side.pids) - before) / count


def medians(rates: Sequence[Rate]) -> dict[str, float]:
    """Return the medians of what else was measured."""
    names = ("deliveries_per_s", "server_share", "crowd_share", "p50_ms", "p99_ms")
    return {name: statistics.median(getattr(rate, name) for rate in rates) for name in names}
