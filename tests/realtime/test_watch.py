"""The watch client: zones kept materialised over lost connections, and its two faces."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from rich.console import Console

from channels.changes import Change
from channels.positions import Position
from realtime.watch import JsonLines, WatchTable
from realtime.watch_stream import WatchError, WatchStream, websocket_url
from realtime.watched_zone import LostChangesError, Publication, SnapshotBody, WatchedZone
from tests.clients.tcp_proxy import tcp_proxy
from tests.realtime.wire_world import WireWorld, served, until

Json = dict[str, Any]


class Notes:
    """Notes what a stream tells."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []

    def names(self) -> list[str]:
        """Return what was told, without its content."""
        return [name for name, _ in self.told]

    def on_snapshot(self, zone: WatchedZone) -> None:
        """Note a state."""
        self.told.append(("snapshot", zone.zone_id))

    def on_recovered(self, zone: WatchedZone) -> None:
        """Note a resumed subscription."""
        self.told.append(("recovered", zone.zone_id))

    def on_changes(self, changes: list[Change]) -> None:
        """Note a transaction."""
        self.told.append(("changes", [(change.channel, change.rev) for change in changes]))

    def on_status(self, state: str, since_ms: int | None) -> None:
        """Note a state of the picture."""
        self.told.append((state, since_ms))

    def on_gone(self, zone: WatchedZone) -> None:
        """Note a deletion."""
        self.told.append(("gone", zone.zone_id))


@asynccontextmanager
async def watching(stream: WatchStream) -> AsyncIterator[None]:
    """Run a stream while the body lasts."""
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(stream.run())
        yield
        running.cancel()


def assert_equal(world: WireWorld, stream: WatchStream) -> None:
    """The stream's zones are the truth's."""
    for zone in stream.zones.values():
        state = world.truth.state(zone.channel)
        assert state is not None
        assert zone.users == state.users
        assert zone.position == state.position


def heads(world: WireWorld, *zones: str) -> dict[str, Position]:
    """Return where the truth is."""
    found = {zone: world.truth.heads[f"zone:{zone}"] for zone in zones}
    return {zone: Position(head.epoch, head.rev) for zone, head in found.items()}


async def test_zones_are_kept_as_they_are() -> None:
    """Snapshot, then whole transactions over all watched zones; a zone may be added later."""
    async with served() as world:
        notes = Notes()
        stream = WatchStream(f"http://127.0.0.1:{world.port}", ["A", "B"], notes)
        world.commit((1, "A"), (2, "B"))
        async with watching(stream):
            assert await stream.wait_for(heads(world, "A", "B"), 10)
            assert notes.names() == ["connecting", "live", "snapshot", "snapshot"]
            world.commit((1, "B"), (2, "A"))
            assert await stream.wait_for(heads(world, "A", "B"), 10)
            assert notes.told[-1] == ("changes", [("zone:A", 2), ("zone:B", 2)])
            stream.add("C")
            stream.add("C")
            world.commit((1, "C"))
            assert await stream.wait_for(heads(world, "A", "B", "C"), 10)
            assert notes.names().count("snapshot") == 3
            assert_equal(world, stream)
        await world.until_alone()


async def test_a_lost_connection_is_resumed_from_the_positions() -> None:
    """What was missed comes as changes; too far behind, as a state."""
    async with served() as world, tcp_proxy(world.port) as proxy:
        notes = Notes()
        stream = WatchStream(f"http://127.0.0.1:{proxy.port}", ["A", "B"], notes)
        async with watching(stream):
            assert await stream.wait_for(heads(world, "A", "B"), 10)
            proxy.is_open = False
            proxy.cut()
            for _ in range(3):
                world.commit((1, "A"), (2, "B"))
            for _ in range(400):
                world.commit((3, "B"))
            proxy.is_open = True
            assert await stream.wait_for(heads(world, "A", "B"), 10)
            assert_equal(world, stream)
            assert notes.told.count(("recovered", "A")) == 1
            assert notes.told.count(("snapshot", "B")) == 2


async def test_another_history_replaces_the_zone() -> None:
    """The epoch changes, the picture is the new truth."""
    async with served() as world:
        stream = WatchStream(f"http://127.0.0.1:{world.port}", ["A"], Notes())
        async with watching(stream):
            world.commit((1, "A"))
            assert await stream.wait_for(heads(world, "A"), 10)
            world.truth.renew_epochs("e2")
            world.commit((2, "A"))
            assert await stream.wait_for(heads(world, "A"), 10)
            assert_equal(world, stream)


async def test_a_deleted_zone_is_told_and_the_others_go_on() -> None:
    """While connected, and also when it was deleted meanwhile."""
    async with served() as world, tcp_proxy(world.port) as proxy:
        notes = Notes()
        stream = WatchStream(f"http://127.0.0.1:{proxy.port}", ["A", "B", "C"], notes)
        async with watching(stream):
            assert await stream.wait_for(heads(world, "A", "B", "C"), 10)
            for change in world.truth.delete_zone("A", "C").changes:
                world.bus.bring(change)
            await until(lambda: ("gone", "A") in notes.told)
            proxy.is_open = False
            proxy.cut()
            world.truth.delete_zone("B", "C")
            proxy.is_open = True
            await until(lambda: ("gone", "B") in notes.told)
            assert stream.zones["B"].is_gone
            world.commit((1, "C"))
            assert await stream.wait_for(heads(world, "C"), 10)


async def test_an_unknown_zone_ends_the_watch_with_its_name() -> None:
    """It is most likely a slip of the pen."""
    async with served() as world:
        stream = WatchStream(f"http://127.0.0.1:{world.port}", ["A", "nowhere"], Notes())
        with pytest.raises(WatchError, match="zone nowhere: unknown channel"):
            await stream.run()


async def test_a_database_that_is_down_is_waited_for() -> None:
    """A temporary refusal is asked again."""
    async with served() as world:
        world.truth.down = True
        stream = WatchStream(f"http://127.0.0.1:{world.port}", ["A"], Notes())
        async with watching(stream):
            await until(lambda: world.truth.asked.count(("state", "zone:A")) >= 2)
            world.truth.down = False
            assert await stream.wait_for(heads(world, "A"), 10)


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://host", "http://"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    """The message shows what one looks like."""
    with pytest.raises(WatchError, match="not an address"):
        websocket_url(url)


def test_the_websocket_is_below_the_services_address() -> None:
    """With the scheme's secure twin, and below a path where a proxy put one."""
    assert websocket_url("https://z.example/live/") == ("wss://z.example/live/connection/websocket")


def a_zone(*users: Json) -> WatchedZone:
    """Make a watched zone at revision 1."""
    zone = WatchedZone("A")
    body = {
        "channel": "zone:A",
        "epoch": "e1",
        "rev": 1,
        "zone": {"zone_id": "A", "name": "Hall", "attributes": {}},
        "users": list(users),
        "digest": "0-00000000",
    }
    zone.take_snapshot(msgspec.convert(body, SnapshotBody))
    return zone


def a_publication(rev: int, *events: Json) -> Publication:
    """Make a publication."""
    body = {"data": {"tx": f"t{rev}", "events": list(events)}, "offset": rev, "time": 5}
    return msgspec.convert(body, Publication)


def a_user(user_id: int, name: str) -> Json:
    """Make a user in A."""
    shared = {"zone_id": "A", "attributes": {}, "version": 1}
    return {"id": user_id, "global_id": user_id, "name": name, **shared}


def test_changes_are_merged_by_revision() -> None:
    """An old one is dropped, the next one applied, a later one is a loss."""
    zone = a_zone()
    entered = {"type": "entered", "user": a_user(1, "Ada")}
    assert zone.take(a_publication(2, entered)) is not None
    assert zone.take(a_publication(2, entered)) is None
    with pytest.raises(LostChangesError):
        zone.take(a_publication(4, entered))
    assert zone.position == Position("e1", 2)
    assert zone.digest().startswith("1-")


def test_a_state_that_does_not_match_its_digest_is_refused() -> None:
    """The zone then has no position, so that it is asked for anew."""
    with pytest.raises(LostChangesError):
        a_zone(a_user(1, "Ada"))


def test_json_lines_are_one_object_each() -> None:
    """With the keys of the wire and a type."""
    lines: list[str] = []
    face = JsonLines(lines.append)
    zone = a_zone()
    face.on_status("live", None)
    face.on_snapshot(zone)
    change = zone.take(a_publication(2, {"type": "entered", "user": a_user(1, "Ada")}))
    assert change is not None
    face.on_changes([change])
    face.on_gone(zone)
    status, snapshot, changes, gone = map(json.loads, lines)
    assert status == {"type": "status", "state": "live", "since": None}
    assert (snapshot["type"], snapshot["zone_id"], snapshot["rev"]) == ("snapshot", "A", 1)
    assert (changes["tx"], changes["zones"][0]["rev"]) == ("t2", 2)
    assert changes["zones"][0]["events"][0]["user"]["name"] == "Ada"
    assert gone == {"type": "gone", "zone_id": "A"}


def test_the_table_fits_a_terminal_and_shows_who_came_last_first() -> None:
    """80 columns: the state, each zone, its count, its names; names are not markup."""
    table = WatchTable("http://127.0.0.1:8000")
    zone = a_zone()
    table.zones = {"A": zone}
    table.on_snapshot(zone)
    for number, name in enumerate(["Ada", "[red]Bob", *("x" * 30 + str(n) for n in range(4))]):
        entered = {"type": "entered", "user": a_user(number, name)}
        change = zone.take(a_publication(number + 2, entered))
        assert change is not None
        table.on_changes([change])
    change = zone.take(a_publication(8, {"type": "changed", "user": a_user(1, "[red]Bob")}))
    assert change is not None
    table.on_changes([change])
    table.on_status("stale", 1_464_653_100_000)
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
    table.on_gone(zone)
    zone.is_gone = True
    out.truncate(0)
    Console(file=out, width=80).print(table)
    assert "deleted" in out.getvalue()
