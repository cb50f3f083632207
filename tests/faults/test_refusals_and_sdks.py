"""The validator knows refusals that are none, and transactions that an SDK hands on in parts."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from channels.names import DIRECTORY
from tests.faults.eras import Head, LogRow
from tests.faults.history import (
    ClientLog,
    Closed,
    History,
    Item,
    Opened,
    Outage,
    Refused,
    Subscribed,
)
from tests.faults.history import Unsubscribed as Ended
from tests.faults.test_validator import (
    BEGIN,
    EPOCHS,
    FOURTH,
    THIRD,
    A,
    B,
    at,
    broken,
    change,
    client,
    history_of,
    state,
)
from tests.faults.violations import Promise

Frames = Sequence[tuple[float, int, list[Item]]]
UNKNOWN = 102
C = "zone:C"


def with_directory(log: ClientLog) -> History:
    """Make the history in which a zone C is made at 2 s and deleted at 6 s."""
    history = history_of(log)
    zone = {"zone_id": "C", "name": "C"}
    events = [{"type": "zone_created", "zone": zone}], [{"type": "zone_deleted", "zone_id": "C"}]
    history.head_times.note(DIRECTORY, 0, 0.1)
    for rev, (at_s, told) in enumerate(zip((2.0, 6.0), events, strict=True), 1):
        history.log.append(LogRow(DIRECTORY, rev, f"z{rev}", 1, msgspec.json.encode(told)))
        history.head_times.note(DIRECTORY, rev, at_s)
    history.final.heads[DIRECTORY] = Head(f"e-{DIRECTORY}", 2, 0)
    return history


def refused(channel: str, asked_s: float, at_s: float) -> ClientLog:
    """Make the log of a client that is refused a channel as unknown."""
    items: list[Item] = [Refused(channel, UNKNOWN, asked_s)]
    return client((0.5, 1, [Opened("n")]), (at_s, 1, items), wanted=set())


@pytest.mark.parametrize(
    ("channel", "asked_s", "at_s"),
    [(A, 3.0, 3.1), (A, 7.5, 9.0), (C, 3.2, 4.5), (DIRECTORY, 3.0, 3.1), ("unassigned", 3.0, 3.1)],
)
def test_who_calls_a_channel_unknown_that_was_there_is_found(
    channel: str, asked_s: float, at_s: float
) -> None:
    """From a second before it was asked for until the answer."""
    history = with_directory(refused(channel, asked_s, at_s))
    assert broken(history) == {Promise.SERVED}


@pytest.mark.parametrize(
    ("asked_s", "at_s"), [(1.5, 1.6), (2.5, 2.6), (4.0, 5.5), (5.5, 6.5), (6.5, 6.6), (8.0, 8.1)]
)
def test_a_zone_that_came_or_went_may_be_unknown(asked_s: float, at_s: float) -> None:
    """What was not there all the time, or not for long."""
    assert broken(with_directory(refused(C, asked_s, at_s))) == set()


def test_a_state_for_who_could_resume_is_right_only_while_the_database_is_away() -> None:
    """A node that can't read the log gives the state that it has."""
    asleep = client(
        *BEGIN[:3],
        (1.5, 1, [Closed(1006)]),
        (4.5, 2, [Opened("m"), state(A, 4, at(A, 1)), state(B, 2, at(B, 0))]),
    )
    history = history_of(asleep)
    assert broken(history) == {Promise.RESUMABLE}
    history.outages = [Outage(4.2, 4.4, "database", "")]
    assert broken(history) == set()
    history.outages = [Outage(4.2, 4.4, "node:m", ""), Outage(2.0, 3.0, "database", "")]
    assert broken(history) == {Promise.RESUMABLE}


def test_a_stream_may_part_a_transaction_only_while_the_database_is_away() -> None:
    """It resumes by itself what was incomplete for too long, as a protocol without replies must."""
    parted = client(
        (0.5, 1, [Opened("n")]),
        (0.6, 1, [state(A, 0), state(B, 0)]),
        (1.1, 1, [change(A, 1)]),
        (2.1, 1, [change(A, 2)]),
        (3.1, 1, [change(A, 3), change(B, 1)]),
        (4.1, 1, [change(A, 4)]),
        (6.4, 1, [change(B, 2)]),
        make="sse",
    )
    history = history_of(parted)
    assert Promise.ATOMIC in broken(history)
    history.outages = [Outage(3.9, 6.3, "database", "")]
    assert Promise.ATOMIC not in broken(history)


def test_what_happened_to_zones_unseen_is_not_judged() -> None:
    """While nobody could watch the heads, the zone may have been away."""
    history = with_directory(refused(C, 3.2, 4.5))
    history.outages = [Outage(4.0, 5.0, "database", "")]
    assert broken(history) == set()


def test_a_restore_in_between_is_an_excuse() -> None:
    """The zone may not have been in what was restored."""
    history = with_directory(refused(A, 3.2, 4.5))
    era = history.begin_era(4.0, {})
    era.final, era.log = history.final, history.log
    history.head_times = era.head_times
    assert broken(history) == set()


def test_an_sdk_says_it_as_the_end_of_a_subscription() -> None:
    """It tells the code of the refusal, and not when it had asked: after it was connected."""
    for zone, expected in ((A, {Promise.SERVED}), (C, set())):
        frames: Frames = [(3.2, 1, [Opened("n")]), (5.5, 1, [Ended(zone, UNKNOWN)])]
        log = client(*frames, make="python", shows_frames=False, wanted=set())
        assert broken(with_directory(log)) == expected


def sdk(*frames: tuple[float, int, list[Item]]) -> ClientLog:
    """Make the log of an SDK."""
    return client(*BEGIN, *frames, make="javascript", shows_frames=False)


def recovered(channel: str, since: int, rev: int) -> Subscribed:
    """Make the beginning of a subscription whose missed changes follow."""
    return Subscribed(channel, EPOCHS[channel], rev, at(channel, since), None, None)


def singly(at_s: float, *items: Item) -> Frames:
    """Make what is handed on item by item."""
    return [(at_s, 1, [item]) for item in items]


SINGLY: Frames = [*singly(3.1, *THIRD[2]), *singly(4.1, *FOURTH[2])]


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param(SINGLY, id="one by one"),
        pytest.param(
            singly(4.2, change(A, 3), change(A, 4), change(B, 1), change(B, 2)),
            id="channel by channel, after it was slow",
        ),
        pytest.param(
            [
                *singly(2.5, Ended(A, 2501), Ended(B, 2501)),
                *singly(4.5, recovered(B, 0, 2), change(B, 1), change(B, 2)),
                *singly(6.5, recovered(A, 2, 4), change(A, 3), change(A, 4)),
            ],
            id="recovered one after the other",
        ),
        pytest.param(
            [
                *singly(2.5, Ended(A, 2501)),
                *singly(2.6, recovered(A, 2, 2)),
                *singly(3.1, recovered(A, 2, 3), change(A, 3)),
                *singly(4.6, change(B, 1), *FOURTH[2]),
            ],
            id="recovered, and the rest late",
        ),
        pytest.param(
            [
                *singly(3.1, change(B, 1)),
                *singly(3.2, Ended(A, 2502)),
                *singly(5.5, state(A, 4), change(B, 2)),
            ],
            id="one of them anew",
        ),
    ],
)
def test_what_an_sdk_hands_on_at_once_is_whole(frames: Frames) -> None:
    """It hands on what it receives as one in several calls, and so what it had missed."""
    assert broken(history_of(sdk(*frames))) == set()


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param([*SINGLY[:3], *singly(5.3, change(B, 2))], id="the last"),
        pytest.param(
            [
                *singly(3.1, change(A, 3)),
                *singly(4.1, change(A, 4)),
                *singly(4.2, change(B, 1), change(B, 2)),
            ],
            id="the first, with the next in between",
        ),
    ],
)
def test_what_an_sdk_hands_on_much_later_is_apart(frames: Frames) -> None:
    """The rest of a transaction can't have come with its beginning."""
    assert broken(history_of(sdk(*frames))) == {Promise.ATOMIC}
