"""The `zonecast` command. Errors are one line on standard error; exit codes: 1 failed, 2 usage."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Final

import typer
from alembic.util import CommandError as MigrationError
from rich.console import Console
from typer.exceptions import TyperException

from channels.names import is_zone_id
from channels.ports import UnavailableError
from db import migrate as migrations
from db.engine import Database
from db.epochs import renew_epochs
from db.errors import DatabaseError
from db.retention import PruneReport, Retention
from realtime.addresses import DEFAULT_URL, check_url
from realtime.app import database_config, occupied, retention_config
from realtime.auth.assembly import fixed_keys
from realtime.auth.exposure import check_exposure
from realtime.bearer import TokenFileOption, TokenOption, given_token
from realtime.check_command import check_configuration
from realtime.client import WatchError
from realtime.client.address import websocket_url
from realtime.completion_command import completion
from realtime.demo.command import demo
from realtime.logs import configure_logging, mask_text
from realtime.prune_display import prune_progress, prune_summary
from realtime.replay import Replay, ReplayOptions
from realtime.replay_display import ReplayDisplay, summary
from realtime.server import listening_socket
from realtime.server import serve as serve_settings
from realtime.service_api import ServiceError
from realtime.settings import Settings, SettingsError, load_settings
from realtime.token_command import TokenError, token
from realtime.top_command import top
from realtime.user_commands import export_users, import_users
from realtime.verify_command import verify
from realtime.watch import watch_json, watch_table

INTERRUPTED: Final = 130
SPEED_DEFAULT: Final = "60"
MAX_WINDOW_S: Final = 60.0
"""The batch window of a replay at full speed, seconds of the trace."""

UrlOption = Annotated[str, typer.Option(help="The service's address.")]
DatabaseOption = Annotated[
    str | None, typer.Option(help="SQLAlchemy async URL; else ZONECAST_DATABASE_URL.")
]
Zones = Annotated[list[str], typer.Argument(help="Zone ids.", metavar="ZONE...")]


app = typer.Typer(
    help="Who is in which zone, true on every screen that watches.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class CommandError(Exception):
    """A command that failed; its message is one line."""


FAILURES: Final = (
    CommandError,
    DatabaseError,
    ServiceError,
    SettingsError,
    TokenError,
    UnavailableError,
    WatchError,
)
"""What may go wrong outside of this program; anything else is a fault and shows its trace."""


@app.command()
def serve(  # noqa: PLR0917 - options of a command line.
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes any that is free.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes; more need Redis.")] = None,
    database_url: DatabaseOption = None,
    redis_url: Annotated[str | None, typer.Option(help="Redis; else ZONECAST_REDIS_URL.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    insecure: Annotated[  # noqa: FBT002 - an option of a command line.
        bool, typer.Option("--insecure", help="Let in whoever can reach the address.")
    ] = False,
) -> None:
    """Migrate the database, then serve until a signal ends it.

    Without options: SQLite in this folder, and only this machine can connect.

    Example: zonecast serve --port 8001 --redis-url redis://localhost:6379/0
    """
    settings = load_settings(
        host=host,
        port=port,
        workers=workers,
        database_url=database_url,
        redis_url=redis_url,
        log_level=log_level,
        insecure=insecure or None,
    )
    exposure = check_exposure(settings)
    fixed_keys(settings)
    configure_logging(settings.log_level, settings.log_format)
    asyncio.run(_prepare(settings))
    with _listening(settings) as listener:
        typer.echo(_where_to_look(_address(settings, listener), exposure))
        code = serve_settings(settings, listener)
    if code:
        raise CommandError("the server did not start, or failed; the log says why")


async def _prepare(settings: Settings) -> None:
    """Migrate, and find out before anything listens whether another node is in the way."""
    await _migrate(settings)
    async with occupied(settings):
        pass


async def _migrate(settings: Settings) -> None:
    try:
        await migrations.upgrade(settings.own_database_url)
    except MigrationError as error:
        raise CommandError(f"cannot migrate the database: {error}") from error


@contextlib.contextmanager
def _listening(settings: Settings) -> Iterator[socket.socket]:
    place = f"{settings.host}:{settings.port}"
    try:
        listener = listening_socket(settings)
    except OSError as error:
        # A name that can't be resolved has a number of its own, which `os.strerror` doesn't know.
        reason = error.strerror or str(error)
        hint = "; --port takes another" if error.errno == errno.EADDRINUSE else ""
        raise CommandError(f"cannot listen on {place}: {reason}{hint}") from error
    with listener:
        yield listener


def _address(settings: Settings, listener: socket.socket) -> str:
    port = listener.getsockname()[1]
    # Who listens everywhere is reached here by the loopback address.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _where_to_look(url: str, exposure: str) -> str:
    curl = f"curl -s {url}"
    json = "-H 'content-type: application/json' -d"
    lobby = '{"zone_id":"F1-Z1","name":"Lobby"}'
    ada = '{"global_id":1001,"name":"Ada","zone_id":"F1-Z1"}'
    return "\n".join(
        (
            f"Zonecast serves on {url}",
            f"  entry       {exposure}",
            f"  API         {url}/docs    {url}/readyz    {url}/metrics",
            f"  WebSocket   {websocket_url(url)}  (Centrifuge client SDKs)",
            f"  a zone      {curl}/zones {json} '{lobby}'",
            f"  a user      {curl}/users {json} '{ada}'",
            f"  follow it   curl -N '{url}/sse?zone=F1-Z1'",
            f"              zonecast watch F1-Z1 --url {url}",
            f"  a building  zonecast replay docs/small_trace.csv --speed 600 --url {url}",
        )
    )


@app.command()
def migrate(database_url: DatabaseOption = None) -> None:
    """Bring the database to the tables of this release; again and again does no harm.

    Example: zonecast migrate --database-url sqlite+aiosqlite:///zonecast.db
    """
    settings = load_settings(database_url=database_url)

    async def run() -> str:
        await _migrate(settings)
        return await migrations.head_revision()

    typer.echo(f"the database is at revision {asyncio.run(run())}")


@app.command()
def resync(database_url: DatabaseOption = None) -> None:
    """Renew all epochs: every client gets its zones anew, and what was written by hand is seen.

    Example: zonecast resync
    """
    settings = load_settings(database_url=database_url)

    async def run() -> int:
        database = Database(database_config(settings))
        try:
            return await renew_epochs(database)
        finally:
            await database.close()

    renewed = asyncio.run(run())
    typer.echo(f"renewed the epochs of {renewed} channels; running nodes notice within 2 s")


@app.command()
def prune(
    database_url: DatabaseOption = None,
    max_changes: Annotated[
        int | None, typer.Option(help="Kept of each channel; else ZONECAST_RETENTION_MAX_CHANGES.")
    ] = None,
    max_age_s: Annotated[
        float | None, typer.Option(help="Age; else ZONECAST_RETENTION_MAX_AGE_S.")
    ] = None,
) -> None:
    """Delete the changes that are kept no longer; running nodes do it by themselves.

    Example: zonecast prune --max-changes 1000
    """
    settings = load_settings(
        database_url=database_url,
        retention_max_changes=max_changes,
        retention_max_age_s=max_age_s,
    )

    async def run(progressed: Callable[[PruneReport], None]) -> PruneReport | None:
        database = Database(database_config(settings))
        try:
            retention = Retention(database, retention_config(settings))
            return await retention.prune(progressed)
        finally:
            await database.close()

    with prune_progress(Console(stderr=True)) as progressed:
        report = asyncio.run(run(progressed))
    if report is None:
        raise CommandError("another process is pruning this database; try again later")
    typer.echo(prune_summary(report))


@app.command()
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


@app.command()
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


app.command()(verify)
app.command("check")(check_configuration)
app.command()(token)
app.command()(demo)
app.command()(top)
app.command()(completion)
app.command("import")(import_users)
app.command("export")(export_users)


def main() -> None:
    """Run the command line, and end the process with its exit code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run the command line; return the exit code."""
    failure: str
    try:
        result = app(args=arguments, prog_name="zonecast", standalone_mode=False)
    except FAILURES as error:
        failure = str(error)
        code = 1
    except TyperException as error:
        failure = error.format_message()
        code = 2
    except BrokenPipeError:
        # Whoever read our lines has seen enough; Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    else:
        return result if isinstance(result, int) else 0
    if failure:  # Without a command there is only the help, on standard output.
        sys.stderr.write(f"zonecast: {mask_text(' '.join(failure.split()))}\n")
    return code
