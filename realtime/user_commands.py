"""`zonecast import` and `zonecast export`: users from a file, and into one."""

from __future__ import annotations

import asyncio
import csv
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from channels.names import is_zone_id
from realtime.addresses import DEFAULT_URL, UrlOption, check_url
from realtime.bearer import TokenFileOption, TokenOption, given_token
from realtime.client import Token
from realtime.service_api import PAGE_ROWS, ServiceApi, ServiceError
from realtime.user_file import COLUMNS, RefusedLine, UnusableFileError, line_of
from realtime.user_import import ImportReport, UserImport

GIVE_UP_AFTER_S: Final = 60.0
INTERRUPTED: Final = 130
PART_SUFFIX: Final = ".part"
HEADER: Final = (",".join(COLUMNS) + "\n").encode()

JsonOption = Annotated[bool, typer.Option("--json", help="JSON objects, one a line.")]


def import_users(
    file: Annotated[
        Path,
        typer.Argument(
            help="CSV; its first line names the columns: global_id, name, zone_id, attributes.",
            metavar="FILE",
        ),
    ],
    url: UrlOption = DEFAULT_URL,
    make_zones: Annotated[  # noqa: FBT002 - an option of a command line.
        bool, typer.Option("--make-zones", help="Make zones that are not there.")
    ] = False,
    json: JsonOption = False,  # noqa: FBT002 - an option of a command line.
    token: TokenOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Make the users of a file, up to 1,000 in a transaction.

    A line that can't be used is told and left out. What was interrupted goes on where it was
    when the command is run again. Exit code 0: all are there; 1: not all, and why.

    Example: zonecast import users.csv --make-zones
    """
    check_url(url)
    given = given_token(token, token_file)
    shown = _Shown(file.name, is_json=json)
    with _bar(file.name) as bar:
        report = ImportReport()

        async def run() -> None:
            nonlocal report
            async with ServiceApi(url, GIVE_UP_AFTER_S, given) as api:
                importing = UserImport(
                    file,
                    url,
                    api,
                    refuse=lambda line: shown.refuse(line, bar),
                    progressed=bar.progressed,
                    makes_zones=make_zones,
                )
                try:
                    await importing.run()
                finally:
                    report = importing.report

        code, reason = 0, ""
        try:
            asyncio.run(run())
        except KeyboardInterrupt:
            code, reason = INTERRUPTED, "interrupted"
        except OSError as error:
            code, reason = 1, f"{error.filename or file}: {error.strerror or error}"
        except (ServiceError, UnusableFileError) as error:
            code, reason = 1, str(error)
    shown.end(report, reason)
    raise typer.Exit(code or (1 if report.refused else 0))


class _Bar:
    """The progress bar on standard error; without a terminal there is none."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self.console = progress.console
        self._progress = progress
        self._task = task

    def progressed(self, report: ImportReport, part: float) -> None:
        """Show how far an import is."""
        figures = f"{report.made} made"
        if report.refused:
            figures += f", {report.refused} refused"
        self.show(part, figures)

    def show(self, part: float, figures: str) -> None:
        """Show how far it is."""
        self._progress.update(self._task, completed=part, figures=figures)


@contextmanager
def _bar(name: str) -> Iterator[_Bar]:
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[figures]}"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as progress:
        yield _Bar(progress, progress.add_task(name, total=1.0, figures=""))


class _Shown:
    """What an import prints: a line for each line that it refuses, and one at the end."""

    def __init__(self, name: str, *, is_json: bool) -> None:
        self._name = name
        self._is_json = is_json

    def refuse(self, line: RefusedLine, bar: _Bar) -> None:
        """Tell of a line from which no user is made."""
        reason = " ".join(line.reason.split())
        if self._is_json:
            _write({"type": "refused", "line": line.line, "reason": reason})
        else:
            text = f"{self._name}:{line.line}: {reason}"
            bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def end(self, report: ImportReport, reason: str) -> None:
        """Tell what was done, and what was not."""
        if self._is_json:
            _write({"type": "end", "complete": not reason, "reason": reason or None, **_of(report)})
            return
        done = f"{report.made} users made, {report.unchanged} there already"
        if report.refused:
            done += f", {report.refused} lines refused"
        if report.resumed_line:
            done += f" (gone on with after line {report.resumed_line})"
        if not reason:
            sys.stdout.write(done + "\n")
            return
        rest = "nothing was made" if report.line == 1 else f"stopped after line {report.line}"
        sys.stderr.write(f"zonecast: {reason}; {rest}: {done}; run it again to go on\n")


def _of(report: ImportReport) -> dict[str, Any]:
    return {
        "made": report.made,
        "unchanged": report.unchanged,
        "refused": report.refused,
        "line": report.line,
        "resumed_line": report.resumed_line or None,
    }


def _write(document: dict[str, Any]) -> None:
    sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
    sys.stdout.flush()


def export_users(
    file: Annotated[
        Path | None, typer.Argument(help="Where to; else to standard output.", metavar="FILE")
    ] = None,
    url: UrlOption = DEFAULT_URL,
    zone: Annotated[str | None, typer.Option(help="Only the users of this zone.")] = None,
    json: JsonOption = False,  # noqa: FBT002 - an option of a command line.
    token: TokenOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Write all users as CSV, or as JSON lines; `zonecast import` reads the CSV.

    A file appears when it is complete. Until then there is FILE.part, with which an
    interrupted export goes on when the command is run again.

    Example: zonecast export users.csv
    """
    check_url(url)
    if zone is not None and not is_zone_id(zone):
        raise typer.BadParameter(f"not a zone id: {zone}", param_hint="--zone")
    exporting = _Export(url, zone, given_token(token, token_file), is_json=json)
    if file is None:
        asyncio.run(exporting.write(sys.stdout.buffer, 0))
        return
    part = file.with_name(file.name + PART_SUFFIX)
    try:
        with part.open("a+b") as out:
            asyncio.run(exporting.write(out, exporting.trim(out)))
        part.replace(file)
    except OSError as error:
        raise ServiceError(f"cannot write {error.filename or file}: {error.strerror}") from error
    except ServiceError as error:
        raise ServiceError(f"{error}; {part} is not complete, run it again to go on") from error
    except KeyboardInterrupt:
        typer.echo(f"zonecast: {part} is not complete, run it again to go on", err=True)
        raise typer.Exit(INTERRUPTED) from None
    typer.echo(f"{exporting.count} users in {file}", err=True)


class _Export:
    """Writes users page by page, in the order of their ids.

    Attributes:
        count: How many are written, those of an earlier run included.
    """

    def __init__(
        self, url: str, zone_id: str | None, token: Token | None, *, is_json: bool
    ) -> None:
        self._url = url
        self._zone_id = zone_id
        self._token = token
        self._is_json = is_json
        self.count = 0

    def trim(self, out: BinaryIO) -> int:
        """Cut what is no whole line from the end of a file; return the last user's id, or 0."""
        out.seek(0)
        last_id = end = 0
        for number, line in enumerate(out):
            user_id = self._id_in(line)
            is_header = number == 0 and not self._is_json and line == HEADER
            if not line.endswith(b"\n") or (user_id is None and not is_header):
                break
            end += len(line)
            if user_id is not None:
                last_id = user_id
                self.count += 1
        out.truncate(end)
        out.seek(0, io.SEEK_END)
        return last_id

    def _id_in(self, line: bytes) -> int | None:
        """Return whose line this is; `None`: nobody's, in this format."""
        if not self._is_json:
            first = line.partition(b",")[0]
            return int(first) if first.isdigit() else None
        try:
            return int(msgspec.json.decode(line, type=dict[str, Any])["id"])
        except (msgspec.DecodeError, KeyError):
            return None

    async def write(self, out: BinaryIO, last_id: int) -> None:
        """Write the users after an id.

        Raises:
            ServiceError: the service can't be asked.
        """
        if not last_id and not self._is_json and not (out.seekable() and out.tell()):
            out.write(HEADER)
        zone = "" if self._zone_id is None else f"&zone_id={self._zone_id}"
        async with ServiceApi(self._url, GIVE_UP_AFTER_S, self._token) as api:
            total = (await api.call("GET", "/users/count")).json()["count"]
            with _bar("exporting") as bar:
                while True:
                    after = f"&after={last_id}" if last_id else ""
                    path = f"/users?limit={PAGE_ROWS}{after}{zone}"
                    users = (await api.call("GET", path)).json()["users"]
                    if users:
                        last_id = users[-1]["id"]
                        await asyncio.to_thread(self._write_users, out, users)
                    self.count += len(users)
                    bar.show(self.count / max(1, total, self.count), f"{self.count} users")
                    if len(users) < PAGE_ROWS:
                        return

    def _write_users(self, out: BinaryIO, users: list[dict[str, Any]]) -> None:
        if self._is_json:
            out.write(b"".join(msgspec.json.encode(user) + b"\n" for user in users))
        else:
            _write_rows(out, [line_of(user) for user in users])
        out.flush()


def _write_rows(out: BinaryIO, rows: list[list[str]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    out.write(text.getvalue().encode())
