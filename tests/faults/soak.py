"""Soaks: scenarios one after another on one cluster, each judged, until the time is over."""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from rich.console import Console
from rich.status import Status

from db import migrate
from tests.faults.cluster import Cluster, running_cluster
from tests.faults.faults import FAULTS
from tests.faults.report import Tally, tell
from tests.faults.scenario import Outcome, Plan, Progress, Scenario
from tests.processes import Scratch
from tests.sentinels import running_trio
from tests.servers import DATABASE, Postgres, find_postgres, find_redis

NODES = 3
ROUND_S = 100.0
PATIENCE = 8
"""Redis is stopped for about a minute."""
REDIS_DOWN_AFTER_S = 600
"""Longer than any fault lasts: the replica takes over only when a fault wants it to."""
LOG_MAX_BYTES = 6_000
LOG_SEARCHED_BYTES = 20_000_000
ERROR = '"level": "error"'
ERRORS_MAX = 20
SEEDS_APART = 1_000
"""Rounds of one soak have seeds of their own, so that one can be repeated alone."""


@asynccontextmanager
async def own_cluster() -> AsyncIterator[Cluster]:
    """Run PostgreSQL, Redis and nodes until the body ends."""
    postgres_programs, redis_programs = find_postgres(), find_redis()
    if postgres_programs is None or redis_programs is None:
        sys.exit("soak: needs PostgreSQL and Redis; `dev.py test` installs them")
    scratch = Scratch()
    try:
        postgres = await Postgres(postgres_programs, scratch).start_server()
        try:
            await postgres.create_database(DATABASE)
            await migrate.upgrade(postgres.url)
            folder = scratch.new_folder("nodes")
            async with (
                running_trio(redis_programs, scratch, REDIS_DOWN_AFTER_S) as trio,
                running_cluster(folder, postgres, trio, NODES) as cluster,
            ):
                yield cluster
        finally:
            await postgres.stop()
    finally:
        scratch.close()


def find_node() -> Path | None:
    """Return the program Node, when the JavaScript SDK is installed for it."""
    packages = Path(__file__).parents[1] / "clients" / "node_modules" / "centrifuge"
    found = shutil.which("node")
    return Path(found) if found and packages.is_dir() else None


async def soak(minutes: float, seed: int, console: Console) -> Tally:
    """Run rounds until the minutes are over or a promise is broken."""
    tally = Tally(seed, minutes)
    node = find_node()
    if node is None:
        console.print("without the JavaScript SDK: no Node, or no packages in tests/clients")
    began_s = time.monotonic()
    async with own_cluster() as cluster:
        with console.status("") as status:
            while (left_s := began_s + minutes * 60 - time.monotonic()) > 5:
                round_seed = seed * SEEDS_APART + tally.rounds
                due = FAULTS.keys() - tally.faults.keys()
                plan = Plan(round_seed, min(ROUND_S, left_s), due=frozenset(due), patience=PATIENCE)
                scenario = Scenario(cluster, plan, node, _progress(status, tally, began_s))
                outcome = await scenario.run()
                tally.add(outcome)
                console.print(
                    f"{time.monotonic() - began_s:6.0f} s  seed {round_seed}:"
                    f" {outcome.operations} operations, {len(outcome.history.log)} changes,"
                    f" {sum(outcome.faults.values())} faults,"
                    f" {len(outcome.violations)} violations"
                )
                if outcome.violations:
                    _explain(outcome, cluster, console)
                    break
    return tally


def _explain(outcome: Outcome, cluster: Cluster, console: Console) -> None:
    for line in tell(outcome):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for member in cluster.members:
        # What is wrong may have been long before the end.
        lines = member.process.log_tail(LOG_SEARCHED_BYTES).splitlines()
        errors = "\n".join([line for line in lines if ERROR in line][-ERRORS_MAX:])
        log = member.process.log_tail(LOG_MAX_BYTES)
        text = f"errors of {member.name}:\n{errors}\nthe end of its log:\n{log}"
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def _progress(status: Status, tally: Tally, began_s: float) -> Progress:
    def show(what: str) -> None:
        status.update(f"{time.monotonic() - began_s:.0f} s, round {tally.rounds + 1}: {what}")

    return show


def main() -> int:
    """Read the command line, run, and return 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="dev.py soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5, help="how long, 5 by default")
    parser.add_argument("--seed", type=int, default=1, help="all choices come from it")
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    arguments = parser.parse_args()
    console = Console()
    tally = asyncio.run(soak(arguments.minutes, arguments.seed, console))
    if arguments.json:
        arguments.json.write_text(json.dumps(tally.document(), indent=1), encoding="utf-8")
    for name, count in sorted(tally.faults.items()):
        console.print(f"{count:6} x {name}", highlight=False)
    console.print(
        f"seed {tally.seed}, {tally.rounds} rounds, {tally.operations} operations,"
        f" {len(tally.violations)} violations"
    )
    return 1 if tally.violations else 0


if __name__ == "__main__":
    sys.exit(main())
