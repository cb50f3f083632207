"""The check of users dicts: it accepts each state in its time, and nothing else.

Two users come into A, and a third. The first goes to B, and much later the second is deleted.
Then the database is put back to where it was before the move, and goes on otherwise.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from db.identity import client_epoch
from tests.faults.dict_freshness import check_dicts
from tests.faults.eras import Era, Head, HeadTimes, LogRow, Tables
from tests.faults.history import DictRead, History, Outage
from tests.faults.timeline import Eras
from tests.faults.validator import validate
from tests.faults.violations import Promise, Violation

A, B, ZONES, UNASSIGNED = "zone:A", "zone:B", "zones", "unassigned"
STALENESS_S = 4.0
RESTORED_S = 40.0
SHARED_REV = 3
Events = dict[str, list[dict[str, Any]]]


def user(number: int, version: int, zone_id: str = "A", name: str = "Ada") -> dict[str, Any]:
    """Make a user as events have it."""
    key = {"id": number, "global_id": 100 + number, "name": name}
    return {**key, "zone_id": zone_id, "attributes": {}, "version": version}


def entered(who: dict[str, Any]) -> dict[str, Any]:
    """Make an event."""
    return {"type": "entered", "user": who}


def left(number: int, version: int) -> dict[str, Any]:
    """Make an event."""
    return {"type": "left", "user_id": number, "version": version}


BASE = user(9, 5, "B")
COMMON: list[tuple[float, Events]] = [
    (10.0, {A: [entered(user(1, 1))]}),
    (11.0, {A: [entered(user(2, 1))]}),
    (12.0, {A: [entered(user(3, 1))]}),
]
LOST: list[tuple[float, Events]] = [
    *COMMON,
    (13.0, {A: [left(1, 2)], B: [entered(user(1, 2, "B"))]}),
    (25.0, {A: [left(2, 2)]}),
]
KEPT: list[tuple[float, Events]] = [
    *COMMON,
    (42.0, {A: [{"type": "changed", "user": user(1, 2, name="Eve")}]}),
]


def dict_of(*users: dict[str, Any]) -> bytes:
    """Encode the dict with users, and the one that is always there."""
    names = ("id", "name", "zone_id", "version")
    found = {str(who["global_id"]): {name: who[name] for name in names} for who in [*users, BASE]}
    return msgspec.json.encode(found)


EMPTY = dict_of()
THREE = dict_of(user(1, 1), user(2, 1), user(3, 1))
MOVED = dict_of(user(1, 2, "B"), user(2, 1), user(3, 1))
DELETED = dict_of(user(1, 2, "B"), user(3, 1))
RENAMED = dict_of(user(1, 2, name="Eve"), user(2, 1), user(3, 1))


def log_of(changes: list[tuple[float, Events]], times: HeadTimes, from_s: float) -> list[LogRow]:
    """Make a change log, and note when its revisions were seen from a time on."""
    rows: list[LogRow] = []
    revs = {A: 0, B: 0}
    for number, (at_s, events) in enumerate(changes):
        for channel, found in events.items():
            revs[channel] += 1
            body = msgspec.json.encode(found)
            rows.append(
                LogRow(channel, revs[channel], f"{number} {at_s}", len(events), body),
            )
            times.note(channel, revs[channel], max(at_s, from_s))
    return rows


def tables(identity: str, a_rev: int, b_rev: int, *users: dict[str, Any]) -> Tables:
    """Make the tables of a moment."""
    revs = {A: a_rev, B: b_rev, ZONES: 0, UNASSIGNED: 0}
    heads = {name: Head("e", rev, 0) for name, rev in revs.items()}
    zones = {name: {"zone_id": name, "name": name} for name in "AB"}
    return Tables({who["id"]: who for who in [*users, BASE]}, zones, heads, identity)


def history_of(*reads: DictRead) -> History:
    """Make the history of what happened, and was read."""
    history = History(dict_reads=list(reads), base=tables("first", 0, 0))
    lost_log = log_of(LOST, history.head_times, 0)
    lost: Era = history.begin_era(RESTORED_S, {A: SHARED_REV, B: 0})
    lost.log, lost.final = lost_log, tables("first", 5, 1, user(1, 2, "B"), user(3, 1))
    history.log = log_of(KEPT, history.head_times, RESTORED_S + 0.5)
    renamed = user(1, 2, name="Eve")
    history.final = tables("second", 4, 0, renamed, user(2, 1), user(3, 1))
    history.head_times.epochs.add(client_epoch("e", "second"))
    return history


def read(at_s: float, body: bytes, **other: Any) -> DictRead:
    """Make a read that was answered at once."""
    return DictRead(at_s, at_s + 0.1, "n", 200, f'"{hash(body)}"', body=body, **other)


def known(at_s: float, body: bytes, asked: bytes | None = None) -> DictRead:
    """Make a read that was answered with 304."""
    etag = f'"{hash(body)}"'
    asked_etag = etag if asked is None else f'"{hash(asked)}"'
    return DictRead(at_s, at_s + 0.1, "n", 304, etag, asked_etag)


def judged(history: History) -> list[Violation]:
    """Return what the check finds."""
    return check_dicts(history, Eras(history), STALENESS_S)


@pytest.mark.parametrize(
    "reads",
    [
        pytest.param([read(9.0, EMPTY)], id="before anything happened"),
        pytest.param([read(12.5, THREE)], id="at once"),
        pytest.param([read(16.5, THREE)], id="a little old"),
        pytest.param([read(12.2, MOVED)], id="seen before the database was looked at"),
        pytest.param([read(20.0, MOVED), known(28.0, MOVED)], id="304 a little old"),
        pytest.param([read(30.0, DELETED)], id="after a deletion"),
        pytest.param([read(39.0, DELETED), known(43.0, DELETED)], id="lost a moment ago"),
        pytest.param([read(41.0, THREE)], id="restored"),
        pytest.param([read(50.0, RENAMED), known(60.0, RENAMED)], id="after the restore"),
        pytest.param([read(13.2, MOVED, use_cache=False)], id="from the database"),
        pytest.param([DictRead(20.0, 24.0, "n", 0), DictRead(20.0, 21.0, "n", 503)], id="none"),
        pytest.param([read(2.0, dict_of(user(8, 1)))], id="of before the recording"),
    ],
)
def test_a_dict_in_its_time_is_accepted(reads: list[DictRead]) -> None:
    """Each state for as long as it may be shown."""
    assert judged(history_of(*reads)) == []


@pytest.mark.parametrize(
    ("reads", "promise", "words"),
    [
        pytest.param(
            [read(17.5, THREE)], Promise.FRESH, "user 1 has version 2 since 13", id="stale"
        ),
        pytest.param([read(17.5, EMPTY)], Promise.FRESH, "user 1 has version 1", id="still empty"),
        pytest.param(
            [read(35.0, MOVED)], Promise.FRESH, "user 2 is deleted since 25", id="resurrected"
        ),
        pytest.param(
            [read(50.0, DELETED)], Promise.FRESH, "that was lost at 40", id="of the lost history"
        ),
        pytest.param(
            [read(50.0, THREE)], Promise.FRESH, "version 2 since 42", id="as it was restored"
        ),
        pytest.param(
            [read(20.0, MOVED), known(30.0, MOVED)],
            Promise.FRESH,
            "answered 304 .* user 2 is deleted",
            id="304 for an old one",
        ),
        pytest.param(
            [read(39.0, DELETED), known(50.0, DELETED)],
            Promise.FRESH,
            "answered 304 .* lost at 40",
            id="304 for one of the lost history",
        ),
        pytest.param(
            [read(20.0, MOVED), read(30.0, DELETED), known(31.0, DELETED, asked=MOVED)],
            Promise.CONSISTENT,
            "for who has",
            id="304 for another",
        ),
        pytest.param([known(20.0, MOVED)], Promise.CONSISTENT, "of no dict", id="304 for none"),
        pytest.param(
            [read(13.5, THREE, use_cache=False)],
            Promise.FRESH,
            "version 2 since 13",
            id="from the database and old",
        ),
        pytest.param(
            [read(20.0, DELETED)], Promise.CONSISTENT, "committed 25", id="from the future"
        ),
        pytest.param(
            [read(30.0, RENAMED)],
            Promise.CONSISTENT,
            "user 1 never was",
            id="from the next history",
        ),
        pytest.param(
            [read(14.0, dict_of(user(1, 1), user(2, 1), user(3, 1), user(4, 1)))],
            Promise.CONSISTENT,
            "user 4 never was",
            id="somebody who never was",
        ),
        pytest.param(
            [read(14.0, dict_of(user(1, 1, "B"), user(2, 1), user(3, 1)))],
            Promise.CONSISTENT,
            "user 1 never was",
            id="somebody where they never were",
        ),
        pytest.param(
            [read(14.0, dict_of(user(1, 2, "B"), user(2, 1)))],
            Promise.CONSISTENT,
            "zone:A is at 4 without 3",
            id="a later change without an earlier one",
        ),
        pytest.param(
            [read(43.0, dict_of(user(1, 2, name="Eve"), user(3, 1)))],
            Promise.CONSISTENT,
            "without 2",
            id="a mixture of both histories",
        ),
        pytest.param(
            [read(14.0, b"{}")], Promise.CONSISTENT, "user 9 is missing", id="somebody left out"
        ),
        pytest.param([DictRead(20.0, 20.1, "n", 500)], Promise.SERVED, "an error", id="an error"),
    ],
)
def test_what_is_wrong_is_told_as_such(reads: list[DictRead], promise: Promise, words: str) -> None:
    """Each doctored history is one violation, and the validator has it."""
    history = history_of(*reads)
    (violation,) = judged(history)
    assert violation.promise is promise
    assert [violation] == [one for one in validate(history) if one.text == violation.text]
    assert re.search(words, violation.text)


def test_one_etag_for_two_dicts_is_rejected() -> None:
    """Who has one of them would be told to keep it."""
    first, second = read(14.0, MOVED), read(30.0, DELETED)
    other = DictRead(30.0, 30.1, "m", 200, first.etag, body=second.body)
    violations = judged(history_of(first, other))
    assert {violation.promise for violation in violations} == {Promise.CONSISTENT}


@pytest.mark.parametrize("scope", ["database", "recorder", "node:n"])
def test_an_outage_puts_the_bound_off(scope: str) -> None:
    """By as long as it lasts; then the dict has to follow."""
    history = history_of(read(19.0, THREE))
    history.outages = [Outage(14.0, 16.0, scope, "")]
    assert judged(history) == []
    history.dict_reads = [read(20.5, THREE)]
    assert [violation.promise for violation in judged(history)] == [Promise.FRESH]


@pytest.mark.parametrize("scope", ["node:m", "client:c"])
def test_an_outage_of_others_is_no_excuse(scope: str) -> None:
    """Nor any, for who asks the database itself."""
    history = history_of(read(19.0, THREE))
    history.outages = [Outage(14.0, 16.0, scope, "")]
    assert len(judged(history)) == 1
    history = history_of(read(15.0, THREE, use_cache=False))
    history.outages = [Outage(12.5, 14.0, "recorder", "")]
    assert len(judged(history)) == 1
