"""`If-Match` and `If-None-Match` are read as RFC 9110 has them."""

from __future__ import annotations

import pytest
from starlette.requests import Request

from realtime.api.preconditions import is_known, quote_tag, versions_to_match
from realtime.api.problems import ProblemError


def request_with(*headers: tuple[str, str]) -> Request:
    """Make a request with headers."""
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    return Request({"type": "http", "method": "GET", "path": "/", "headers": raw})


@pytest.mark.parametrize(
    ("header", "versions"),
    [
        ('"7"', {7}),
        (' "7" ', {7}),
        ('"7", "8"', {7, 8}),
        ('"7",,"8",', {7, 8}),
        ('W/"7"', set()),
        ('W/"7", "8"', {8}),
        ('"abc"', set()),
        ('"07"', set()),
        ('"99999999999999999999"', set()),
        ('"\xb2"', set()),
        ("*", None),
    ],
)
def test_if_match_allows_versions_by_strong_comparison(
    header: str, versions: set[int] | None
) -> None:
    """Weak tags and tags that are no version match nothing; a star matches all."""
    found = versions_to_match(request_with(("If-Match", header)))
    assert found == (None if versions is None else frozenset(versions))


def test_without_if_match_any_version_will_do() -> None:
    """No header is no condition."""
    assert versions_to_match(request_with()) is None


def test_several_header_lines_are_one_list() -> None:
    """A list may come in several lines."""
    request = request_with(("If-Match", '"7"'), ("If-Match", '"9"'))
    assert versions_to_match(request) == frozenset({7, 9})


@pytest.mark.parametrize("header", ["7", '"7', "7, 8", '"7" "8"', "w/7", "*, *"])
def test_a_header_that_is_no_list_of_tags_is_refused(header: str) -> None:
    """To take it for no condition would lose an update."""
    with pytest.raises(ProblemError) as caught:
        versions_to_match(request_with(("If-Match", header)))
    assert caught.value.status_code == 400


@pytest.mark.parametrize(
    ("header", "known"),
    [
        ('"ab:7"', True),
        ('W/"ab:7"', True),
        ('"x", "ab:7"', True),
        ("*", True),
        ('"ab:8"', False),
        ('"AB:7"', False),
    ],
)
def test_if_none_match_compares_weakly(header: str, known: bool) -> None:  # noqa: FBT001 -- a table.
    """The client has it when the tag is the same, weak or strong."""
    assert is_known(request_with(("If-None-Match", header)), "ab:7") is known


def test_without_if_none_match_nothing_is_known() -> None:
    """No header, no 304."""
    assert not is_known(request_with(), "ab:7")


def test_tags_are_quoted() -> None:
    """A tag is written as a strong one."""
    assert quote_tag(7) == '"7"'
