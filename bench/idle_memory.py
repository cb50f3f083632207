"""F4: what a connection costs that is subscribed and says nothing."""

from __future__ import annotations

from bench.contest import in_turn, rest
from bench.machine import allow_files
from bench.peers import servers as peers
from bench.rows import Plan, Row, Target
from bench.stage import Opening, Side, ours, raised

CONNECTIONS = 10_000
TARGET_BYTES = 6_000


async def idle_connections(plan: Plan) -> list[Row]:
    """F4: the growth of the node's memory over 10,000 connections, each with a zone."""
    allow_files(CONNECTIONS)
    sides: dict[str, Opening] = {"ours": ours, "nchan": peers.nchan, "uvicorn, naive": peers.naive}
    async with raised() as stage:

        async def play(side: Side) -> float:
            return await rest(stage, side, count=CONNECTIONS)

        found = await in_turn(stage, plan, sides, play)
    target = Target("value", TARGET_BYTES, at_least=False)
    what = f"memory per idle connection, {CONNECTIONS:,} of them"
    return [
        Row("F4", what, "bytes", found["ours"], name, found[name], target)
        for name in ("nchan", "uvicorn, naive")
    ]
