"""F10: the cached dict of all users, against a route that returns constant bytes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import httpx

from bench.http_load import WARM_UP_S, Answers, call, request
from bench.machine import family
from bench.peers.servers import PeerProcess
from bench.rows import Plan, Row, Target
from bench.stage import Stage, raised, running
from tests.processes import ServerProcess

USERS: Final = 10_000
CALLERS: Final = 8
PATH: Final = "/users-dict"
CONSTANT: Final = Path(__file__).parent / "peers" / "constant.py"


async def cached_users(plan: Plan) -> list[Row]:
    """F10: requests per CPU second of the server, whole and conditional."""
    found: dict[tuple[str, int], list[Answers]] = {}
    async with raised() as stage, stage.node() as node:
        await stage.fill(node, {"bench": USERS})
        async with httpx.AsyncClient(base_url=node.url) as http:
            answer = (await http.get(PATH)).raise_for_status()
        body, etag = answer.content, answer.headers["etag"]
        async with _constant_route(stage, body, etag) as peer:
            sides: dict[str, ServerProcess] = {"ours": node, "constant": peer}
            for server in sides.values():
                asking = [_always(request("GET", PATH))] * CALLERS
                await call(server.port, asking, seconds=WARM_UP_S, pids=family(server.pid))
            for run in range(plan.runs):
                for name, server in sides.items():
                    plan.say(f"{name}, run {run + 1} of {plan.runs}")
                    pids = family(server.pid)
                    for status, header in ((200, ""), (304, f"If-None-Match: {etag}")):
                        ask = _always(request("GET", PATH, header=header))
                        asking = [ask] * CALLERS
                        answers = await call(
                            server.port, asking, seconds=plan.seconds, pids=pids, status=status
                        )
                        found.setdefault((name, status), []).append(answers)
    names = {200: f"GET {PATH}, {USERS:,} users, {len(body):,} bytes", 304: "the same, conditional"}
    return [
        Row(
            "F10",
            what,
            "requests/CPU s",
            [answers.per_cpu_s for answers in found["ours", status]],
            "Starlette, constant bytes",
            [answers.per_cpu_s for answers in found["constant", status]],
            Target("ratio", 0.7),
            loads=[answers.load_share for answers in found["ours", status]],
            peer_loads=[answers.load_share for answers in found["constant", status]],
        )
        for status, what in names.items()
    ]


def _always(text: bytes) -> Callable[[], bytes]:
    return lambda: text


@asynccontextmanager
async def _constant_route(stage: Stage, body: bytes, etag: str) -> AsyncIterator[PeerProcess]:
    folder = stage.new_folder("constant")
    file = folder / "body"
    await asyncio.to_thread(file.write_bytes, body)
    prefix = stage.cores.prefix

    def command(port: int, _: int) -> Sequence[str]:
        return [*prefix, sys.executable, str(CONSTANT), str(port), PATH, str(file), etag]

    peer = PeerProcess(folder, command)
    async with running(peer):
        yield peer
