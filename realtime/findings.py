"""Findings: what came of the parts of a check."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """What came of one part of the check."""

    OK = "ok"
    WARNING = "warning"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """One part of the check: what was looked at, how it is, and in words."""

    part: str
    verdict: Verdict
    words: str
