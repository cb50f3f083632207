"""`zonecast watch`: its options."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import typer
from rich.console import Console

from channels.names import is_zone_id
from realtime.addresses import DEFAULT_URL, UrlOption, check_url
from realtime.bearer import TokenFileOption, TokenOption, given_token
from realtime.watch import watch_json, watch_table

Zones = Annotated[list[str], typer.Argument(help="Zone ids.", metavar="ZONE...")]


def watch(
    zones: Zones,
    url: UrlOption = DEFAULT_URL,
    json: Annotated[  # noqa: FBT002 - an option of a command line.
        bool, typer.Option("--json", help="JSON lines, as in a pipe.")
    ] = False,
    token: TokenOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Watch zones: a live table in a terminal, JSON lines in a pipe.

    Each line has a type: snapshot, changes (one transaction), status or gone.

    Example: zonecast watch F1-Z1 F1-Z2 | jq -c 'select(.type == "changes")'
    """
    for zone_id in zones:
        if not is_zone_id(zone_id):
            raise typer.BadParameter(f"not a zone id: {zone_id}", param_hint="ZONE")
    check_url(url)
    given = given_token(token, token_file)
    console = Console()
    if json or not console.is_terminal:
        asyncio.run(watch_json(url, zones, given, _write_line))
    else:
        asyncio.run(watch_table(url, zones, given, console))


def _write_line(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
