"""Problems: every error of the HTTP API, as `application/problem+json` (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from typing import Any, Final

import msgspec
import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from channels.feed import UnknownChannelError
from channels.ports import UnavailableError
from db.errors import (
    ConflictError,
    DuplicateError,
    FullError,
    InvalidValueError,
    NotFoundError,
    OutcomeUnknownError,
    RowsLockedError,
    VersionMismatchError,
    ZoneOccupiedError,
)
from realtime.auth.errors import AuthError, ForbiddenError, Reason, RefusedError

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_S: Final = 1
MAX_LISTED_ERRORS: Final = 50
"""How many invalid places one answer lists; a bulk of 1,000 bad rows would repeat the body."""

Fields = Mapping[str, Any]


class Kind(Enum):
    """A kind of problem of this service: `(status, title)`. `type` is `/problems/<name>`."""

    UNPARSABLE = (400, "The body cannot be read as JSON")
    INVALID_HEADER = (400, "A header cannot be read")
    UNAUTHENTICATED = (401, "A valid token is needed")
    FORBIDDEN = (403, "The token does not grant this")
    FORBIDDEN_ORIGIN = (403, "The page may not use the service")
    NOT_FOUND = (404, "There is no such thing")
    SLOW_REQUEST = (408, "The body did not arrive in time")
    DUPLICATE = (409, "It exists already")
    ZONE_OCCUPIED = (409, "The zone has users")
    CONFLICT = (409, "Another writer was faster, repeatedly")
    POSITION_GONE = (410, "The changes after this position are not to be had")
    VERSION_MISMATCH = (412, "The version is not the expected one")
    BODY_TOO_LARGE = (413, "The body is too large")
    ANSWER_TOO_LARGE = (413, "The answer would be too large")
    WRONG_TYPE = (415, "The body must be JSON")
    INVALID = (422, "The request is not valid")
    TOO_MANY_CONNECTIONS = (429, "There are as many connections as may be")
    TOO_MANY_REQUESTS = (429, "There were too many requests")
    NOT_READY = (503, "The node should get no traffic")
    UNAVAILABLE = (503, "Something that this needs cannot be asked now")
    LOCKED = (503, "Another transaction holds what this would change")
    FULL = (503, "There may be no more of these")
    OVERLOADED = (503, "The node takes no more connections")
    TIMEOUT = (503, "The request took too long")

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.value[0]

    @property
    def title(self) -> str:
        """What kind of problem it is, the same each time."""
        return self.value[1]

    @property
    def slug(self) -> str:
        """The last part of the problem's type."""
        return self.name.lower().replace("_", "-")


class ProblemError(HTTPException):
    """A request that ends in a problem.

    An `HTTPException`, because only those pass FastAPI's reading of the body as they are.

    Attributes:
        kind: What kind of problem.
        fields: Further members of the answer.
    """

    def __init__(self, kind: Kind, detail: str, fields: Fields | None = None) -> None:
        super().__init__(kind.status, detail)
        self.kind = kind
        self.fields = {} if fields is None else fields


def problem_response(
    kind: Kind,
    detail: str,
    fields: Fields | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Answer with a problem of this service; members that are `None` are left out."""
    body: dict[str, Any] = {
        "type": f"/problems/{kind.slug}",
        "title": kind.title,
        "status": kind.status,
        "detail": detail,
    }
    body |= {name: value for name, value in (fields or {}).items() if value is not None}
    headers = dict(headers or {})
    if kind.status in {429, 503}:
        headers.setdefault("Retry-After", str(RETRY_AFTER_S))
    return _respond(kind.status, body, headers)


def status_response(
    status: int, detail: str | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """Answer with a problem that its status says all about (`about:blank`)."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
    }
    if detail and detail != body["title"]:
        body["detail"] = detail
    return _respond(status, body, headers)


def _respond(status: int, body: dict[str, Any], headers: Mapping[str, str] | None) -> Response:
    response = Response(msgspec.json.encode(body), status, headers, MEDIA_TYPE)
    # A problem is about one request at one moment, also where its status may be cached.
    response.headers["Cache-Control"] = "no-store"
    return response


@dataclass(frozen=True, slots=True)
class _Translation:
    kind: Kind
    fields: tuple[str, ...]
    hint: str = ""
    detail: str = ""


TRANSLATIONS: Final[Mapping[type[Exception], _Translation]] = {
    NotFoundError: _Translation(Kind.NOT_FOUND, ("kind", "key", "index")),
    UnknownChannelError: _Translation(Kind.NOT_FOUND, ("channel",)),
    FullError: _Translation(Kind.FULL, ("kind", "maximum")),
    DuplicateError: _Translation(Kind.DUPLICATE, ("kind", "key", "index")),
    ZoneOccupiedError: _Translation(
        Kind.ZONE_OCCUPIED,
        ("zone_id", "users"),
        "; move its users with ?move_to=ZONE or ?unassign=true",
    ),
    VersionMismatchError: _Translation(Kind.VERSION_MISMATCH, ("expected", "actual")),
    ConflictError: _Translation(Kind.CONFLICT, ("reason",)),
    InvalidValueError: _Translation(Kind.INVALID, ("field",)),
    RowsLockedError: _Translation(
        Kind.LOCKED, ("what",), detail="another transaction holds the rows; nothing was written"
    ),
    UnavailableError: _Translation(Kind.UNAVAILABLE, ("what",)),
    OutcomeUnknownError: _Translation(
        Kind.UNAVAILABLE, ("what",), "; whether the write was done is not known"
    ),
}
"""The one table by which errors of the rooms below become problems."""


def describe(error: Exception) -> tuple[Kind, str, Fields]:
    """Return the kind, the detail and the further members for an error of the table.

    Raises:
        KeyError: it is not in the table.
    """
    if isinstance(error, ProblemError):
        return error.kind, error.detail, error.fields
    found = TRANSLATIONS[type(error)]
    fields = {name: getattr(error, name) for name in found.fields}
    if isinstance(error, UnavailableError):
        # Its reason is for the log: it tells how the service is built.
        detail = found.detail or f"the {error.what} cannot be asked now{found.hint}"
        return found.kind, detail, fields
    if isinstance(error, InvalidValueError):
        fields["errors"] = [{"loc": ["body", error.field], "msg": error.reason}]
    return found.kind, f"{error}{found.hint}", fields


def known_problem(error: Exception, path: str) -> Response:
    """Answer with the problem that an error of the table is, and log an outage.

    Raises:
        KeyError: it is not in the table.
    """
    if isinstance(error, UnavailableError):
        log = structlog.stdlib.get_logger("zonecast.http")
        log.warning("unavailable", what=error.what, reason=error.reason, path=path)
    elif isinstance(error, FullError):
        log = structlog.stdlib.get_logger("zonecast.http")
        log.warning("full", kind=error.kind, maximum=error.maximum)
    return problem_response(*describe(error))


def challenge(error: AuthError) -> Response:
    """Answer who may not (RFC 6750, section 3): 401 without a valid token, 403 with one."""
    if isinstance(error, ForbiddenError):
        value = f'Bearer realm="zonecast", error="insufficient_scope", scope="{error.scope}"'
        fields = {"action": error.action, "scope": error.scope}
        return problem_response(Kind.FORBIDDEN, error.detail, fields, {"WWW-Authenticate": value})
    value = 'Bearer realm="zonecast"'
    fields = {}
    if isinstance(error, RefusedError):
        fields = {"reason": error.reason.value}
        if error.reason is not Reason.MISSING:
            value += f', error="invalid_token", error_description="{error.detail}"'
    return problem_response(Kind.UNAUTHENTICATED, str(error), fields, {"WWW-Authenticate": value})


async def _on_auth_error(_request: Request, error: Exception) -> Response:
    if not isinstance(error, AuthError):
        raise error
    return challenge(error)


def _validation_errors(error: RequestValidationError) -> Response:
    found: Sequence[Mapping[str, Any]] = error.errors()
    listed = [
        {"loc": list(place["loc"]), "msg": str(place["msg"]).removeprefix("Value error, ")}
        for place in found[:MAX_LISTED_ERRORS]
    ]
    fields: dict[str, Any] = {"errors": listed}
    # The row of a bulk request: ("body", "users", 3, "name").
    rows = [place["loc"][2] for place in found if _is_row(place["loc"])]
    if rows:
        fields["index"] = min(rows)
    count = len(found)
    detail = f"{listed[0]['msg']}, at {'.'.join(map(str, listed[0]['loc']))}"
    if count > 1:
        detail += f", and {count - 1} more"
    return problem_response(Kind.INVALID, detail, fields)


def _is_row(loc: Sequence[str | int]) -> bool:
    return len(loc) > 2 and loc[0] == "body" and isinstance(loc[2], int)


def add_problem_handlers(app: FastAPI, methods_of: Mapping[str, Sequence[str]]) -> None:
    """Make every error of `app` answer with a problem.

    Args:
        app: The application.
        methods_of: All methods of each path template; the router knows only those of the
            first route that it tried, and 405 has to name all of them.
    """

    async def on_known(request: Request, error: Exception) -> Response:
        return known_problem(error, request.url.path)

    async def on_invalid(_request: Request, error: Exception) -> Response:
        if not isinstance(error, RequestValidationError):
            raise error
        return _validation_errors(error)

    async def on_status(request: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            raise error
        headers = dict(error.headers or {})
        path = getattr(request.scope.get("route"), "path", None)
        if error.status_code == 405 and (methods := methods_of.get(str(path))):
            headers["Allow"] = ", ".join(methods)
        return status_response(error.status_code, error.detail, headers)

    app.add_exception_handler(ProblemError, on_known)
    app.add_exception_handler(AuthError, _on_auth_error)
    for known in TRANSLATIONS:
        app.add_exception_handler(known, on_known)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_status)
