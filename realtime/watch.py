"""The `watch` command's two faces: a live table in a terminal, JSON lines in a pipe."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from channels.changes import Change
from channels.events import Changed, Entered, Left
from channels.names import zone_id_of
from realtime.watch_stream import WatchStream
from realtime.watched_zone import WatchedZone, document_of, document_of_changes

REFRESHES_PER_S: Final = 8
NAMES_SHOWN: Final = 12


class JsonLines:
    """Writes one JSON object a line: `type` is snapshot, changes, status or gone."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write

    def _line(self, kind: str, fields: dict[str, Any]) -> None:
        self._write(msgspec.json.encode({"type": kind, **fields}).decode())

    def on_snapshot(self, zone: WatchedZone) -> None:
        """Write a zone's state."""
        self._line("snapshot", document_of(zone))

    def on_recovered(self, zone: WatchedZone) -> None:
        """Go on."""

    def on_changes(self, changes: list[Change]) -> None:
        """Write what one transaction did."""
        self._line("changes", document_of_changes(changes))

    def on_status(self, state: str, since_ms: int | None) -> None:
        """Write how the picture is."""
        self._line("status", {"state": state, "since": since_ms})

    def on_gone(self, zone: WatchedZone) -> None:
        """Write that a zone was deleted."""
        self._line("gone", {"zone_id": zone.zone_id})


class WatchTable:
    """The zones as a table, 80 columns wide at least: who came last stands first.

    Attributes:
        zones: What is shown; set once the stream exists.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._state = "connecting"
        self._since_ms: int | None = None
        self._changes = 0
        self._latest: dict[str, dict[int, None]] = {}
        self.zones: dict[str, WatchedZone] = {}

    def on_snapshot(self, zone: WatchedZone) -> None:
        """Take a zone's state; nobody in it is known to have come last."""
        self._latest[zone.zone_id] = dict.fromkeys(sorted(zone.users))

    def on_recovered(self, zone: WatchedZone) -> None:
        """Go on."""

    def on_changes(self, changes: list[Change]) -> None:
        """Note who came."""
        self._changes += 1
        for change in changes:
            latest = self._latest.setdefault(zone_id_of(change.channel) or "", {})
            for event in change.events:
                if isinstance(event, Entered | Changed):
                    latest.pop(event.user.id, None)
                    latest[event.user.id] = None
                elif isinstance(event, Left):
                    latest.pop(event.user_id, None)

    def on_status(self, state: str, since_ms: int | None) -> None:
        """Note how the picture is."""
        self._state = state
        self._since_ms = since_ms

    def on_gone(self, zone: WatchedZone) -> None:
        """Show nobody in a zone that was deleted."""
        self._latest.pop(zone.zone_id, None)

    def __rich__(self) -> RenderableType:
        table = Table(expand=True, pad_edge=False, box=None, header_style="bold")
        table.add_column("zone", no_wrap=True, max_width=20)
        table.add_column("users", justify="right", no_wrap=True)
        table.add_column("latest first", no_wrap=True, overflow="ellipsis", ratio=1)
        table.add_column("rev", justify="right", no_wrap=True)
        for zone in self.zones.values():
            table.add_row(*self._row(zone), style="dim" if zone.is_gone else "")
        return Group(self._headline(), table)

    def _row(self, zone: WatchedZone) -> Sequence[str | Text]:
        if zone.is_gone or zone.position is None:
            return zone.zone_id, "-", "deleted" if zone.is_gone else "", "-"
        latest = list(reversed(self._latest.get(zone.zone_id, {})))[:NAMES_SHOWN]
        names = ", ".join(zone.users[user_id].name for user_id in latest if user_id in zone.users)
        return zone.zone_id, str(len(zone.users)), Text(names), str(zone.position.rev)

    def _headline(self) -> Text:
        colour = {"live": "green", "stale": "yellow"}.get(self._state, "red")
        since = ""
        if self._since_ms is not None:
            since = f" since {datetime.fromtimestamp(self._since_ms / 1000, UTC):%H:%M:%S} UTC"
        return Text.assemble(
            (f"● {self._state}{since}", colour), f"  {self._url}  {self._changes} transactions"
        )


async def watch_json(url: str, zone_ids: Sequence[str], write: Callable[[str], None]) -> None:
    """Write JSON lines until cancelled.

    Raises:
        WatchError: the service can't be watched.
    """
    await WatchStream(url, zone_ids, JsonLines(write)).run()


async def watch_table(url: str, zone_ids: Sequence[str], console: Console) -> None:
    """Show the table until cancelled.

    Raises:
        WatchError: the service can't be watched.
    """
    table = WatchTable(url)
    stream = WatchStream(url, zone_ids, table)
    table.zones = stream.zones
    with Live(table, console=console, auto_refresh=False) as live:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_draw(live))
                await stream.run()
        except ExceptionGroup as group:
            raise group.exceptions[0] from None


async def _draw(live: Live) -> None:
    while True:
        live.refresh()
        await asyncio.sleep(1 / REFRESHES_PER_S)
