"""Requests with a span each: from the head of a request to the head of its answer."""

from __future__ import annotations

from itertools import chain
from typing import Final

from opentelemetry.trace import Span, StatusCode
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from realtime.api.routing import ROUTERS
from realtime.node import node_of
from realtime.sse import endpoint as sse_endpoint

UNTRACED: Final = frozenset({"/healthz", "/readyz", "/metrics"})
"""Paths that machines ask every few seconds, whatever happens."""
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
FIXED: Final = frozenset(
    route.path
    for route in (*chain.from_iterable(router.routes for router in ROUTERS), *sse_endpoint.routes)
    if isinstance(route, Route) and "{" not in route.path
)
"""Paths that are their own template: not all are answered by a route that says so."""


class RequestSpans:
    """Gives each HTTP request a span, part of the sender's trace when it says so.

    Pure ASGI; the outermost. A span has the route's template, and never the path, which may
    name a user, nor the query, which may hold a token. It ends with the head of the answer, as
    event streams and states of a whole building go on for long.

    Args:
        app: Serves.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of the server."""
        spans = node_of(Request(scope)).spans if scope["type"] == "http" else None
        if spans is None or scope["path"] in UNTRACED:
            await self._app(scope, receive, send)
            return
        method = scope["method"] if scope["method"] in METHODS else "_OTHER"
        with spans.request(method, _trace_of(scope)) as span:

            async def answer(message: Message) -> None:
                if message["type"] == "http.response.start" and span.is_recording():
                    _note_answer(span, method, scope, message["status"])
                    span.end()
                await send(message)

            await self._app(scope, receive, answer)


def _trace_of(scope: Scope) -> str:
    found = [value for name, value in scope["headers"] if name == b"traceparent"]
    # Two of them are as good as none, says W3C.
    return found[0].decode("latin-1") if len(found) == 1 else ""


def _note_answer(span: Span, method: str, scope: Scope, status: int) -> None:
    route = getattr(scope.get("route"), "path", None)
    if route is None and scope["path"] in FIXED:
        route = scope["path"]
    if route is not None:
        span.update_name(f"{method} {route}")
        span.set_attribute("http.route", route)
    span.set_attribute("http.response.status_code", status)
    if status >= 500:
        span.set_attribute("error.type", str(status))
        span.set_status(StatusCode.ERROR)
