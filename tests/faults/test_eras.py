"""The validator knows that a restore loses commits, and that nobody may mix two histories.

A zone is told of to revision 3. Then the database is put back to revision 1, and goes on with
another revision 2.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from channels.positions import Position
from db.identity import client_epoch
from tests.faults.eras import Head, LogRow, Tables
from tests.faults.history import (
    ClientLog,
    Closed,
    Frame,
    History,
    Item,
    Opened,
    Published,
    Read,
    Subscribed,
    Unsubscribed,
    Write,
)
from tests.faults.timeline import Picture
from tests.faults.validator import validate
from tests.faults.violations import Promise

A, C, ZONES = "zone:A", "zone:C", "zones"
FIRST, SECOND = "first start", "second start"
OLD, NEW = client_epoch("e", FIRST), client_epoch("e", SECOND)
RESTORED_S = 10.0

Events = list[dict[str, Any]]


def user(number: int, version: int) -> dict[str, Any]:
    """Make a user as events have it."""
    return {"id": number, "zone_id": "A", "version": version, "attributes": {}}


def zone(zone_id: str) -> dict[str, Any]:
    """Make a zone as events have it."""
    return {"zone_id": zone_id, "name": zone_id}


SHARED: Events = [{"type": "entered", "user": user(1, 1)}]
LOG: dict[str, list[tuple[str, Events]]] = {
    OLD: [
        ("t1", SHARED),
        ("t2", [{"type": "changed", "user": user(1, 2)}]),
        ("t3", [{"type": "changed", "user": user(1, 3)}]),
    ],
    NEW: [("t1", SHARED), ("n2", [{"type": "entered", "user": user(2, 1)}])],
}


def change(epoch: str, rev: int) -> Published:
    """Make the change that a client receives."""
    tx, events = LOG[epoch][rev - 1]
    return Published(A, rev, tx, msgspec.json.encode(events))


def body(epoch: str, rev: int, **other: Any) -> bytes:
    """Encode the state at a revision."""
    picture = Picture(zone=zone("A"))
    for _, events in LOG[epoch][:rev]:
        picture.apply(A, events)
    picture.users |= other.pop("users", {})
    state = {"epoch": epoch, "rev": rev, "zone": picture.zone}
    state |= {"users": list(picture.users.values()), "digest": picture.digest(A)}
    return msgspec.json.encode(state | other)


def state(epoch: str, rev: int, since: Position | None = None, **other: Any) -> Subscribed:
    """Make the reply with the state at a revision."""
    return Subscribed(A, epoch, rev, since, body(epoch, rev, **other))


def recovered(epoch: str, rev: int, since: Position) -> Subscribed:
    """Make the reply with the changes since a revision, as that epoch has them."""
    missed = tuple(change(epoch, number) for number in range(since.rev + 1, rev + 1))
    return Subscribed(A, epoch, rev, since, None, missed)


def client(*frames: tuple[float, int, list[Item]], **other: Any) -> ClientLog:
    """Make the log of a client that watches the zone."""
    log = ClientLog("c", "websocket", wanted={A})
    log.frames = [Frame(at_s, connection, tuple(items)) for at_s, connection, items in frames]
    return replace(log, **other)


def tables(identity: str, revs: dict[str, int], users: list[dict[str, Any]], *zones: str) -> Tables:
    """Make the tables of a moment."""
    heads = {name: Head("e", rev, 0) for name, rev in {"unassigned": 0, **revs}.items()}
    found = {name: zone(name) for name in ("A", *zones)}
    return Tables({one["id"]: one for one in users}, found, heads, identity)


def rows(epoch: str) -> list[LogRow]:
    """Make the zone's change log."""
    return [
        LogRow(A, rev, tx, 1, msgspec.json.encode(events))
        for rev, (tx, events) in enumerate(LOG[epoch], 1)
    ]


def history_of(*clients: ClientLog) -> History:
    """Make the history of what happened: one change a second, and the restore at 10 s.

    A zone C that was made at 4 s is not in the restored database.
    """
    history = History(clients=list(clients))
    history.base = tables(FIRST, {A: 0, ZONES: 0}, [])
    for rev in (1, 2, 3):
        history.head_times.note(A, rev, float(rev))
    history.head_times.note(ZONES, 0, 0.5)
    history.head_times.note(ZONES, 1, 4.0)
    history.head_times.epochs.add(OLD)
    lost = history.begin_era(RESTORED_S, {A: 1, ZONES: 0})
    lost.final = tables(FIRST, {A: 3, ZONES: 1, C: 0}, [user(1, 3)], "C")
    made = msgspec.json.encode([{"type": "zone_created", "zone": zone("C")}])
    lost.log = [*rows(OLD), LogRow(ZONES, 1, "t4", 1, made)]
    for rev, at_s in ((1, 11.0), (2, 12.0)):
        history.head_times.note(A, rev, at_s)
    history.head_times.note(ZONES, 0, 11.0)
    history.head_times.epochs.add(NEW)
    history.final = tables(SECOND, {A: 2, ZONES: 0}, [user(1, 1), user(2, 1)])
    history.log = rows(NEW)
    return history


BEGIN: list[tuple[float, int, list[Item]]] = [
    (0.5, 1, [Opened("n")]),
    (0.6, 1, [state(OLD, 0)]),
    (1.1, 1, [change(OLD, 1)]),
]
LOST: list[tuple[float, int, list[Item]]] = [
    *BEGIN,
    (2.1, 1, [change(OLD, 2)]),
    (3.1, 1, [change(OLD, 3)]),
]
AWAY: tuple[float, int, list[Item]] = (5.0, 1, [Closed(1006)])
BACK: tuple[float, int, list[Item]] = (13.0, 2, [Opened("m")])
AT_LOST, AT_SHARED, AT_NEW = Position(OLD, 3), Position(OLD, 1), Position(NEW, 2)

GOOD = {
    "told to begin anew": client(
        *LOST,
        (11.1, 1, [Unsubscribed(A, 2502)]),
        (11.2, 1, [state(NEW, 1)]),
        (12.1, 1, [change(NEW, 2)]),
    ),
    "resumes from what is lost": client(*LOST, AWAY, BACK, (13.1, 2, [state(NEW, 2, AT_LOST)])),
    "was away before what is lost": client(
        *BEGIN, (1.5, 1, [Closed(1006)]), BACK, (13.1, 2, [state(NEW, 2, AT_SHARED)])
    ),
    "a stream that goes on": client(
        *LOST,
        AWAY,
        (13.0, 2, [Opened("m", {A: AT_LOST})]),
        (13.0, 2, [state(NEW, 2, AT_LOST)]),
        make="sse",
    ),
}


def broken(history: History) -> set[Promise]:
    """Return the promises that the validator finds broken."""
    return {violation.promise for violation in validate(history)}


@pytest.mark.parametrize("name", GOOD)
def test_who_begins_anew_after_a_restore_is_accepted(name: str) -> None:
    """What the database has forgotten may have been shown before."""
    assert validate(history_of(GOOD[name])) == []


DOCTORED: dict[str, tuple[ClientLog, Promise]] = {
    "a state mixed of both": (
        client(
            *LOST,
            (11.1, 1, [Unsubscribed(A, 2502)]),
            (12.1, 1, [state(NEW, 2, users={1: user(1, 3)})]),
        ),
        Promise.CONSISTENT,
    ),
    "a new change on the lost state": (
        client(*BEGIN, (12.1, 1, [change(NEW, 2)])),
        Promise.CONSISTENT,
    ),
    "a lost change on the new state": (
        client(*BEGIN, AWAY, BACK, (13.1, 2, [state(NEW, 1, AT_SHARED), change(OLD, 2)])),
        Promise.CONSISTENT,
    ),
    "the old epoch kept for ever": (client(*LOST), Promise.CONVERGENT),
    "the old epoch kept for too long": (
        client(*LOST, (16.0, 1, [Unsubscribed(A, 2502)]), (16.1, 1, [state(NEW, 2)])),
        Promise.FRESH,
    ),
    "a lost position resumed as if nothing had happened": (
        client(
            *LOST, AWAY, BACK, (13.1, 2, [recovered(OLD, 3, AT_LOST)]), (18.0, 2, [state(NEW, 2)])
        ),
        Promise.FRESH,
    ),
    "a lost position resumed in the new epoch": (
        client(*LOST, AWAY, BACK, (13.1, 2, [recovered(NEW, 2, AT_SHARED)])),
        Promise.RESUMABLE,
    ),
    "a lost state for who knew the new": (
        client(
            *LOST,
            AWAY,
            BACK,
            (13.1, 2, [state(NEW, 2, AT_LOST), Closed(1006)]),
            (14.0, 3, [Opened("n"), state(OLD, 3, AT_NEW)]),
            (14.2, 3, [Unsubscribed(A, 2502)]),
            (14.3, 3, [state(NEW, 2)]),
        ),
        Promise.ORDERED,
    ),
    "a lost state after the new on one connection": (
        client(
            BACK, (13.1, 2, [state(NEW, 2)]), (13.2, 2, [state(OLD, 3)]), (13.3, 2, [state(NEW, 2)])
        ),
        Promise.ORDERED,
    ),
}


@pytest.mark.parametrize("name", DOCTORED)
def test_a_mixture_of_two_histories_is_rejected(name: str) -> None:
    """Each way to keep something of what was lost is seen."""
    doctored, promise = DOCTORED[name]
    assert promise in broken(history_of(doctored))


def test_a_write_may_be_lost_only_with_its_era() -> None:
    """What was acknowledged before the restore was there then; what came after is there now."""
    history = history_of()
    history.writes = [
        Write(2.9, 3.0, "n", "update", 200, {A: AT_LOST}),
        Write(11.9, 12.0, "n", "update", 200, {A: AT_NEW}),
    ]
    assert validate(history) == []
    for position in (Position(OLD, 4), Position(NEW, 3)):
        history.writes = [Write(2.9, 3.0, "n", "update", 200, {A: position})]
        assert broken(history) == {Promise.RECORDED}


def test_a_read_at_a_new_position_may_not_show_what_was_lost() -> None:
    """A lost position gets the present state."""
    history = history_of()
    history.reads = [Read(13.0, "n", A, AT_LOST, 200, body(NEW, 2))]
    assert validate(history) == []
    history.reads = [Read(13.0, "n", A, AT_NEW, 200, body(OLD, 3))]
    assert broken(history) == {Promise.READ_YOUR_WRITES}
    history.reads = [Read(13.0, "n", A, AT_LOST, 200, body(NEW, 2, users={1: user(1, 3)}))]
    assert broken(history) == {Promise.CONSISTENT}


def test_a_zone_that_the_restore_took_is_gone() -> None:
    """Not before it, and not a zone that it left."""
    empty = {"zone": zone("C"), "users": [], "digest": "0-00000000"}
    begin = Subscribed(C, OLD, 0, None, msgspec.json.encode({"epoch": OLD, "rev": 0, **empty}))

    def gone(channel: str, at_s: float) -> set[Promise]:
        items: list[Item] = [Opened("n"), begin, state(OLD, 3)]
        end: list[Item] = [Unsubscribed(channel, 2000)]
        return broken(history_of(client((4.5, 1, items), (at_s, 1, end), wanted=set())))

    assert Promise.GAPLESS not in gone(C, 11.1)
    assert Promise.GAPLESS in gone(C, 8.0)
    assert Promise.GAPLESS in gone(A, 11.1)


def test_an_epoch_that_nobody_watched_is_of_the_era_that_knew_it_first() -> None:
    """The heads are looked at now and then, clients see each epoch."""
    history = history_of(*GOOD.values())
    for times in (history.lost[0].head_times, history.head_times):
        times.epochs.clear()
    assert validate(history) == []


def test_pruned_rows_are_taken_where_they_were_kept() -> None:
    """Also when a restore has put others in the place of some of them."""
    history = history_of(GOOD["told to begin anew"])
    kept = [replace(row, rev=row.rev) for row in rows(OLD)]
    history.lost[0].kept_rows, history.kept_rows = kept[:2], [*kept, *rows(NEW)[:1]]
    history.lost[0].log = history.lost[0].log[2:]
    history.log = history.log[1:]
    assert validate(history) == []
    history.kept_rows.clear()
    assert Promise.RECORDED in broken(history)
