"""Origins: which web pages may talk to the service from a browser."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from starlette.types import Scope as AsgiScope

from realtime.auth.errors import Reason, RefusedError

ANY: Final = "*"
EXPOSED_HEADERS: Final = (
    "ETag, Location, RateLimit, RateLimit-Policy, Retry-After, WWW-Authenticate, Zonecast-Positions"
)
_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}
_ORIGIN: Final = re.compile(r"(https?)://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


class InvalidOriginError(ValueError):
    """A text that is no origin."""


def normalized(origin: str) -> str:
    """Return an origin as browsers write it: lower case, without its scheme's own port.

    Raises:
        InvalidOriginError: it is none, such as a URL with a path.
    """
    match = _ORIGIN.fullmatch(origin)
    if match is None:
        raise InvalidOriginError(f"not an origin such as https://app.example.org: {origin[:100]!r}")
    scheme, host, port = match[1].lower(), match[2].lower(), match[3]
    if port is None or port == _DEFAULT_PORTS[scheme]:
        return f"{scheme}://{host}"
    return f"{scheme}://{host}:{port}"


class Origins:
    """The allow-list. Without one only pages of the service's own origin may talk to it.

    A request without an Origin comes from no page of another origin that could read the answer.

    Args:
        allowed: Origins, or `*`: all of them, which then send no cookies.

    Raises:
        InvalidOriginError: one is none.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        origins = set(allowed)
        self._any = ANY in origins
        self._allowed = frozenset(normalized(origin) for origin in origins - {ANY})

    def allows(self, scope: AsgiScope) -> bool:
        """Tell whether the page that a request or handshake comes from may talk to us."""
        origin = origin_of(scope)
        return origin is None or self._any or self._is_ours(scope, origin)

    def allows_cookies(self, scope: AsgiScope) -> bool:
        """Tell whether that page may use the session of the browser."""
        origin = origin_of(scope)
        return origin is None or self._is_ours(scope, origin)

    def answer_headers(self, scope: AsgiScope) -> dict[str, str]:
        """Return what lets the page read the answer; of a foreign page nothing but `Vary`.

        Answers of transports that don't go through the middleware carry it, too.
        """
        origin = origin_of(scope)
        if origin is None or not self.allows(scope):
            return {"Vary": "Origin"}
        headers = {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Expose-Headers": EXPOSED_HEADERS,
            "Vary": "Origin",
        }
        if self.allows_cookies(scope):
            headers["Access-Control-Allow-Credentials"] = "true"
        return headers

    def check_cookie(self, scope: AsgiScope) -> None:
        """Refuse a cookie that a foreign page made the browser send.

        Browsers name the origin of everything that changes something, so there it must be.

        Raises:
            RefusedError: the page may not use the session, or it isn't known which one it is.
        """
        origin = origin_of(scope)
        if origin is None and scope.get("method", "GET") in SAFE_METHODS:
            return
        if origin is None or not self._is_ours(scope, origin):
            raise RefusedError(Reason.ORIGIN, "the session's cookie is not for pages elsewhere")

    def _is_ours(self, scope: AsgiScope, origin: str) -> bool:
        try:
            origin = normalized(origin)
        except InvalidOriginError:  # Also `null`, of pages that have none.
            return False
        return origin in self._allowed or origin in _origins_of_host(scope)


def origin_of(scope: AsgiScope) -> str | None:
    """Return the Origin header; several of them are none that could be allowed."""
    values = [value for name, value in scope["headers"] if name == b"origin"]
    return b",".join(values).decode("latin-1") if values else None


def _origins_of_host(scope: AsgiScope) -> tuple[str, ...]:
    """Return what our own origin may be; behind a balancer with TLS the scheme isn't known."""
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    if len(hosts) != 1:
        return ()
    host = hosts[0].decode("latin-1")
    try:
        return normalized(f"http://{host}"), normalized(f"https://{host}")
    except InvalidOriginError:
        return ()
