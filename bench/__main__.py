"""Run the measurements that are named, or all: `python3 dev.py bench [ID...]`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from bench.fan_out import fan_out
from bench.writes import writes

MEASUREMENTS = {"fan-out": fan_out, "writes": writes}


def main() -> int:
    """Print one table of ours, the naive way, and their ratio."""
    parser = argparse.ArgumentParser(prog="dev.py bench", description=__doc__)
    parser.add_argument("ids", nargs="*", metavar="ID", help=", ".join(MEASUREMENTS))
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.ids if name not in MEASUREMENTS]
    if unknown:
        parser.error(f"no such measurement: {', '.join(unknown)}")
    rows = []
    print(f"{'id':8}  {'what':58}  {'ours':>12}  {'naive':>12}  {'ratio':>7}")
    for name, measure in MEASUREMENTS.items():
        if not arguments.ids or name in arguments.ids:
            row = {"id": name, **measure()}
            rows.append(row)
            print(
                f"{name:8}  {row['what']:58}  {row['value']:>12,.0f}  "
                f"{row['peer_value']:>12,.0f}  {row['ratio']:>7.2f}"
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return 0


sys.exit(main())
