"""The check of what clients are told of staleness: it accepts what is right, and nothing else."""

from __future__ import annotations

import pytest

from tests.faults.history import (
    ClientLog,
    Closed,
    Frame,
    History,
    Item,
    Opened,
    Outage,
    Subscribed,
    Told,
    Unsubscribed,
)
from tests.faults.told import ToldBounds, check_told

BOUNDS = ToldBounds(stale_after_s=2, margin_s=1)
AWAY = Outage(10.0, 16.0, "database", "no answer")
END_S = 30.0
Frames = list[tuple[float, Item]]

BEGIN: Frames = [
    (1.0, Opened("n")),
    (1.1, Subscribed("zone:A", "e", 0, state=b"{}")),
]
STALE = Told("stale", None, 9.8)
GOOD: Frames = [*BEGIN, (12.3, STALE), (16.4, Told("live"))]


def history_of(frames: Frames, *outages: Outage, make: str = "websocket") -> History:
    """Make the history of one client that stays to the end, and of another that has nothing."""
    log = ClientLog("c", make)
    log.frames = [Frame(at_s, 1, (item,)) for at_s, item in frames]
    other = ClientLog("d", "websocket")
    other.frames = [Frame(END_S, 1, (Closed(1000),))]
    return History(clients=[log, other], outages=list(outages))


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param(GOOD, id="told in time"),
        pytest.param([*BEGIN, (12.0, Closed(1006))], id="gone before it was due"),
        pytest.param([*BEGIN, (9.0, Unsubscribed("zone:A", 0))], id="watched nothing"),
        pytest.param(
            [(14.0, Opened("n")), (14.1, BEGIN[1][1]), (14.1, STALE), (16.4, Told("live"))],
            id="came while it was so",
        ),
        pytest.param([*BEGIN, (12.3, STALE), (17.0, Closed(1006))], id="gone before the end"),
    ],
)
def test_what_is_right_is_accepted(frames: Frames) -> None:
    """Told within the bounds, or not there to be told."""
    assert not check_told(history_of(frames, AWAY), BOUNDS)


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        pytest.param(BEGIN, "not told that the database is away", id="never told"),
        pytest.param([*BEGIN, (13.5, STALE), (16.4, Told("live"))], "is away", id="told too late"),
        pytest.param(
            [*BEGIN, (12.3, Told("stale", None, 12.2)), (16.4, Told("live"))],
            "told stale since 12.2",
            id="since too late a time",
        ),
        pytest.param(
            [*BEGIN, (12.3, Told("stale")), (16.4, Told("live"))], "since None", id="without since"
        ),
        pytest.param([*BEGIN, (12.3, STALE)], "is back", id="never live again"),
        pytest.param([*BEGIN, (12.3, STALE), (19.5, Told("live"))], "is back", id="live too late"),
        pytest.param(
            [*GOOD, (25.0, Told("stale", None, 22.9)), (25.5, Told("live"))],
            "though the database answered",
            id="a false alarm",
        ),
        pytest.param(
            [(14.0, Opened("n")), (14.1, BEGIN[1][1])], "is away", id="came and was not told"
        ),
        pytest.param(
            [(1.0, Opened("n", {"zone:A": None})), (12.3, Told("live"))],  # type: ignore[dict-item]  # of no matter here
            "is away",
            id="a stream that went on and was not told",
        ),
    ],
)
@pytest.mark.parametrize("make", ["websocket", "sse", "javascript"])
def test_what_is_wrong_is_told_as_such(frames: Frames, words: str, make: str) -> None:
    """Each doctored history is one violation, with the client's name."""
    (violation,) = check_told(history_of(frames, AWAY, make=make), BOUNDS)
    assert words in violation.text
    assert violation.client == "c"


def test_a_client_that_hands_nothing_on_is_not_judged() -> None:
    """The Python SDK leaves out what it is told."""
    assert not check_told(history_of(BEGIN, AWAY, make="python"), BOUNDS)


@pytest.mark.parametrize("scope", ["recorder", "node:n", "client:c"])
def test_what_else_was_out_is_an_excuse(scope: str) -> None:
    """Who could not tell, or not hear, or not note it, is not judged."""
    assert not check_told(history_of(BEGIN, AWAY, Outage(11, 14, scope, "")), BOUNDS)


@pytest.mark.parametrize("scope", ["node:m", "client:x"])
def test_an_outage_of_others_is_no_excuse(scope: str) -> None:
    """What this connection doesn't rest on is of no matter."""
    assert check_told(history_of(BEGIN, AWAY, Outage(11, 14, scope, "")), BOUNDS)


def test_a_short_outage_need_not_be_told() -> None:
    """One within the bound may be told or not; in the end the picture is live."""
    short = Outage(10.0, 12.5, "database", "no answer")
    assert not check_told(history_of(BEGIN, short), BOUNDS)
    assert not check_told(history_of([*BEGIN, (12.3, STALE), (12.6, Told("live"))], short), BOUNDS)
    assert check_told(history_of([*BEGIN, (12.3, STALE)], short), BOUNDS)


def test_outages_that_overlap_are_one() -> None:
    """Who was told of the first isn't told of the second."""
    second = Outage(15.0, 20.0, "database", "no answer")
    frames: Frames = [*BEGIN, (12.3, STALE), (20.4, Told("live"))]
    assert not check_told(history_of(frames, AWAY, second), BOUNDS)
