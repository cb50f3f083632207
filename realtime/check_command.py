"""The `check` command: says what is wrong with a configuration before clients do."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated, Final

import msgspec
import typer

from realtime.check import check
from realtime.findings import Finding, Verdict
from realtime.logs import mask_text
from realtime.settings import Settings, load_settings

WRONG: Final = 1
_MARKS: Final = {Verdict.OK: "ok     ", Verdict.WARNING: "warning", Verdict.WRONG: "WRONG  "}


def check_configuration(
    database_url: Annotated[
        str | None, typer.Option(help="SQLAlchemy async URL; else ZONECAST_DATABASE_URL.")
    ] = None,
    redis_url: Annotated[str | None, typer.Option(help="Redis; else ZONECAST_REDIS_URL.")] = None,
    json: Annotated[  # noqa: FBT002 - an option of a command line.
        bool, typer.Option("--json", help="One JSON object a line.")
    ] = False,
) -> None:
    """Test a configuration: keys, database, migrations, Redis, clocks; changes nothing.

    Exit code 0: a node would run with it; 1: it would not, and why.

    Example: zonecast check && zonecast serve
    """
    settings = load_settings(database_url=database_url, redis_url=redis_url)
    raise typer.Exit(asyncio.run(_run(settings, json=json)))


async def _run(settings: Settings, *, json: bool) -> int:
    code = 0
    async for finding in check(settings):
        sys.stdout.write((_json(finding) if json else _line(finding)) + "\n")
        sys.stdout.flush()
        if finding.verdict is Verdict.WRONG:
            code = WRONG
    return code


def _line(finding: Finding) -> str:
    words = " ".join(mask_text(finding.words).split())
    return f"{_MARKS[finding.verdict]} {finding.part:<15} {words}"


def _json(finding: Finding) -> str:
    document = {
        "part": finding.part,
        "verdict": finding.verdict.value,
        "words": " ".join(mask_text(finding.words).split()),
    }
    return msgspec.json.encode(document).decode()
