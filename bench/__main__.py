"""Run the measurements that are named, or all: `python3 dev.py bench [ID...]`."""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.broadcasts import flame_of_fan_out, to_a_thousand, to_streams, to_ten_thousand
from bench.cached_dict import cached_users
from bench.crowd import CrowdError
from bench.dashboard import dashboard
from bench.delays import beside_a_slow_client, steady_delays
from bench.flame import Drawing
from bench.http_load import HttpLoadError
from bench.idle_memory import idle_connections
from bench.latency import commit_to_subscriber
from bench.machine import MissingError, describe
from bench.many_zones import many_zones
from bench.report import PAGE, ReportError, filled, joined, write_rows
from bench.rows import Measurement, Plan, Row, table
from bench.several_nodes import several_nodes
from bench.slow_clients import slow_clients
from bench.storm import flame_of_storm, reconnect_storm
from bench.traces import traces
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
    "writes": writes,
    "dashboard": dashboard,
    "slow-clients": slow_clients,
    "traces": traces,
}
"""Of one part of the service, against the naive way; only by name."""

DRAWINGS: dict[str, Drawing] = {"F1": flame_of_fan_out, "F5": flame_of_storm}
"""What flame graphs are drawn of."""

MICRO = "micro"
MICRO_OPTIONS = ["-q", "--benchmark-only", "--benchmark-columns=min,median,iqr,rounds"]

FAILURES = (MissingError, CrowdError, HttpLoadError, ServerStartError)
"""What is told in a line, and spares the other measurements."""


def main(words: Sequence[str] | None = None) -> int:
    """Print a table of ours, the peers', and their ratios; return the exit code."""
    known = [*MEASUREMENTS, *PARTS]
    words = list(sys.argv[1:] if words is None else words)
    if words and words[0] == MICRO:
        pytest = [sys.executable, "-m", "pytest", f"bench/{MICRO}", *MICRO_OPTIONS]
        return subprocess.run([*pytest, *words[1:]], check=False).returncode
    arguments = _parser(known).parse_args(words)
    if wrong := _wrong(arguments, known):
        print(f"dev.py bench: {wrong}", file=sys.stderr)
        return 2
    if arguments.report:
        return _report(arguments.report)
    console = Console(stderr=True, highlight=False)
    circumstances = {
        "machine": describe(),
        "commit": _commit(),
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    }
    console.print(f"{circumstances['machine']}; {circumstances['commit']}; {circumstances['date']}")
    if arguments.flame:
        return _draw(arguments, console)
    command = "python3 dev.py bench"
    lengths = f"--runs {arguments.runs} --seconds {arguments.seconds:g}"
    documents: list[dict[str, Any]] = []
    failed = False
    for name in arguments.ids or MEASUREMENTS:
        began_s = time.monotonic()
        try:
            found = _measure(name, arguments.runs, arguments.seconds, console)
        except FAILURES as error:
            print(f"dev.py bench: {name}: {error}", file=sys.stderr)
            failed = True
            continue
        again = {**circumstances, "command": f"{command} {name} {lengths}"}
        documents += [{**document, **again} for document in found]
        console.print(f"{name}: took {time.monotonic() - began_s:.0f} s")
        if arguments.json:
            # After each, so that what was measured outlives whatever comes next.
            write_rows(arguments.json, documents)
    return 1 if failed else 0


def _parser(known: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dev.py bench",
        description=__doc__,
        epilog="`dev.py bench micro [ARGUMENTS]` measures encode, apply and fan-out inside a"
        " process, under pytest-benchmark (arguments: pytest's).",
    )
    names = f"{', '.join(known)}; none: {', '.join(MEASUREMENTS)}"
    parser.add_argument("ids", nargs="*", metavar="ID", help=names)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows there")
    parser.add_argument("--runs", type=int, default=3, help="repetitions of each (3)")
    parser.add_argument("--seconds", type=float, default=4, help="of each repetition (4)")
    parser.add_argument(
        "--flame", type=Path, metavar="FILE", help=f"draw where time goes: {', '.join(DRAWINGS)}"
    )
    parser.add_argument(
        "--report",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="measure nothing, write such rows into docs/performance.md; later files win",
    )
    return parser


def _wrong(arguments: argparse.Namespace, known: Sequence[str]) -> str:
    """Say what can't be done, in a line; empty: nothing."""
    unknown = [name for name in arguments.ids if name not in known]
    if unknown:
        return f"not measured: {', '.join(unknown)}; there are {', '.join(known)}"
    if arguments.runs < 1 or arguments.seconds <= 0:
        return "--runs and --seconds must be above 0"
    if arguments.flame and (len(arguments.ids) != 1 or arguments.ids[0] not in DRAWINGS):
        return f"--flame draws one of {', '.join(DRAWINGS)}"
    for file in (arguments.json, arguments.flame):
        if file and not file.parent.is_dir():
            return f"no folder {file.parent}"
    return ""


def _draw(arguments: argparse.Namespace, console: Console) -> int:
    (name,) = arguments.ids
    with console.status(name) as status:
        plan = Plan(1, arguments.seconds, lambda text: status.update(f"{name}: {text}"))
        try:
            asyncio.run(DRAWINGS[name](plan, arguments.flame))
        except FAILURES as error:
            print(f"dev.py bench: {name}: {error}", file=sys.stderr)
            return 1
    print(f"{name}: {arguments.flame}")
    return 0


def _report(files: Sequence[Path]) -> int:
    try:
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(filled(page, joined(files)), encoding="utf-8")
    except ReportError as error:
        print(f"dev.py bench: {error}", file=sys.stderr)
        return 1
    return 0


def _measure(name: str, runs: int, seconds: float, console: Console) -> list[dict[str, Any]]:
    if name in PARTS:
        part = {"id": name, "runs": 1, "target": None, "met": None, **PARTS[name]()}
        print(
            f"| {name} | {part['what']} | {part['value']:,.0f} | {part['unit']} | {part['peer']} | "
            f"{part['peer_value']:,.0f} | {part['ratio']:.2f} |",
            flush=True,
        )
        return [part]
    with console.status(name) as status:

        def say(text: str) -> None:
            if text.endswith("\n"):
                console.print(f"{name}: {text.rstrip()}", style="yellow")
            else:
                status.update(f"{name}: {text}")

        rows: list[Row] = asyncio.run(MEASUREMENTS[name](Plan(runs, seconds, say)))
    documents = [row.document() for row in rows]
    print(table(documents), flush=True)
    for row in rows:
        if row.is_load_bound:
            bound = f"the load used {row.load:.0%} of a core: it is what was measured"
            console.print(f"{name}: {row.what}, {row.peer}: {bound}", style="yellow")
    return documents


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
