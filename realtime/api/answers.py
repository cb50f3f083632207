"""Answers: JSON bytes with their entity tag and the positions of a write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from channels import events
from channels.positions import Position, format_positions
from db.errors import NotFoundError
from db.models import User, Zone
from realtime.api.preconditions import is_known, quote_tag
from realtime.api.problems import Kind, ProblemError

POSITIONS_HEADER: Final = "Zonecast-Positions"
POSITIONS_PER_LINE: Final = 32
"""Positions in one header line, at most about 4 KB: clients and proxies refuse long lines."""

Value = TypeVar("Value")

_encoder = msgspec.json.Encoder()


def encode(document: Any) -> bytes:
    """Encode a document as JSON."""
    return _encoder.encode(document)


def require(found: Value | None, kind: str, key: int | str) -> Value:
    """Return what was found.

    Raises:
        NotFoundError: there was nothing.
    """
    if found is None:
        raise NotFoundError(kind, key)
    return found


def document_of_user(user: User) -> events.User:
    """Return a user as events have it."""
    return events.User(
        id=user.id,
        global_id=user.global_id,
        name=user.name,
        zone_id=user.zone_id,
        attributes=user.attributes,
        version=user.version,
    )


def document_of_zone(zone: Zone) -> events.Zone:
    """Return a zone as events have it."""
    return events.Zone(zone_id=zone.zone_id, name=zone.name, attributes=zone.attributes)


def raw_response(body: bytes) -> Response:
    """Answer with JSON that is encoded already."""
    return _respond(body, 200)


def json_response(document: Any, status: int = 200) -> Response:
    """Answer with a document that is not to be cached."""
    return _respond(encode(document), status)


def tagged_response(request: Request, body: bytes, tag: object) -> Response:
    """Answer with a body and its entity tag, or with 304 when the client has it."""
    known = is_known(request, tag)
    response = _respond(b"", 304) if known else _respond(body, 200)
    response.headers["ETag"] = quote_tag(tag)
    # Kept by the client, used only after it was asked for again.
    response.headers["Cache-Control"] = "no-cache"
    return response


def write_response(
    positions: Mapping[str, Position],
    document: Any = None,
    *,
    status: int = 200,
    version: int | None = None,
    location: str | None = None,
) -> Response:
    """Answer a write: with where the changed channels are now.

    Args:
        positions: The positions; written as several header lines when there are many.
        document: The body; `None` for a 204.
        status: The HTTP status.
        version: The entity tag, where there is one.
        location: Where what was made is found.
    """
    response = Response(status_code=204) if document is None else json_response(document, status)
    items = list(positions.items())
    for begin in range(0, len(items), POSITIONS_PER_LINE):
        line = format_positions(dict(items[begin : begin + POSITIONS_PER_LINE]))
        response.headers.append(POSITIONS_HEADER, line)
    if version is not None:
        response.headers["ETag"] = quote_tag(version)
    if location is not None:
        response.headers["Location"] = location
    return response


def bounded(body: bytes, max_bytes: int, instead: str) -> bytes:
    """Return `body` when it is not too large to be answered.

    Raises:
        ProblemError: it is; `instead` names the pages to ask for.
    """
    if len(body) > max_bytes:
        detail = f"{len(body)} bytes are over the limit of {max_bytes}; ask for pages of {instead}"
        raise ProblemError(Kind.ANSWER_TOO_LARGE, detail, {"pages": instead})
    return body


def _respond(body: bytes, status: int) -> Response:
    media_type = None if status == 304 else "application/json"
    response = Response(body, status, media_type=media_type)
    response.headers["Cache-Control"] = "no-store"
    return response
