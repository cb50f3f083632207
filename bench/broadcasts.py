"""F1, F2, F6: one zone, many subscribers, as many deliveries as a core makes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.contest import WARM_UP_SHARE, Rate, closed_loop, in_turn, medians, rest, saturate
from bench.crowd import gathered
from bench.flame import sampled
from bench.loop_pauses import longest_pauses_ms
from bench.machine import allow_files
from bench.peers import servers as peers
from bench.rows import Plan, Row, Target
from bench.stage import Opening, Side, Stage, ours, raised

OURS = "ours"
LIMIT = "C, joining"
NCHAN = "nchan"
NAIVE = "sse-starlette, naive"
UNIT = "deliveries/CPU s"


@dataclass(frozen=True, slots=True)
class _Work:
    """One fan-out: how many get how many changes at once, and what it is to reach."""

    id: str
    count: int
    window: int
    targets: dict[str, Target | None]

    @property
    def what(self) -> str:
        return f"fan-out to {self.count:,}, {self.window} in flight"


_SOCKETS: dict[str, Opening] = {
    OURS: ours,
    LIMIT: peers.limit,
    NCHAN: peers.nchan,
}
_MORE_SOCKETS: dict[str, Opening] = {
    "node ws": peers.node_ws,
    "socket.io": peers.socket_io,
    "websockets.broadcast": peers.websockets_broadcast,
    "uvicorn, naive": peers.naive,
}
"""Without a target of their own: what one would choose, for scale."""
_STREAMS: dict[str, Opening] = {
    OURS: partial(ours, is_sse=True),
    NCHAN: partial(peers.nchan, is_sse=True),
    NAIVE: partial(peers.naive, is_sse=True),
}


async def to_a_thousand(plan: Plan) -> list[Row]:
    """F1: 1,000 WebSockets, 32 in flight and 1 in flight."""
    joined: dict[str, Target | None] = {LIMIT: Target("ratio", 0.8), NCHAN: Target("ratio", 10)}
    joined |= dict.fromkeys(_MORE_SOCKETS)
    single: dict[str, Target | None] = {LIMIT: Target("ratio", 0.6), NCHAN: Target("ratio", 1)}
    rows = await _contest(plan, _Work("F1", 1_000, 32, joined), _SOCKETS | _MORE_SOCKETS)
    return rows + await _contest(plan, _Work("F1", 1_000, 1, single), _SOCKETS)


async def to_ten_thousand(plan: Plan) -> list[Row]:
    """F2: 10,000 WebSockets, 8 in flight, and the pauses of the loop meanwhile."""
    work = _Work("F2", 10_000, 8, {LIMIT: Target("ratio", 0.8), NCHAN: Target("ratio", 5)})
    rows = await _contest(plan, work, _SOCKETS)
    async with raised() as stage:
        pauses_ms = await longest_pauses_ms(stage, plan, count=work.count, window=work.window)
    if pauses_ms:
        target = Target("value", 20, at_least=False)
        rows.append(Row("F2", "longest pause of the event loop", "ms", pauses_ms, target=target))
    return rows


async def to_streams(plan: Plan) -> list[Row]:
    """F6: 1,000 event streams, 32 in flight, and the memory of each."""
    work = _Work("F6", 1_000, 32, {NCHAN: Target("ratio", 1), NAIVE: None})
    rows = await _contest(plan, work, _STREAMS)
    async with raised() as stage:

        async def play(side: Side) -> float:
            return await rest(stage, side, count=1_000)

        bytes_each = await in_turn(stage, plan, _STREAMS, play)
    rows += [
        Row(
            "F6",
            "memory per idle event stream, 1,000 of them",
            "bytes",
            bytes_each[OURS],
            name,
            bytes_each[name],
            Target("value", 14_000, at_least=False),
        )
        for name in (NCHAN, NAIVE)
    ]
    return rows


async def _contest(plan: Plan, work: _Work, sides: dict[str, Opening]) -> list[Row]:
    allow_files(work.count)
    async with raised() as stage:
        rates = await in_turn(stage, plan, sides, partial(_play, stage, plan, work))
    return [
        Row(
            work.id,
            work.what,
            UNIT,
            [rate.deliveries_per_cpu_s for rate in rates[OURS]],
            name,
            [rate.deliveries_per_cpu_s for rate in rates[name]],
            target,
            note="changes committed in blocks of the window, then published on Redis",
            more=medians(rates[OURS]),
            loads=[rate.crowd_share for rate in rates[OURS]],
            peer_loads=[rate.crowd_share for rate in rates[name]],
        )
        for name, target in work.targets.items()
    ]


async def flame_of_fan_out(plan: Plan, file: Path) -> None:
    """F1: draw what a node does with 32 changes in flight to 1,000."""
    allow_files(1_000)
    async with (
        raised() as stage,
        ours(stage) as side,
        gathered(stage.folder, side.crowd, 1_000) as crowd,
    ):
        plan.say("sampling")
        await closed_loop([crowd], side.publisher, 32, WARM_UP_SHARE * plan.seconds)
        async with sampled(side.pids[0], file, "F1: fan-out to 1,000, 32 in flight"):
            await closed_loop([crowd], side.publisher, 32, plan.seconds)


async def _play(stage: Stage, plan: Plan, work: _Work, side: Side) -> Rate:
    return await saturate(stage, side, count=work.count, window=work.window, seconds=plan.seconds)
