"""Credentials: what a request carries to tell who sends it, found in one order of precedence."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from http.cookies import CookieError, SimpleCookie
from typing import Final
from urllib.parse import parse_qs

from starlette.types import Scope as AsgiScope

from realtime.auth.errors import Reason, RefusedError

TICKET_PARAMETER: Final = "ticket"
TOKEN_PARAMETER: Final = "access_token"  # noqa: S105 -- a parameter's name (RFC 6750).
MAX_QUERY_FIELDS: Final = 5_000


class Source(Enum):
    """Where credentials stood."""

    HEADER = "header"
    TICKET = "ticket"
    SUBPROTOCOL = "subprotocol"
    QUERY = "query"
    COOKIE = "cookie"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What is to be checked.

    Attributes:
        source: Where it stood.
        text: The token, or the ticket; empty when there is nothing.
    """

    source: Source
    text: str = field(default="", repr=False)


NOTHING: Final = Credentials(Source.NONE)


def read_credentials(
    scope: AsgiScope, *, cookie_name: str, query_tokens: bool, tickets: bool
) -> Credentials:
    """Find the credentials of a request or of a WebSocket's handshake.

    An Authorization header wins over a ticket or token in the URL, and those over the cookie,
    which browsers send whether meant or not.

    Args:
        scope: Of ASGI, `http` or `websocket`.
        cookie_name: The session's cookie.
        query_tokens: Whether a token is accepted in the URL.
        tickets: Whether a ticket is: they are for what can't send a header.

    Raises:
        RefusedError: they are in a form, or in a place, that is not accepted.
    """
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    authorization = _values(headers, b"authorization")
    if authorization:
        return Credentials(Source.HEADER, _bearer(authorization))
    query = _query(scope.get("query_string", b""))
    if ticket := query.get(TICKET_PARAMETER, ""):
        if not tickets:
            raise RefusedError(Reason.NOT_HERE, "tickets are for event streams and WebSockets")
        return Credentials(Source.TICKET, ticket)
    if token := query.get(TOKEN_PARAMETER, ""):
        if not query_tokens:
            detail = "a token in a URL is not accepted here; use a header, a cookie or a ticket"
            raise RefusedError(Reason.NOT_HERE, detail)
        return Credentials(Source.QUERY, token)
    if cookie := _cookie(_values(headers, b"cookie"), cookie_name):
        return Credentials(Source.COOKIE, cookie)
    return NOTHING


def _values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in headers if key == name]


def _bearer(values: list[str]) -> str:
    scheme, _, token = values[0].strip().partition(" ")
    if len(values) > 1 or scheme.lower() != "bearer" or not token.strip():
        raise RefusedError(Reason.MALFORMED, "send one header, as in Authorization: Bearer TOKEN")
    return token.strip()


def _query(raw: bytes) -> dict[str, str]:
    if b"ticket" not in raw and b"access_token" not in raw and b"%" not in raw:
        return {}
    try:
        fields = parse_qs(raw.decode("latin-1"), max_num_fields=MAX_QUERY_FIELDS)
    except ValueError:
        return {}
    for name in (TICKET_PARAMETER, TOKEN_PARAMETER):
        if len(fields.get(name, ())) > 1:
            raise RefusedError(Reason.MALFORMED, f"give {name} once")
    return {name: values[0] for name, values in fields.items()}


def _cookie(values: list[str], name: str) -> str:
    for value in values:
        if name not in value:
            continue
        jar: SimpleCookie = SimpleCookie()
        try:
            jar.load(value)
        except CookieError:
            continue
        if name in jar:
            return jar[name].value
    return ""
