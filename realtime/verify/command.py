"""The `verify` command: its options, the progress that it shows, and what it prints."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated, Any, Final

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from channels.events import User
from channels.names import is_zone_id
from realtime.addresses import NodeUrlsOption, node_urls
from realtime.bearer import TokenFileOption, TokenOption, given_token
from realtime.client import Token
from realtime.logs import mask_text
from realtime.verify.comparison import Divergence, UserDifference, Verification, VerifyReport
from realtime.verify.view import VerifyError

EQUAL: Final = 0
DIFFERENT: Final = 1
UNANSWERED: Final = 2
REMEDY: Final = "zonecast resync"


def verify(
    url: NodeUrlsOption = None,
    zone: Annotated[
        list[str] | None, typer.Option(help="A zone's id, repeatedly. Else all zones.")
    ] = None,
    json: Annotated[  # noqa: FBT002 - an option of a command line.
        bool, typer.Option("--json", help="The result as one JSON object.")
    ] = False,
    token: TokenOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Compare nodes, what their clients are told, and the database, at equal revisions.

    Exit code 0: equal; 1: different, and where; 2: somebody can't be asked.

    Example: zonecast verify --url http://node1:8001 --url http://node2:8002
    """
    urls = node_urls(url)
    zone_ids = list(dict.fromkeys(zone or []))
    for zone_id in zone_ids:
        if not is_zone_id(zone_id):
            raise typer.BadParameter(f"not a zone id: {zone_id}", param_hint="--zone")
    try:
        report = asyncio.run(_run(urls, zone_ids, given_token(token, token_file)))
    except VerifyError as error:
        sys.stderr.write(f"zonecast: {mask_text(' '.join(str(error).split()))}\n")
        raise typer.Exit(UNANSWERED) from None
    if json:
        sys.stdout.write(msgspec.json.encode(document_of(report)).decode() + "\n")
    else:
        sys.stdout.write("\n".join(lines_of(report)) + "\n")
    raise typer.Exit(exit_code(report))


async def _run(urls: list[str], zone_ids: list[str], token: Token | None) -> VerifyReport:
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    ) as progress:
        task = progress.add_task("zones", total=None, figures="")

        def progressed(report: VerifyReport, total: int) -> None:
            figures = f"{len(report.divergences)} differ" if report.divergences else ""
            progress.update(task, completed=report.done, total=total, figures=figures)

        return await Verification(urls, zone_ids, progressed, token).run()


def exit_code(report: VerifyReport) -> int:
    """Return what the command ends with."""
    if report.divergences:
        return DIFFERENT
    return UNANSWERED if report.unchecked else EQUAL


def lines_of(report: VerifyReport) -> list[str]:
    """Write what was found, for people."""
    lines: list[str] = []
    for _, divergences in sorted(report.divergences.items()):
        for divergence in divergences:
            lines += _lines_of_divergence(divergence)
    for zone_id, reason in sorted(report.unchecked.items()):
        lines.append(f"{zone_id}  not compared: {reason}")
    gone = f", {len(report.gone)} not there" if report.gone else ""
    unchecked = f", {len(report.unchecked)} not compared" if report.unchecked else ""
    differ = f", {len(report.divergences)} differ" if report.divergences else ""
    zones = "1 zone" if report.done == 1 else f"{report.done} zones"
    lines.append(f"{zones}: {len(report.equal)} equal{differ}{gone}{unchecked}")
    if report.divergences:
        lines.append(
            f"`{REMEDY}` renews all epochs: nodes and clients take the state from the database anew"
        )
    return lines


def _lines_of_divergence(divergence: Divergence) -> list[str]:
    at = "" if divergence.position is None else f" at {divergence.position}"
    between = f"{divergence.here} and {divergence.there} part{at}"
    lines = [f"{divergence.zone_id}  {between} ({divergence.check}): {divergence.reason}"]
    lines += [f"  {_line_of_user(user, divergence)}" for user in divergence.users]
    if divergence.more:
        lines.append(f"  and {divergence.more} more users")
    return lines


def _line_of_user(difference: UserDifference, divergence: Divergence) -> str:
    here, there = difference.here, difference.there
    subject = f"user {difference.user_id}"
    if here is None or there is None:
        user = here or there
        place = divergence.there if here is None else divergence.here
        return f"{subject}: only in the {place}{'' if user is None else _version(user)}"
    if here.version != there.version:
        versions = f"version {here.version} and {there.version}"
    else:
        versions = f"both version {here.version}"
    names = [
        f"{name} {getattr(here, name)!r} and {getattr(there, name)!r}"
        for name in ("name", "global_id", "zone_id", "attributes")
        if getattr(here, name) != getattr(there, name)
    ]
    return f"{subject}: {', '.join([versions, *names])}"


def _version(user: User) -> str:
    return f" ({user.name!r}, version {user.version})"


def document_of(report: VerifyReport) -> dict[str, Any]:
    """Return what was found, for programs."""
    return {
        "zones": report.done,
        "equal": len(report.equal),
        "gone": sorted(report.gone),
        "different": [
            _document_of_divergence(divergence)
            for _, divergences in sorted(report.divergences.items())
            for divergence in divergences
        ],
        "unchecked": report.unchecked,
        "remedy": REMEDY if report.divergences else None,
    }


def _document_of_divergence(divergence: Divergence) -> dict[str, Any]:
    position = divergence.position
    return {
        "zone_id": divergence.zone_id,
        "check": divergence.check,
        "between": [divergence.here, divergence.there],
        "epoch": None if position is None else position.epoch,
        "rev": None if position is None else position.rev,
        "reason": divergence.reason,
        "users": [
            {"id": user.user_id, "between": [user.here, user.there]} for user in divergence.users
        ],
        "more_users": divergence.more,
    }
