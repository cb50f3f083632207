"""Zone grants: patterns match whole ids, what is taken wins, and nobody's users are nobody's."""

from __future__ import annotations

import fnmatch
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels.zone_grants import ALL_ZONES, InvalidPatternError, ZoneGrant, ZonePatterns


def grant(*patterns: str, taken: tuple[str, ...] = ()) -> ZoneGrant:
    return ZoneGrant(ZonePatterns.parse(patterns), ZonePatterns.parse(taken))


@pytest.mark.parametrize(
    ("pattern", "zone_id", "expected"),
    [
        ("F1-Z1", "F1-Z1", True),
        ("F1-Z1", "F1-Z10", False),
        ("F1-Z1", "f1-z1", False),
        ("F1-*", "F1-", True),
        ("F1-*", "F1-Z1", True),
        ("F1-*", "xF1-Z1", False),
        ("*-Z1", "F1-Z1", True),
        ("*-Z1", "F1-Z1x", False),
        ("F*Z*1", "F1-Z1-1", True),
        ("a*a", "a", False),
        ("a*a", "aa", True),
        ("*ab*ab*", "abab", True),
        ("*ab*ab*", "aab", False),
        ("a.c", "abc", False),
        ("a_c", "abc", False),
        ("*", "anything", True),
        ("**", "anything", True),
    ],
)
def test_a_pattern_matches_whole_ids_and_only_the_star_is_wild(
    pattern: str,
    zone_id: str,
    expected: bool,  # noqa: FBT001 - of a table.
) -> None:
    """No other sign means anything but itself."""
    assert ZonePatterns.parse([pattern]).matches(zone_id) is expected


@given(
    st.text("ab*", min_size=1, max_size=8),
    st.text("ab", max_size=10),
)
def test_patterns_match_like_shell_patterns(pattern: str, zone_id: str) -> None:
    """The linear matcher agrees with the backtracking one."""
    expected = fnmatch.fnmatchcase(zone_id, pattern)
    assert ZonePatterns.parse([pattern]).matches(zone_id) is expected


def test_many_wildcards_cost_no_more_time() -> None:
    """A pattern made to make regular expressions try everything is harmless."""
    patterns = ZonePatterns.parse(["*a" * 32])
    began_s = time.process_time()
    for _ in range(1_000):
        assert not patterns.matches("a" * 31 + "b" * 33)
    assert time.process_time() - began_s < 1


@pytest.mark.parametrize("pattern", ["", "F1 Z1", "F1/Z1", "ä", "a" * 65, "F1-?", "[a]", "a\n"])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    """A misspelt grant is told and does not grant something else."""
    with pytest.raises(InvalidPatternError):
        ZonePatterns.parse([pattern])


def test_users_in_no_zone_need_everything() -> None:
    """They are in nobody's zone: only who has all zones has them."""
    assert ALL_ZONES.has(None)
    assert not grant("F1-*", "F2-*").has(None)
    assert not grant("*", taken=("F1-Z1",)).has(None)
    assert not grant().has(None)


def test_what_was_taken_is_gone_whatever_was_granted() -> None:
    """Revocations win over grants, by patterns, too."""
    left = grant("*").without(ZonePatterns.parse(["F1-*"]))
    assert not left.has_all
    assert not left.has("F1-Z1")
    assert left.has("F2-Z1")
    left = left.without(ZonePatterns.parse(["F2-Z1"]))
    assert not left.has("F1-Z1")
    assert not left.has("F2-Z1")
    assert left.has("F3-Z1")


def test_no_zones_granted_is_no_zone() -> None:
    """An empty list grants nothing."""
    assert not grant().has("A")
    assert not grant().has_all
