"""Run the measurements that are named, or all: `python3 dev.py bench [ID...]`."""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.broadcasts import to_a_thousand, to_streams, to_ten_thousand
from bench.cached_dict import cached_users
from bench.crowd import CrowdError
from bench.delays import beside_a_slow_client, steady_delays
from bench.fan_out import fan_out
from bench.http_load import HttpLoadError
from bench.idle_memory import idle_connections
from bench.latency import commit_to_subscriber
from bench.machine import MissingError, describe
from bench.many_zones import many_zones
from bench.rows import Measurement, Plan, Row, table
from bench.several_nodes import several_nodes
from bench.slow_clients import slow_clients
from bench.storm import reconnect_storm
from bench.transfers import bulk_transfers, single_transfers
from bench.writes import writes
from tests.processes import ServerStartError

MEASUREMENTS: dict[str, Measurement] = {
    "F1": to_a_thousand,
    "F2": to_ten_thousand,
    "F3": steady_delays,
    "F4": idle_connections,
    "F5": reconnect_storm,
    "F6": to_streams,
    "F7": commit_to_subscriber,
    "F8": single_transfers,
    "F9": bulk_transfers,
    "F10": cached_users,
    "F11": many_zones,
    "F12": beside_a_slow_client,
    "F13": several_nodes,
}
"""Against peers, on real servers."""

PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "fan-out": fan_out,
    "writes": writes,
    "slow-clients": slow_clients,
}
"""Of one part of the service, against the naive way, inside this process or on one node."""


def main(words: Sequence[str] | None = None) -> int:
    """Print a table of ours, the peers', and their ratios; return the exit code."""
    known = [*MEASUREMENTS, *PARTS]
    parser = argparse.ArgumentParser(prog="dev.py bench", description=__doc__)
    parser.add_argument("ids", nargs="*", metavar="ID", help=", ".join(known))
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows there")
    parser.add_argument("--runs", type=int, default=3, help="repetitions of each (3)")
    parser.add_argument("--seconds", type=float, default=5, help="of each repetition (5)")
    arguments = parser.parse_args(words)
    unknown = [name for name in arguments.ids if name not in known]
    if unknown:
        print(
            f"dev.py bench: not measured: {', '.join(unknown)}; there are {', '.join(known)}",
            file=sys.stderr,
        )
        return 2
    if arguments.runs < 1 or arguments.seconds <= 0:
        print("dev.py bench: --runs and --seconds must be above 0", file=sys.stderr)
        return 2
    console = Console(stderr=True, highlight=False)
    console.print(f"{describe()}; {_commit()}; {datetime.now(UTC):%Y-%m-%d %H:%M} UTC")
    documents = []
    failed = False
    for name in arguments.ids or known:
        try:
            documents += _measure(name, arguments.runs, arguments.seconds, console)
        except (MissingError, CrowdError, HttpLoadError, ServerStartError) as error:
            print(f"dev.py bench: {name}: {error}", file=sys.stderr)
            failed = True
    if arguments.json:
        arguments.json.write_text(json.dumps(documents, indent=1) + "\n", encoding="utf-8")
    return 1 if failed else 0


def _measure(name: str, runs: int, seconds: float, console: Console) -> list[dict[str, Any]]:
    if name in PARTS:
        row = {"id": name, "runs": 1, "target": None, "met": None, **PARTS[name]()}
        print(
            f"| {name} | {row['what']} | {row['value']:,.0f} | {row['unit']} | {row['peer']} | "
            f"{row['peer_value']:,.0f} | {row['ratio']:.2f} |",
            flush=True,
        )
        return [row]
    with console.status(name) as status:

        def say(text: str) -> None:
            if text.endswith("\n"):
                console.print(f"{name}: {text.rstrip()}", style="yellow")
            else:
                status.update(f"{name}: {text}")

        rows: list[Row] = asyncio.run(MEASUREMENTS[name](Plan(runs, seconds, say)))
    print(table(rows), flush=True)
    return [row.document() for row in rows]


def _commit() -> str:
    """Name the commit, and whether something differs from it."""
    words = ["git", "describe", "--always", "--dirty", "--abbrev=8"]
    answer = subprocess.run(words, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or "no commit"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
