"""Each known bug is noticed by the suite, by a test that fails of just that bug."""

from __future__ import annotations

import pytest

from tests.faults.catalogue import CONTROL_EXAMPLES, Sighting, run, selection_of_all
from tests.faults.edits import Edit, EditError, apply
from tests.faults.known_bug import KnownBug
from tests.faults.known_bugs import BUGS, NO_BUG

PROMISES = {
    "Ordered",
    "Gapless",
    "Unique",
    "Atomic",
    "Consistent snapshot",
    "Resumable",
    "Read-your-writes",
    "Bounded staleness",
    "Convergent",
    "Drained",
}
"""All promises whose breach has an entry."""


@pytest.mark.parametrize("name", BUGS)
def test_a_known_bug_is_noticed(name: str, request: pytest.FixtureRequest) -> None:
    """The selection fails, at the bug, which was passed, and by what the bug breaks."""
    bug = BUGS[name]
    for server in bug.servers:
        request.getfixturevalue(server)
    sighting = run(name, bug.seen_by)
    assert not sighting.blindness(bug), sighting.text


def test_without_a_bug_the_same_tests_pass(postgres: object, redis_binaries: object) -> None:
    """It is the bugs that are noticed, and not the plugin."""
    control = run(NO_BUG, selection_of_all(), CONTROL_EXAMPLES)
    assert control.exit_code == 0, control.text
    assert control.reached == ()


def test_every_promise_has_a_bug_that_breaks_it() -> None:
    """A promise without one may well be one that nothing checks."""
    assert {bug.promise for bug in BUGS.values()} == PROMISES
    assert len(BUGS) == len({bug.edits for bug in BUGS.values()})


BUG = KnownBug("a bug", "Ordered", (), (), "as promised")
SEEN = Sighting("a bug", 1, (1, 2), "test_x", "not as promised", 0.1)


@pytest.mark.parametrize(
    ("sighting", "why"),
    [
        (SEEN, ""),
        (Sighting("a bug", 0, (1,), "", "", 0.1), "not noticed"),
        (Sighting("a bug", 4, (), "", "usage", 0.1), "not noticed"),
        (Sighting("a bug", 1, (), "test_x", "not as promised", 0.1), "never passed"),
        (Sighting("a bug", 1, (1, 0), "test_x", "not as promised", 0.1), "never passed"),
        (Sighting("a bug", 1, (1,), "", "fixture", 0.1), "something that tests need"),
        (Sighting("a bug", 1, (1,), "test_x", "NameError", 0.1), "something else"),
    ],
)
def test_a_failure_counts_only_when_it_is_the_bugs(sighting: Sighting, why: str) -> None:
    """Usage errors, mistakes in the edit and places never passed are no sightings."""
    blindness = sighting.blindness(BUG)
    assert bool(blindness) == bool(why)
    assert why in blindness


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (Edit("channels.resume:nothing", "since", "reached(since)"), "no such function"),
        (Edit("channels.resume:missed_changes", "since", "reached(since)"), "says [2-9] times"),
        (Edit("channels.resume:missed_changes", "nowhere", "reached()"), "says 0 times"),
        (Edit("channels.resume:missed_changes", "since is None", "True"), "it was reached"),
    ],
)
def test_an_edit_that_does_not_fit_is_refused(edit: Edit, why: str) -> None:
    """The product has changed since: that is told, and nothing is run with half a bug."""
    with pytest.raises(EditError, match=why):
        apply(edit)
