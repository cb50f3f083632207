"""Commands about a database and the node on it: `serve`, `migrate`, `resync`, `prune`."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable, Iterator
from typing import Annotated

import typer
from alembic.util import CommandError as MigrationError
from rich.console import Console

from db import migrate as migrations
from db.engine import Database
from db.epochs import renew_epochs
from db.retention import PruneReport, Retention
from realtime.app import occupied
from realtime.auth.assembly import fixed_keys
from realtime.auth.exposure import check_exposure
from realtime.client.address import websocket_url
from realtime.configuration import database_config, retention_config
from realtime.failures import CommandError
from realtime.logs import configure_logging
from realtime.prune_display import prune_progress, prune_summary
from realtime.server import listening_socket
from realtime.server import serve as serve_settings
from realtime.settings import Settings, load_settings
from realtime.telemetry import check_tracing

DatabaseOption = Annotated[
    str | None, typer.Option(help="SQLAlchemy async URL; else ZONECAST_DATABASE_URL.")
]


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
    check_tracing(settings)
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
            f"  dashboard   {url}/",
            f"  API         {url}/docs    {url}/readyz    {url}/metrics",
            f"  WebSocket   {websocket_url(url)}  (Centrifuge client SDKs)",
            f"  a zone      {curl}/zones {json} '{lobby}'",
            f"  a user      {curl}/users {json} '{ada}'",
            f"  follow it   curl -N '{url}/sse?zone=F1-Z1'",
            f"              zonecast watch F1-Z1 --url {url}",
            f"  a building  zonecast replay docs/small_trace.csv --speed 600 --url {url}",
        )
    )


def migrate(database_url: DatabaseOption = None) -> None:
    """Bring the database to the tables of this release; again and again does no harm.

    Example: zonecast migrate --database-url sqlite+aiosqlite:///zonecast.db
    """
    settings = load_settings(database_url=database_url)

    async def run() -> str:
        await _migrate(settings)
        return await migrations.head_revision()

    typer.echo(f"the database is at revision {asyncio.run(run())}")


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
