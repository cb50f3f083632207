"""`zonecast replay`: its options, and what it prints."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from realtime.addresses import DEFAULT_URL, UrlOption, check_url
from realtime.bearer import TokenFileOption, TokenOption, given_token
from realtime.failures import CommandError
from realtime.replay import Replay, ReplayOptions
from realtime.replay_display import ReplayDisplay, summary

SPEED_DEFAULT: Final = "60"
MAX_WINDOW_S: Final = 60.0
"""The batch window of a replay at full speed, seconds of the trace."""


def replay(  # noqa: PLR0917 - options of a command line.
    file: Annotated[Path, typer.Argument(help="CSV: time,badge,zone_id.", metavar="FILE")],
    url: UrlOption = DEFAULT_URL,
    speed: Annotated[
        str, typer.Option(help="Seconds of the trace in a second; max: as fast as possible.")
    ] = SPEED_DEFAULT,
    batch_window: Annotated[
        float | None,
        typer.Option(
            help="Seconds of the trace in one transaction; 0: each reading by itself. "
            "Default: 60 at full speed, else 0.",
            min=0,
        ),
    ] = None,
    strict: Annotated[  # noqa: FBT002 - an option of a command line.
        bool, typer.Option("--strict", help="Write nothing when a line is malformed.")
    ] = False,
    token: TokenOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Replay recorded moves into a running service; it makes the zones and users it needs.

    Example: zonecast replay docs/small_trace.csv --speed 600
    """
    factor = _read_speed(speed)
    if batch_window is None:
        batch_window = 0.0 if factor else MAX_WINDOW_S
    check_url(url)
    options = ReplayOptions(url, factor, batch_window, strict, token=given_token(token, token_file))
    with ReplayDisplay(Console(stderr=True), file.name) as display:
        replaying = Replay(file, options, warn=display.warn, progressed=display.progressed)
        report = asyncio.run(replaying.run())
    typer.echo(summary(report))
    if report.unequal_zones:
        raise CommandError(f"not equal to the database: {', '.join(report.unequal_zones)}")


def _read_speed(text: str) -> float:
    if text.lower() == "max":
        return 0.0
    try:
        factor = float(text.lower().removesuffix("x"))
    except ValueError:
        factor = -1.0
    if not 0 <= factor < 1e9:
        raise typer.BadParameter(f"not a factor or max: {text}", param_hint="--speed")
    return factor
