"""Zone grants: which zones somebody may see or write, as patterns and what is taken from them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

WILDCARD: Final = "*"
PATTERN_MAX_CHARS: Final = 64
_PATTERN: Final = re.compile(r"[A-Za-z0-9._*-]{1,64}")


class InvalidPatternError(ValueError):
    """A text that is no zone pattern; `text` is cut to 100 characters."""

    def __init__(self, text: str) -> None:
        super().__init__(f"not a zone pattern: {text[:100]!r}")
        self.text = text[:100]


def _matches(parts: list[str], zone_id: str) -> bool:
    """Match a pattern, split at its wildcards, in time linear in the zone id.

    A regular expression would try all ways to part the id among many wildcards.
    """
    first, *middle, last = parts
    if len(zone_id) < len(first) + len(last):
        return False
    if not (zone_id.startswith(first) and zone_id.endswith(last)):
        return False
    begin, end = len(first), len(zone_id) - len(last)
    for part in middle:
        found = zone_id.find(part, begin, end)
        if found < 0:
            return False
        begin = found + len(part)
    return True


@dataclass(frozen=True, slots=True)
class ZonePatterns:
    """A set of zone patterns: zone ids in which `*` stands for any characters, also for none.

    Attributes:
        patterns: The patterns, ascending, each once.
    """

    patterns: tuple[str, ...]
    _exact: frozenset[str] = field(repr=False, compare=False)
    _parts: tuple[list[str], ...] = field(repr=False, compare=False)

    @classmethod
    def parse(cls, patterns: Iterable[str]) -> ZonePatterns:
        """Read patterns.

        Raises:
            InvalidPatternError: one has characters that no zone id has, or too many, or none.
        """
        found = sorted(set(patterns))
        for pattern in found:
            if _PATTERN.fullmatch(pattern) is None:
                raise InvalidPatternError(pattern)
        exact = frozenset(pattern for pattern in found if WILDCARD not in pattern)
        parts = tuple(pattern.split(WILDCARD) for pattern in found if WILDCARD in pattern)
        return cls(tuple(found), exact, parts)

    def __bool__(self) -> bool:
        return bool(self.patterns)

    @property
    def covers_all(self) -> bool:
        """Whether one of them is nothing but wildcards."""
        return any(not any(parts) for parts in self._parts)

    def matches(self, zone_id: str) -> bool:
        """Tell whether one of the patterns matches the whole of a zone id."""
        return zone_id in self._exact or any(_matches(parts, zone_id) for parts in self._parts)

    def union(self, other: ZonePatterns) -> ZonePatterns:
        """Return the patterns of both."""
        return ZonePatterns.parse((*self.patterns, *other.patterns))


NO_ZONES: Final = ZonePatterns.parse(())
EVERY_ZONE: Final = ZonePatterns.parse((WILDCARD,))


@dataclass(frozen=True, slots=True)
class ZoneGrant:
    """The zones that somebody has: what is granted, without what was taken away again.

    Attributes:
        granted: Patterns of the token.
        taken: Patterns of revocations; they win.
    """

    granted: ZonePatterns
    taken: ZonePatterns = NO_ZONES

    @property
    def has_all(self) -> bool:
        """Whether it is everything: all zones there will ever be, and the users in none."""
        return self.granted.covers_all and not self.taken

    def has(self, zone_id: str | None) -> bool:
        """Tell whether a zone is in it; `None`: the users in no zone, who belong to nobody's."""
        if zone_id is None:
            return self.has_all
        return self.granted.matches(zone_id) and not self.taken.matches(zone_id)

    def without(self, patterns: ZonePatterns) -> ZoneGrant:
        """Return the grant with more taken away."""
        return ZoneGrant(self.granted, self.taken.union(patterns))


ALL_ZONES: Final = ZoneGrant(EVERY_ZONE)
