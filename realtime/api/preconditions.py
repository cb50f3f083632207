"""Preconditions: entity tags and the headers that compare them (RFC 9110, section 13)."""

from __future__ import annotations

import re
from typing import Final

from starlette.requests import Request

from realtime.api.problems import Kind, ProblemError

MAX_TAGS: Final = 100

IF_MATCH: Final = {
    "parameters": [
        {
            "name": "If-Match",
            "in": "header",
            "description": 'Write only at this version: `"7"`, a list, or `*`; else 412.',
            "schema": {"type": "string"},
        }
    ]
}
"""The header as OpenAPI has it; it is read from the request, as a list may take several lines."""

_VERSION: Final = re.compile("[1-9][0-9]{0,15}")
_TAG: Final = re.compile(r'[ \t]*(W/)?"([\x21\x23-\x7e\x80-\xff]*)"[ \t]*')


def quote_tag(value: object) -> str:
    """Write a strong entity tag."""
    return f'"{value}"'


def _parse_tags(header: str, text: str) -> list[tuple[bool, str]]:
    tags: list[tuple[bool, str]] = []
    for item in text.split(",", MAX_TAGS):
        if not item.strip():
            continue
        match = _TAG.fullmatch(item)
        if match is None:
            detail = f'{header} must be * or a list of entity tags such as "7"'
            raise ProblemError(Kind.INVALID_HEADER, detail, {"header": header})
        tags.append((match[1] is not None, match[2]))
    return tags


def _header(request: Request, name: str) -> str | None:
    values = request.headers.getlist(name)
    return ", ".join(values).strip() if values else None


def versions_to_match(request: Request) -> frozenset[int] | None:
    """Return the versions that `If-Match` allows; `None`: any, as it is `*` or not there.

    Only strong tags count, as the RFC has it. A tag that is no version matches nothing.

    Raises:
        ProblemError: the header is not what it has to be.
    """
    text = _header(request, "If-Match")
    if text is None or text == "*":
        return None
    tags = _parse_tags("If-Match", text)
    return frozenset(int(tag) for weak, tag in tags if not weak and _VERSION.fullmatch(tag))


def is_known(request: Request, value: object) -> bool:
    """Tell whether `If-None-Match` has the tag, so that 304 says it all.

    Raises:
        ProblemError: the header is not what it has to be.
    """
    text = _header(request, "If-None-Match")
    if text is None:
        return False
    return text == "*" or any(tag == str(value) for _, tag in _parse_tags("If-None-Match", text))
