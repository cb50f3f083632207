"""F8, F9: transfers a second, one in each request and a thousand in each."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import statistics
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import asyncpg

from bench.http_load import WARM_UP_S, Answers, call, request
from bench.machine import family
from bench.peers.servers import PeerProcess
from bench.rows import Plan, Row, Target
from bench.stage import PinnedNode, Stage, raised, running
from db.migrate import upgrade
from realtime.settings import Settings
from tests.processes import ServerProcess

USERS: Final = 1_600
CALLERS: Final = 32
SPREADS: Final = (100, 2)
BULK_MOVES: Final = 1_000
BARE: Final = Path(__file__).parent / "peers" / "bare_update.py"
_SEED: Final = 7

_FILL = """INSERT INTO users (global_id, name, zone_id, attributes, version, created_at, updated_at)
    SELECT n, 'User ' || n, 'z' || n % $2::int, '{}', 1, now(), now()
    FROM generate_series(1, $1::int) AS n"""
_FILL_ZONES = """INSERT INTO zones (zone_id, name, attributes, created_at, updated_at)
    SELECT 'z' || n, 'z' || n, '{}', now(), now() FROM generate_series(0, $1::int - 1) AS n"""


def movers(where: dict[int, int], zones: int) -> list[Callable[[], bytes]]:
    """Give each caller users of its own, moved in turn to a zone that is another one.

    Args:
        where: The number of each user's zone, by id; kept up to date.
        zones: To so many.
    """
    chances = random.Random(_SEED)  # noqa: S311 - no secret.

    def mover(mine: Sequence[int]) -> Callable[[], bytes]:
        turns = itertools.cycle(mine)

        def next_request() -> bytes:
            user_id = next(turns)
            where[user_id] = (where[user_id] + chances.randrange(1, zones)) % zones
            body = b'{"zone_id":"z%d"}' % where[user_id]
            return request("POST", f"/users/{user_id}/transfer", body)

        return next_request

    ids = list(where)
    return [mover(ids[caller::CALLERS]) for caller in range(CALLERS)]


async def single_transfers(plan: Plan) -> list[Row]:
    """F8: one transfer a request, 32 at a time, over 100 zones and over 2."""
    async with raised() as stage, stage.node() as node, _bare_update(stage) as peer:
        where = await fill(stage, node, max(SPREADS))
        peer_where = {number: number % max(SPREADS) for number in range(1, USERS + 1)}
        found: dict[tuple[str, int], list[Answers]] = {}
        sides: dict[str, tuple[ServerProcess, dict[int, int]]] = {
            "ours": (node, where),
            "bare": (peer, peer_where),
        }
        for server, places in sides.values():
            plan.say("warming up")
            turns = movers(places, max(SPREADS))
            await call(server.port, turns, seconds=WARM_UP_S, pids=family(server.pid))
        for run, spread in itertools.product(range(plan.runs), SPREADS):
            for name, (server, places) in sides.items():
                plan.say(f"{name}, {spread} zones, run {run + 1} of {plan.runs}")
                answers = await call(
                    server.port,
                    movers(places, spread),
                    seconds=plan.seconds,
                    pids=family(server.pid),
                )
                found.setdefault((name, spread), []).append(answers)
    return [_row(spread, found["ours", spread], found["bare", spread]) for spread in SPREADS]


def _row(spread: int, ours: Sequence[Answers], bare: Sequence[Answers]) -> Row:
    return Row(
        "F8",
        f"transfers, {CALLERS} at a time, over {spread} zones",
        "transfers/s",
        [answers.per_s for answers in ours],
        "the same UPDATE, FastAPI and SQLAlchemy",
        [answers.per_s for answers in bare],
        Target("ratio", 0.7) if spread == max(SPREADS) else None,
        note="by the clock: PostgreSQL's part counts, too",
        more={
            "transfers_per_cpu_s": statistics.median(a.per_cpu_s for a in ours),
            "peer_transfers_per_cpu_s": statistics.median(a.per_cpu_s for a in bare),
            "p99_ms": statistics.median(a.p99_ms for a in ours),
            "peer_p99_ms": statistics.median(a.p99_ms for a in bare),
        },
        loads=[answers.load_share for answers in ours],
        peer_loads=[answers.load_share for answers in bare],
    )


async def bulk_transfers(plan: Plan) -> list[Row]:
    """F9: 1,000 moves in a request, against single ones on the same node."""
    bulk, single, loads, single_loads = [], [], [], []
    async with raised() as stage, stage.node() as node:
        zones = max(SPREADS)
        where = await fill(stage, node, zones)
        pids = family(node.pid)
        await call(node.port, movers(where, zones), seconds=WARM_UP_S, pids=pids)
        for run in range(plan.runs):
            plan.say(f"bulk, run {run + 1} of {plan.runs}")
            answers = await call(
                node.port, [_bulk_mover(where, zones)], seconds=plan.seconds, pids=pids
            )
            bulk.append(answers.per_s * BULK_MOVES)
            loads.append(answers.load_share)
            plan.say(f"single, run {run + 1} of {plan.runs}")
            answers = await call(node.port, movers(where, zones), seconds=plan.seconds, pids=pids)
            single.append(answers.per_s)
            single_loads.append(answers.load_share)
    return [
        Row(
            "F9",
            f"{BULK_MOVES:,} moves in one request, over {zones} zones",
            "moves/s",
            bulk,
            "one move a request, 32 at a time",
            single,
            Target("ratio", 20),
            loads=loads,
            peer_loads=single_loads,
        )
    ]


def _bulk_mover(where: dict[int, int], zones: int) -> Callable[[], bytes]:
    ids = list(where)[:BULK_MOVES]

    def next_request() -> bytes:
        where.update({user_id: (where[user_id] + 1) % zones for user_id in ids})
        moves = [{"user_id": user_id, "zone_id": f"z{where[user_id]}"} for user_id in ids]
        return request("POST", "/transfers", json.dumps({"transfers": moves}).encode())

    return next_request


async def fill(stage: Stage, node: PinnedNode, zones: int) -> dict[int, int]:
    """Make zones and users over HTTP; return the number of each user's zone, by id."""
    await stage.fill(node, {f"z{zone}": USERS // zones for zone in range(zones)})
    async with stage.connection() as connection:
        rows = await connection.fetch("SELECT id, zone_id FROM users ORDER BY id")
    return {row["id"]: int(row["zone_id"].removeprefix("z")) for row in rows}


@asynccontextmanager
async def _bare_update(stage: Stage) -> AsyncIterator[PeerProcess]:
    await stage.postgres.create_database("bare")
    url = stage.postgres.url_of("bare")
    await upgrade(url)
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        await connection.execute(_FILL_ZONES, max(SPREADS))
        await connection.execute(_FILL, USERS, max(SPREADS))
    finally:
        await connection.close()
    prefix = stage.cores.prefix
    settings = Settings()
    pool = [str(settings.pool_size), str(settings.max_overflow)]

    def command(port: int, _: int) -> list[str]:
        return [*prefix, sys.executable, str(BARE), str(port), url, *pool]

    folder = await asyncio.to_thread(stage.new_folder, "bare")
    peer = PeerProcess(folder, command)
    async with running(peer):
        yield peer
