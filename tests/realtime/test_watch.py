"""The `watch` command's two faces."""

from __future__ import annotations

import io
import json

from rich.console import Console

from realtime.client import Changed, Gone, Replaced, Status
from realtime.client.zone import WatchedZone
from realtime.watch import JsonLines, WatchTable
from tests.realtime.client_messages import Json, a_body, a_publication, a_user, entered


def a_zone() -> WatchedZone:
    """Make a watched zone at revision 1."""
    zone = WatchedZone("A")
    zone.replace(a_body("A"))
    return zone


def state_of(zone: WatchedZone) -> Replaced:
    """Tell a zone's state."""
    state = zone.state()
    assert state is not None
    return Replaced((state,), "first")


def changed(zone: WatchedZone, rev: int, *events: Json) -> Changed:
    """Move a zone on, and tell it."""
    change = zone.take(a_publication(rev, *events))
    assert change is not None
    return Changed((change,))


def test_json_lines_are_one_object_each() -> None:
    """With the keys of the wire and a type."""
    lines: list[str] = []
    face = JsonLines(lines.append)
    zone = a_zone()
    face.show(Status("live"))
    face.show(state_of(zone))
    face.show(changed(zone, 2, entered(a_user(1, "Ada"))))
    face.show(Gone("A", 2000, "gone"))
    status, snapshot, changes, gone = map(json.loads, lines)
    assert status == {"type": "status", "state": "live", "since": None}
    assert (snapshot["type"], snapshot["zone_id"], snapshot["rev"]) == ("snapshot", "A", 1)
    assert (changes["tx"], changes["zones"][0]["rev"]) == ("t2", 2)
    assert changes["zones"][0]["events"][0]["user"]["name"] == "Ada"
    assert gone == {"type": "gone", "zone_id": "A", "reason": "gone"}


def test_the_table_fits_a_terminal_and_shows_who_came_last_first() -> None:
    """80 columns: the state, each zone, its count, its names; names are not markup."""
    table = WatchTable("http://127.0.0.1:8000")
    zone = a_zone()
    table.zones = {"A": zone}
    table.show(state_of(zone))
    for number, name in enumerate(["Ada", "[red]Bob", *("x" * 30 + str(n) for n in range(4))]):
        table.show(changed(zone, number + 2, entered(a_user(number, name))))
    table.show(changed(zone, 8, {"type": "changed", "user": a_user(1, "[red]Bob")}))
    table.show(Status("stale", 1_464_653_100_000))
    out = io.StringIO()
    Console(file=out, width=80, force_terminal=False).print(table)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "stale since 00:05:00 UTC" in lines[0]
    assert "7 transactions" in lines[0]
    zone_line = next(line for line in lines if line.startswith("A "))
    assert zone_line.split()[1] == "6"
    assert zone_line.split()[2].startswith("[red]Bob")
    assert zone_line.rstrip().endswith("8")
    table.show(Gone("A", 2000, "gone"))
    zone.clear()
    out.truncate(0)
    Console(file=out, width=80).print(table)
    assert "deleted" in out.getvalue()


def test_the_table_says_why_a_zone_has_ended() -> None:
    """A zone that isn't granted any more was not deleted."""
    table = WatchTable("http://127.0.0.1:8000")
    zone = a_zone()
    table.zones = {"A": zone}
    table.show(state_of(zone))
    table.show(Gone("A", 2001, "permission revoked"))
    zone.clear()
    out = io.StringIO()
    Console(file=out, width=80).print(table)
    assert "permission revoked" in out.getvalue()
    assert "deleted" not in out.getvalue()
