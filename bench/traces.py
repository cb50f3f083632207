"""Traces: what a transfer over HTTP costs a node that tells a collector of it."""

from __future__ import annotations

import asyncio
import itertools
import os
import statistics
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

from bench.http_load import WARM_UP_S, Answers, call
from bench.machine import family
from bench.stage import PinnedNode, Stage, raised
from bench.transfers import SPREADS, fill, movers

ROUNDS: Final = 6
SECONDS: Final = 3.0
SAMPLED: Final = 0.01
_ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@asynccontextmanager
async def _collector() -> AsyncIterator[str]:
    """Take whatever is exported, and look at nothing of it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
                await reader.readexactly(int(length))
                writer.write(_ANSWER)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def _nodes(stage: Stage, stack: AsyncExitStack) -> dict[str, PinnedNode]:
    url = await stack.enter_async_context(_collector())
    nodes = {"plain": await stack.enter_async_context(stage.node())}
    nodes["traced"] = await stack.enter_async_context(stage.node(otel_endpoint=url))
    # A node inherits it when it is started.
    os.environ |= {
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": str(SAMPLED),
    }
    nodes["sampled"] = await stack.enter_async_context(stage.node(otel_endpoint=url))
    return nodes


async def _measure() -> dict[str, float]:
    async with raised() as stage, AsyncExitStack() as stack:
        nodes = await _nodes(stage, stack)
        zones = max(SPREADS)
        where = await fill(stage, nodes["plain"], zones)
        found: dict[str, list[Answers]] = {name: [] for name in nodes}
        for node in nodes.values():
            pids = family(node.pid)
            await call(node.port, movers(where, zones), seconds=WARM_UP_S, pids=pids)
        for _, (name, node) in itertools.product(range(ROUNDS), nodes.items()):
            pids = family(node.pid)
            answers = await call(node.port, movers(where, zones), seconds=SECONDS, pids=pids)
            found[name].append(answers)
    return {name: statistics.median(a.per_cpu_s for a in all_) for name, all_ in found.items()}


def traces() -> dict[str, Any]:
    """Measure transfers per CPU second of nodes that trace all, a hundredth, and nothing."""
    per_cpu_s = asyncio.run(_measure())
    return {
        "what": "transfers over HTTP, all of them traced",
        "value": per_cpu_s["traced"],
        "unit": "transfers per CPU second",
        "peer": "the same untraced",
        "peer_value": per_cpu_s["plain"],
        "ratio": per_cpu_s["traced"] / per_cpu_s["plain"],
        "sampled_share": SAMPLED,
        "sampled_ratio": per_cpu_s["sampled"] / per_cpu_s["plain"],
        "runs": ROUNDS,
    }
