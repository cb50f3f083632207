"""F3, F12: how late a change is at a steady pace, and beside a client that doesn't read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

from bench.contest import Rate, in_turn, medians, pace
from bench.peers import servers as peers
from bench.rows import Plan, Row, Target
from bench.stage import Opening, Side, Stage, ours, raised

SUBSCRIBERS = 1_000
PACES_PER_S = (100, 20)
UNJOINED = "ours, each change by itself"
NO_WORSE = Target("ratio", 1, at_least=False)
SLOW_PACE_PER_S = 100
SLOW_PAD_BYTES = 1_000
SLOW_LEAST_S = 12.0
"""As long as it takes until the slow client's megabyte has filled up."""


async def steady_delays(plan: Plan) -> list[Row]:
    """F3: delivery delay to 1,000 subscribers, 100 and 20 changes a second."""
    sides: dict[str, Opening] = {
        "ours": ours,
        UNJOINED: partial(ours, fan_out_window_s=0),
        "node ws": peers.node_ws,
        "nchan": peers.nchan,
        "C, joining": peers.limit,
    }
    rows = []
    async with raised() as stage:
        for per_s in PACES_PER_S:
            play = partial(_play, stage, plan.seconds, per_s)
            found: dict[str, list[Rate]] = await in_turn(stage, plan, sides, play)
            rows += _rows(per_s, found)
    return rows


async def _play(stage: Stage, seconds: float, per_s: float, side: Side) -> Rate:
    return await pace(stage, side, count=SUBSCRIBERS, per_s=per_s, seconds=seconds)


def _rows(per_s: int, found: dict[str, list[Rate]]) -> list[Row]:
    p99s_ms = {name: [rate.p99_ms for rate in rates] for name, rates in found.items()}
    what = f"p99 to {SUBSCRIBERS:,}, {per_s} changes/s"
    note = "ours from before the commit, theirs from before it is handed over"
    more = medians(found["ours"])
    loads = {name: [rate.crowd_share for rate in rates] for name, rates in found.items()}
    rows = [
        Row(
            "F3",
            what,
            "ms",
            p99s_ms["ours"],
            name,
            p99s_ms[name],
            target,
            note,
            more,
            loads["ours"],
            loads[name],
        )
        for name, target in (
            ("node ws", NO_WORSE),
            ("nchan", NO_WORSE),
            ("C, joining", None),
            (UNJOINED, None),
        )
    ]
    shares = {name: [rate.server_share for rate in rates] for name, rates in found.items()}
    target = Target("value", 0.4, at_least=False) if per_s == PACES_PER_S[0] else None
    what = f"share of a core, {SUBSCRIBERS:,} subscribers, {per_s} changes/s"
    rows += [
        Row("F3", what, "cores", shares["ours"], name, shares[name], limit)
        for name, limit in (("nchan", target), (UNJOINED, None))
    ]
    return rows


@asynccontextmanager
async def _padded(stage: Stage, *, stalled: int) -> AsyncIterator[Side]:
    async with ours(stage, pad_bytes=SLOW_PAD_BYTES) as side:
        yield replace(side, crowd=replace(side.crowd, stalled=stalled))


async def beside_a_slow_client(plan: Plan) -> list[Row]:
    """F12: the delay to 999 others while one doesn't read, against the same without it."""
    sides: dict[str, Opening] = {
        "one is slow": partial(_padded, stalled=1),
        "all read": partial(_padded, stalled=0),
    }
    seconds = max(plan.seconds, SLOW_LEAST_S)
    async with raised() as stage:
        play = partial(_play, stage, seconds, SLOW_PACE_PER_S)
        found: dict[str, list[Rate]] = await in_turn(stage, plan, sides, play)
    slow, others = found["one is slow"], found["all read"]
    what = f"p99 to {SUBSCRIBERS - 1} while one doesn't read"
    return [
        Row(
            "F12",
            what,
            "ms",
            [rate.p99_ms for rate in slow],
            "all read",
            [rate.p99_ms for rate in others],
            Target("ratio", 1.2, at_least=False),
            note=f"changes of {SLOW_PAD_BYTES} bytes and more, {SLOW_PACE_PER_S}/s",
            more=medians(slow),
            loads=[rate.crowd_share for rate in slow],
            peer_loads=[rate.crowd_share for rate in others],
        )
    ]
