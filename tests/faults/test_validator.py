"""The validator accepts a good history, and rejects one in which a promise is broken."""

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
    Outage,
    Published,
    Read,
    Refused,
    Subscribed,
    Told,
    Unsubscribed,
    Write,
)
from tests.faults.timeline import Picture
from tests.faults.validator import validate
from tests.faults.violations import Bounds, Promise

IDENTITY = "machine"
EPOCHS = {name: client_epoch(f"e-{name}", IDENTITY) for name in ("zone:A", "zone:B", "zones")}
A, B = "zone:A", "zone:B"
LAST_REV = {A: 4, B: 2, "zones": 0}


def user(number: int, zone: str, version: int) -> dict[str, Any]:
    """Make a user as events have it."""
    return {"id": number, "zone_id": zone, "version": version, "attributes": {}}


def entered(number: int, zone: str, version: int) -> dict[str, Any]:
    """Make an event."""
    return {"type": "entered", "user": user(number, zone, version)}


def left(number: int, version: int) -> dict[str, Any]:
    """Make an event."""
    return {"type": "left", "user_id": number, "version": version}


CHANGES: dict[tuple[str, int], tuple[str, list[dict[str, Any]]]] = {
    (A, 1): ("t1", [entered(1, "A", 1)]),
    (A, 2): ("t2", [entered(2, "A", 1)]),
    (A, 3): ("t3", [left(1, 2)]),
    (B, 1): ("t3", [entered(1, "B", 2)]),
    (A, 4): ("t4", [left(2, 2)]),
    (B, 2): ("t4", [entered(2, "B", 2)]),
}
"""Two users come into A, and then go to B one by one."""


def change(channel: str, rev: int, **other: Any) -> Published:
    """Make the change that a client receives."""
    tx, events = CHANGES[channel, rev]
    return replace(Published(channel, rev, tx, msgspec.json.encode(events)), **other)


def state(channel: str, rev: int, since: Position | None = None) -> Subscribed:
    """Make the reply with the state at a revision."""
    return Subscribed(channel, EPOCHS[channel], rev, since, body_at(channel, rev))


def body_at(channel: str, rev: int, /, **other: Any) -> bytes:
    """Encode the state at a revision."""
    picture = Picture(zone={"zone_id": channel[-1], "name": channel[-1]})
    for number in range(1, rev + 1):
        picture.apply(channel, CHANGES[channel, number][1])
    body = {"rev": rev, "zone": picture.zone, "users": list(picture.users.values())}
    return msgspec.json.encode({**body, "digest": picture.digest(channel), **other})


def recovered(channel: str, since: int, rev: int) -> Subscribed:
    """Make the reply with the changes that were missed."""
    missed = tuple(change(channel, number) for number in range(since + 1, rev + 1))
    epoch = EPOCHS[channel]
    return Subscribed(channel, epoch, rev, Position(epoch, since), None, missed)


def at(channel: str, rev: int) -> Position:
    """Make a position."""
    return Position(EPOCHS[channel], rev)


def client(*frames: tuple[float, int, list[Item]], **other: Any) -> ClientLog:
    """Make the log of a client that watches both zones."""
    log = ClientLog("c", "websocket", wanted={A, B})
    log.frames = [Frame(at_s, connection, tuple(items)) for at_s, connection, items in frames]
    return replace(log, **other)


def history_of(*clients: ClientLog) -> History:
    """Make the history of what happened, one change a second; the database is as in `CHANGES`."""
    history = History(clients=list(clients))
    zones = {name: {"zone_id": name, "name": name} for name in "AB"}
    heads = {channel: Head(f"e-{channel}", 0, 0) for channel in EPOCHS}
    history.base = Tables({}, zones, heads, IDENTITY)
    heads = {channel: Head(f"e-{channel}", rev, 0) for channel, rev in LAST_REV.items()}
    users = {number: user(number, "B", 2) for number in (1, 2)}
    heads["unassigned"] = history.base.heads["unassigned"] = Head("e-u", 0, 0)
    history.final = Tables(users, zones, heads, IDENTITY)
    times = {"t1": 1.0, "t2": 2.0, "t3": 3.0, "t4": 4.0}
    spans = {"t1": 1, "t2": 1, "t3": 2, "t4": 2}
    for (channel, rev), (tx, events) in sorted(CHANGES.items()):
        row = LogRow(channel, rev, tx, spans[tx], msgspec.json.encode(events))
        history.log.append(row)
        history.head_times.note(channel, rev, times[tx])
    return history


BEGIN: list[tuple[float, int, list[Item]]] = [
    (0.5, 1, [Opened("n")]),
    (0.6, 1, [state(A, 0), state(B, 0)]),
    (1.1, 1, [change(A, 1)]),
    (2.1, 1, [change(A, 2)]),
]
THIRD: tuple[float, int, list[Item]] = (3.1, 1, [change(A, 3), change(B, 1)])
FOURTH: tuple[float, int, list[Item]] = (4.1, 1, [change(A, 4), change(B, 2)])
GOOD = client(*BEGIN, THIRD, FOURTH)
RESUMED = client(
    *BEGIN,
    (2.5, 1, [Closed(1006)]),
    (3.5, 2, [Opened("m")]),
    (3.6, 2, [recovered(A, 2, 3)]),
    (3.7, 2, [recovered(B, 0, 1)]),
    (4.1, 2, [change(A, 4), change(B, 2)]),
)
STREAM = client(
    (0.5, 1, [Opened("n")]),
    (0.6, 1, [state(A, 0)]),
    (0.6, 1, [state(B, 0)]),
    (1.1, 1, [change(A, 1)]),
    (1.5, 1, [Closed(1006)]),
    (3.4, 2, [Opened("m", {A: at(A, 1), B: at(B, 0)}), Told("live")]),
    (3.5, 2, [change(A, 2)]),
    (3.5, 2, [change(A, 3), change(B, 1)]),
    (4.1, 2, [change(A, 4), change(B, 2)]),
    make="sse",
)


def broken(history: History) -> set[Promise]:
    """Return the promises that the validator finds broken."""
    return {violation.promise for violation in validate(history)}


@pytest.mark.parametrize("good", [GOOD, RESUMED, STREAM], ids=["live", "resumed", "stream"])
def test_a_good_history_is_accepted(good: ClientLog) -> None:
    """What is delivered as promised is no violation, whatever the way."""
    assert validate(history_of(good)) == []


def test_a_state_anew_after_the_rest_of_a_transaction_is_accepted() -> None:
    """One channel may be told to begin anew while another goes on."""
    anew = client(
        *BEGIN,
        (3.1, 1, [Unsubscribed(A, 2502), change(B, 1)]),
        (3.2, 1, [state(A, 3)]),
        FOURTH,
    )
    assert validate(history_of(anew)) == []


DOCTORED: dict[str, tuple[ClientLog, Promise]] = {
    "an older revision after a newer": (
        client(
            *BEGIN,
            (2.2, 1, [Unsubscribed(A, 0)]),
            (2.3, 1, [state(A, 2)]),
            (2.4, 1, [change(A, 1)]),
        ),
        Promise.ORDERED,
    ),
    "a state older than the position given": (
        client(*BEGIN, (2.2, 1, [Unsubscribed(A, 0)]), (2.3, 1, [state(A, 1, at(A, 2))])),
        Promise.ORDERED,
    ),
    "a revision left out": (client(*BEGIN, FOURTH), Promise.GAPLESS),
    "a revision without a subscription": (
        client(*BEGIN, (2.5, 1, [Closed(1006)]), THIRD),
        Promise.GAPLESS,
    ),
    "an end without the change that says so": (
        client(*BEGIN, (2.5, 1, [Unsubscribed(A, 2000)])),
        Promise.GAPLESS,
    ),
    "a revision twice": (client(*BEGIN, (2.2, 1, [change(A, 2)]), THIRD, FOURTH), Promise.UNIQUE),
    "a transaction in two frames": (
        client(*BEGIN, (3.1, 1, [change(A, 3)]), (3.1, 1, [change(B, 1)]), FOURTH),
        Promise.ATOMIC,
    ),
    "a state that never was": (
        client(
            (0.6, 1, [Opened("n"), replace(state(A, 2), state=body_at(A, 1, rev=2)), state(B, 0)]),
            THIRD,
            FOURTH,
        ),
        Promise.CONSISTENT,
    ),
    "a digest of something else": (
        client(
            (0.6, 1, [Opened("n"), replace(state(A, 2), state=body_at(A, 2, digest="2-0"))]),
        ),
        Promise.CONSISTENT,
    ),
    "a change that is not the log's": (
        client(*BEGIN, (3.1, 1, [change(A, 3, events=b"[]"), change(B, 1)]), FOURTH),
        Promise.CONSISTENT,
    ),
    "a recovery with a hole": (
        client(
            *BEGIN[:3],
            (1.5, 1, [Closed(1006)]),
            (3.5, 2, [Opened("m"), replace(recovered(A, 1, 3), missed=(change(A, 3),))]),
        ),
        Promise.RESUMABLE,
    ),
    "a recovery that promises more": (
        client(
            *BEGIN,
            (2.5, 1, [Closed(1006)]),
            (3.5, 2, [Opened("m"), replace(recovered(A, 2, 3), missed=())]),
        ),
        Promise.RESUMABLE,
    ),
    "a recovery in another epoch": (
        client(
            *BEGIN,
            (2.5, 1, [Closed(1006)]),
            (3.5, 2, [Opened("m"), replace(recovered(A, 2, 3), epoch="0a")]),
        ),
        Promise.RESUMABLE,
    ),
    "a state for a position that is retained": (
        client(*BEGIN, (3.2, 1, [Closed(1006)]), (3.5, 2, [Opened("m"), state(A, 3, at(A, 2))])),
        Promise.RESUMABLE,
    ),
    "a change after eight seconds": (
        client(*BEGIN, (11.0, 1, [change(A, 3), change(B, 1)]), (11.0, 1, FOURTH[2])),
        Promise.FRESH,
    ),
    "a change that never came": (
        client(*BEGIN, THIRD, (20.0, 1, [Closed(1006)]), wanted=set()),
        Promise.FRESH,
    ),
    "an end behind the database": (client(*BEGIN, THIRD), Promise.CONVERGENT),
    "an end without a subscription": (
        client(*BEGIN, THIRD, FOURTH, (5.0, 1, [Closed(1006)])),
        Promise.CONVERGENT,
    ),
    "an end in another epoch": (
        client(
            (0.5, 1, [Opened("n")]),
            (4.5, 1, [state(B, 2), replace(state(A, 4), epoch="0a")]),
        ),
        Promise.CONVERGENT,
    ),
    "a refusal without a reason": (
        client(*BEGIN, (2.5, 1, [Refused(A, 105)]), THIRD, FOURTH),
        Promise.SERVED,
    ),
}


@pytest.mark.parametrize("name", DOCTORED)
def test_a_doctored_history_is_rejected(name: str) -> None:
    """Each promise is looked at."""
    doctored, promise = DOCTORED[name]
    assert promise in broken(history_of(doctored))


def test_an_end_with_another_state_is_rejected() -> None:
    """Positions may agree and states not: the log and the tables have parted."""
    history = history_of(GOOD)
    history.final.users[2]["version"] = 9
    assert broken(history) == {Promise.RECORDED, Promise.CONVERGENT}


def test_outages_put_a_change_off() -> None:
    """While the database is down or the client doesn't read, nothing is promised; then it is."""
    late = client(*BEGIN, (9.0, 1, THIRD[2]), (9.0, 1, FOURTH[2]))
    history = history_of(late)
    for scope in ("database", "node:n", "client:c"):
        history.outages = [Outage(3.5, 6.0, scope, "")]
        assert validate(history) == []
        history.outages = [Outage(3.5, 4.5, scope, "")]
        assert broken(history) == {Promise.FRESH}
    history.outages = [Outage(3.5, 6.0, "node:m", "")]
    assert broken(history) == {Promise.FRESH}


def test_a_read_before_the_write_is_rejected() -> None:
    """What `min` asks for is there."""
    history = history_of(GOOD)
    history.reads = [Read(3.0, "n", A, at(A, 2), 200, body_at(A, 2))]
    assert validate(history) == []
    history.reads = [Read(3.0, "n", A, at(A, 3), 200, body_at(A, 2))]
    assert broken(history) == {Promise.READ_YOUR_WRITES}
    history.reads = [Read(3.0, "n", A, at(A, 2), 200, body_at(A, 1, rev=2))]
    assert broken(history) == {Promise.CONSISTENT}


def test_a_write_that_is_not_in_the_log_is_rejected() -> None:
    """What was acknowledged is there, whole."""
    history = history_of(GOOD)
    history.writes = [Write(2.9, 3.0, "n", "transfer", 200, {A: at(A, 3), B: at(B, 1)})]
    assert validate(history) == []
    for positions in ({A: at(A, 3)}, {A: at(A, 7)}, {A: at(A, 3), B: at(B, 2)}):
        history.writes = [Write(2.9, 3.0, "n", "transfer", 200, positions)]
        assert broken(history) == {Promise.RECORDED}
    history.writes = [Write(2.9, 3.0, "n", "transfer", 500)]
    assert broken(history) == {Promise.SERVED}


def test_a_log_with_a_hole_or_half_a_transaction_is_rejected() -> None:
    """The log itself is judged, too."""
    history = history_of()
    assert validate(history) == []
    history.log = [row for row in history.log if (row.channel, row.rev) != (A, 2)]
    assert broken(history) == {Promise.RECORDED}
    history = history_of()
    history.log = [replace(row, span=1) for row in history.log]
    assert broken(history) == {Promise.RECORDED}


def test_a_position_too_far_behind_needs_no_recovery() -> None:
    """Nor one that is no longer retained."""
    asleep = client(
        *BEGIN[:3],
        (1.5, 1, [Closed(1006)]),
        (4.5, 2, [Opened("m"), state(A, 4, at(A, 1)), recovered(B, 0, 2)]),
    )
    assert broken(history_of(asleep)) == {Promise.RESUMABLE}
    assert validate(history_of(asleep), Bounds(resume_max_changes=2)) == []
    compacted = history_of(asleep)
    compacted.final.heads[A] = Head(f"e-{A}", 4, 2)
    assert validate(compacted) == []
