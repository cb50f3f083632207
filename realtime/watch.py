"""The `watch` command's two faces: a live table in a terminal, JSON lines in a pipe."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from channels.digest import digest_users
from channels.names import zone_channel, zone_id_of
from realtime.client import (
    Changed,
    Entered,
    Gone,
    Left,
    Replaced,
    Status,
    Token,
    Update,
    UserChanged,
    WatchedZone,
    ZoneState,
    watch,
)

REFRESHES_PER_S: Final = 8
NAMES_SHOWN: Final = 12
DELETED: Final = 2000
"""The code with which a zone ends that was deleted; other ends are told by their reasons."""


class JsonLines:
    """Writes one JSON object a line: `type` is snapshot, changes, status or gone."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._status: tuple[str, int | None] | None = None

    def show(self, update: Update) -> None:
        """Write an update, each state of a zone as a line of its own; no status twice."""
        match update:
            case Replaced(states):
                for state in states:
                    self._line("snapshot", document_of(state))
            case Changed():
                self._line("changes", document_of_changes(update))
            case Gone(zone_id, _, reason):
                self._line("gone", {"zone_id": zone_id, "reason": reason})
            case Status(state, since_ms) if state != "catching_up":
                # Until the states are there it is as it was.
                if self._status != (state, since_ms):
                    self._status = state, since_ms
                    self._line("status", {"state": state, "since": since_ms})

    def _line(self, kind: str, fields: dict[str, Any]) -> None:
        self._write(msgspec.json.encode({"type": kind, **fields}).decode())


class WatchTable:
    """The zones as a table, 80 columns wide at least: who came last stands first.

    Attributes:
        zones: What is shown; set once the watch exists.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._status = Status("connecting")
        self._transactions = 0
        self._latest: dict[str, dict[int, None]] = {}
        self._ends: dict[str, str] = {}
        self.zones: Mapping[str, WatchedZone] = {}

    def show(self, update: Update) -> None:
        """Note who came last, and how the picture is."""
        match update:
            case Replaced(states):
                for state in states:
                    self._latest[state.zone_id] = dict.fromkeys(sorted(state.users))
            case Changed():
                self._transactions += 1
                self._note(update)
            case Gone(zone_id, code, reason):
                self._latest.pop(zone_id, None)
                self._ends[zone_id] = "deleted" if code == DELETED else reason
            case Status():
                self._status = update

    def _note(self, transaction: Changed) -> None:
        for change in transaction.parts:
            latest = self._latest.setdefault(zone_id_of(change.channel) or "", {})
            for event in change.events:
                if isinstance(event, Entered | UserChanged):
                    latest.pop(event.user.id, None)
                    latest[event.user.id] = None
                elif isinstance(event, Left):
                    latest.pop(event.user_id, None)

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
            end = self._ends.get(zone.zone_id, "gone") if zone.is_gone else ""
            return zone.zone_id, "-", Text(end), "-"
        users = zone.users
        latest = list(reversed(self._latest.get(zone.zone_id, {})))[:NAMES_SHOWN]
        names = ", ".join(users[user_id].name for user_id in latest if user_id in users)
        return zone.zone_id, str(len(users)), Text(names), str(zone.position.rev)

    def _headline(self) -> Text:
        state, since_ms = self._status.state, self._status.since_ms
        colour = {"live": "green", "stale": "yellow"}.get(state, "red")
        since = ""
        if since_ms is not None:
            since = f" since {datetime.fromtimestamp(since_ms / 1000, UTC):%H:%M:%S} UTC"
        return Text.assemble(
            (f"● {state.replace('_', ' ')}{since}", colour),
            f"  {self._url}  {self._transactions} transactions",
        )


async def watch_json(
    url: str, zone_ids: Sequence[str], token: Token | None, write: Callable[[str], None]
) -> None:
    """Write JSON lines until cancelled.

    Raises:
        WatchError: the service can't be watched.
    """
    lines = JsonLines(write)
    async with watch(url, zone_ids, token=token, wait=False) as zones:
        async for update in zones:
            lines.show(update)


async def watch_table(
    url: str, zone_ids: Sequence[str], token: Token | None, console: Console
) -> None:
    """Show the table until cancelled.

    Raises:
        WatchError: the service can't be watched.
    """
    table = WatchTable(url)
    with Live(table, console=console, auto_refresh=False) as live:
        try:
            async with (
                watch(url, zone_ids, token=token, wait=False) as zones,
                asyncio.TaskGroup() as tasks,
            ):
                table.zones = zones
                tasks.create_task(_draw(live))
                async for update in zones:
                    table.show(update)
        except ExceptionGroup as group:
            raise group.exceptions[0] from None


async def _draw(live: Live) -> None:
    while True:
        live.refresh()
        await asyncio.sleep(1 / REFRESHES_PER_S)


def document_of(state: ZoneState) -> dict[str, Any]:
    """Return a zone's state with the keys of the wire."""
    return {
        "channel": zone_channel(state.zone_id),
        "zone_id": state.zone_id,
        "epoch": state.position.epoch,
        "rev": state.position.rev,
        "zone": state.zone,
        "users": [state.users[user_id] for user_id in sorted(state.users)],
        "digest": digest_users((user.id, user.version) for user in state.users.values()),
    }


def document_of_changes(transaction: Changed) -> dict[str, Any]:
    """Return one transaction's changes with the keys of the wire."""
    return {
        "tx": transaction.tx,
        "zones": [
            {
                "zone_id": zone_id_of(change.channel),
                "epoch": change.epoch,
                "rev": change.rev,
                "events": msgspec.Raw(change.events_json),
            }
            for change in transaction.parts
        ],
    }
