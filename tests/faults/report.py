"""Reports of scenarios: what is shown while they run, and what helps to understand a violation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from tests.faults.history import ClientLog, Frame, History, Item, Published, Subscribed
from tests.faults.scenario import Outcome
from tests.faults.violations import Violation

AROUND_S = 3.0
LINES_MAX = 40
TEXT_MAX_CHARS = 160


class Tally:
    """What several scenarios came to.

    Args:
        seed: The seed of all of them.
        minutes: How long they were to run.
    """

    def __init__(self, seed: int, minutes: float) -> None:
        self.seed = seed
        self.minutes = minutes
        self.rounds = 0
        self.operations = 0
        self.clients = 0
        self.faults: Counter[str] = Counter()
        self.violations: list[dict[str, Any]] = []

    def add(self, outcome: Outcome) -> None:
        """Count an outcome."""
        self.rounds += 1
        self.operations += outcome.operations
        self.clients += outcome.clients
        self.faults.update(outcome.faults)
        began_s = outcome.history.began_s
        self.violations += [
            {
                "seed": outcome.plan.seed,
                "at_s": round(violation.at_s - began_s, 3),
                "promise": violation.promise.value,
                "client": violation.client,
                "channel": violation.channel,
                "text": violation.text,
            }
            for violation in outcome.violations
        ]

    def document(self) -> dict[str, Any]:
        """Return it as the JSON file has it."""
        return {
            "seed": self.seed,
            "minutes": self.minutes,
            "operations": self.operations,
            "clients": self.clients,
            "faults": dict(sorted(self.faults.items())),
            "violations": self.violations,
        }


def tell(outcome: Outcome) -> Iterator[str]:
    """Tell the violations of an outcome, and for the first what happened around it."""
    plan, began_s = outcome.plan, outcome.history.began_s
    yield f"seed {plan.seed}: {len(outcome.violations)} violations"
    for violation in outcome.violations[:LINES_MAX]:
        yield "  " + _line(violation, began_s)
    if outcome.violations:
        yield from tell_around(outcome.history, outcome.violations[0])


def _line(violation: Violation, began_s: float) -> str:
    where = " ".join(word for word in (violation.client, violation.channel) if word)
    return f"{violation.at_s - began_s:8.3f} {violation.promise.value}: {where}: {violation.text}"


def tell_around(history: History, violation: Violation) -> Iterator[str]:
    """Tell what was broken at that time, what the log has, and what the client received."""
    at_s, began_s = violation.at_s, history.began_s
    yield f"around {_line(violation, began_s)}"
    for fault in history.faults:
        if fault.from_s - AROUND_S < at_s < fault.to_s + 2 * AROUND_S:
            span = f"{fault.from_s - began_s:.3f} to {fault.to_s - began_s:.3f}"
            yield f"  broken from {span}: {fault.name}"
    revs, times = history.head_times.marks.get(violation.channel, ([], []))
    near = [(rev, time) for rev, time in zip(revs, times, strict=True) if abs(time - at_s) < 1]
    for rev, seen_s in near[:LINES_MAX]:
        yield f"  the database was at revision {rev} by {seen_s - began_s:.3f}"
    for client in history.clients:
        if client.name == violation.client:
            yield f"  {client.name} received, of {violation.channel}:"
            yield from _tell_client(client, violation, began_s)


def _tell_client(client: ClientLog, violation: Violation, began_s: float) -> Iterator[str]:
    before = [frame for frame in client.frames if frame.at_s <= violation.at_s]
    after = client.frames[len(before) :]
    lines = [line for frame in before for line in _lines(frame, violation.channel, began_s)]
    yield from lines[-LINES_MAX:]
    yield "    -- the violation --"
    lines = [
        line for frame in after[:LINES_MAX] for line in _lines(frame, violation.channel, began_s)
    ]
    yield from lines[: LINES_MAX // 4]


def _lines(frame: Frame, channel: str, began_s: float) -> Sequence[str]:
    items = [item for item in frame.items if getattr(item, "channel", channel) == channel]
    return [
        f"    {frame.at_s - began_s:8.3f} connection {frame.connection}: {_describe(item)}"
        for item in items
    ]


def _describe(item: Item) -> str:
    match item:
        case Published(_, rev, tx, events):
            text = f"revision {rev} of {tx}: {events.decode()}"
        case Subscribed(_, epoch, rev, since, state, missed) if state is None:
            count = "its" if missed is None else len(missed)
            text = f"recovered from {since} to {epoch}:{rev} with {count} changes"
        case Subscribed(_, epoch, rev, since, state):
            text = f"state at {epoch}:{rev}, asked from {since}, {len(state or b'')} bytes"
        case _:
            text = repr(item)
    return text[:TEXT_MAX_CHARS]
