"""Rows: what a measurement found, against what it was to find."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Measured = Literal["ratio", "value"]

LOAD_MAX_SHARE = 0.9
"""Of a core: a load client that used more was itself what was measured."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a row is to reach.

    Attributes:
        of: The ratio to the peer, or the value itself.
        bound: The number.
        at_least: Whether more is better.
    """

    of: Measured
    bound: float
    at_least: bool = True

    def __str__(self) -> str:
        return f"{self.of} {'>=' if self.at_least else '<='} {self.bound:g}"

    def is_met(self, value: float, ratio: float | None) -> bool | None:
        """Tell whether it is reached; `None` when there was nothing to compare with."""
        found = value if self.of == "value" else ratio
        if found is None:
            return None
        return found >= self.bound if self.at_least else found <= self.bound


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        id: Which of the measurements, `F1` and so on.
        what: What was done.
        unit: Of the values.
        values: Ours, one for each repetition.
        peer: Whom it is compared with; empty: nobody.
        peer_values: Theirs, one for each repetition; empty: not at hand.
        target: What is to be reached, if anything.
        note: What else is to be known.
        more: Other figures of the same runs.
        loads: The share of a core that the load client used, one for each repetition.
        peer_loads: The same beside the peer.
    """

    id: str
    what: str
    unit: str
    values: Sequence[float]
    peer: str = ""
    peer_values: Sequence[float] = ()
    target: Target | None = None
    note: str = ""
    more: dict[str, float] = field(default_factory=dict)
    loads: Sequence[float] = ()
    peer_loads: Sequence[float] = ()

    @property
    def load(self) -> float | None:
        """The share of a core that the load client used, of both sides' medians the larger."""
        found = [statistics.median(loads) for loads in (self.loads, self.peer_loads) if loads]
        return max(found, default=None)

    @property
    def is_load_bound(self) -> bool:
        """Whether it was the load client that was measured, of ours or of theirs."""
        return self.load is not None and self.load > LOAD_MAX_SHARE

    @property
    def value(self) -> float:
        """The median of ours."""
        return statistics.median(self.values)

    @property
    def peer_value(self) -> float | None:
        """The median of theirs."""
        return statistics.median(self.peer_values) if self.peer_values else None

    @property
    def ratio(self) -> float | None:
        """Ours to theirs."""
        return self.value / self.peer_value if self.peer_value else None

    @property
    def spread(self) -> float:
        """The difference of the largest and the smallest of ours, to the median."""
        return (max(self.values) - min(self.values)) / self.value if self.value else 0.0

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; `None`: none, or nothing to compare with."""
        return self.target.is_met(self.value, self.ratio) if self.target else None

    def document(self) -> dict[str, Any]:
        """Return it as `--json` writes it."""
        return {
            "id": self.id,
            "what": self.what,
            "value": self.value,
            "unit": self.unit,
            "peer": self.peer or None,
            "peer_value": self.peer_value,
            "ratio": self.ratio,
            "target": str(self.target) if self.target else None,
            "met": self.met,
            "runs": len(self.values),
            "spread": self.spread,
            "values": list(self.values),
            "peer_values": list(self.peer_values),
            "note": self.note or None,
            "load": self.load,
            "load_bound": self.is_load_bound,
            **({"more": self.more} if self.more else {}),
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how often to measure.

    Attributes:
        runs: Repetitions, ours and theirs in turn.
        seconds: Of each, after a warm-up.
        say: Tells the terminal what is going on.
    """

    runs: int
    seconds: float
    say: Callable[[str], None]


Measurement = Callable[[Plan], Coroutine[Any, Any, list[Row]]]


def figure(value: float | None) -> str:
    """Write a number with three digits that count."""
    if value is None:
        return "-"
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def table(documents: Sequence[Mapping[str, Any]]) -> str:
    """Write rows, as `Row.document` returns them, as a Markdown table."""
    lines = [
        "| id | what | ours | unit | peer | theirs | ratio | spread | load | target | met |",
        "| --- | --- | --: | --- | --- | --: | --: | --: | --: | --- | --- |",
    ]
    answers = {True: "yes", False: "no", None: "-"}
    for row in documents:
        cells = [
            row["id"],
            row["what"],
            figure(row["value"]),
            row["unit"],
            row["peer"] or "-",
            figure(row["peer_value"]),
            "-" if row["ratio"] is None else f"{row['ratio']:.2f}",
            f"{row['spread']:.0%}",
            "-" if row["load"] is None else f"{row['load']:.0%}{'!' * row['load_bound']}",
            row["target"] or "-",
            answers[row["met"]],
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
