"""The promises that a history is judged by, and how a broken one is told."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Promise(Enum):
    """What is promised, as DESIGN's table has it; the last two are what the others rest on."""

    ORDERED = "Ordered"
    GAPLESS = "Gapless"
    UNIQUE = "Unique"
    ATOMIC = "Atomic"
    CONSISTENT = "Consistent snapshot"
    RESUMABLE = "Resumable"
    READ_YOUR_WRITES = "Read-your-writes"
    FRESH = "Bounded staleness"
    CONVERGENT = "Convergent"
    RECORDED = "Recorded"
    SERVED = "Served"


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was broken: when, for whom, on which channel, and how."""

    promise: Promise
    text: str
    at_s: float = 0.0
    client: str = ""
    channel: str = ""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The numbers in the promises.

    Attributes:
        staleness_s: How late a change may be, the margin for a busy machine included.
        resume_max_changes: How far behind a position is still recovered.
    """

    staleness_s: float = 4.0
    resume_max_changes: int = 300
