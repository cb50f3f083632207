"""Cross-origin requests: what pages of other origins may do over HTTP, by the one allow-list."""

from __future__ import annotations

from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from realtime.api.problems import Kind, problem_response
from realtime.auth.origins import SAFE_METHODS, Origins, origin_of
from realtime.node import node_of

METHODS: Final = "GET, HEAD, POST, PATCH, DELETE, OPTIONS"
REQUEST_HEADERS: Final = "Authorization, Content-Type, If-Match, If-None-Match, Last-Event-ID"
MAX_AGE_S: Final = 600
"""How long a browser need not ask again; after that a shorter list is heard of."""


class Cors:
    """Answers preflights, and lets allowed pages read answers. Pure ASGI; streams pass through.

    What a page of another origin asks to change is refused, though it could not read the answer.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of the server."""
        if scope["type"] != "http" or origin_of(scope) is None:
            await self._app(scope, receive, send)
            return
        origins = node_of(Request(scope)).gate.origins
        is_preflight = scope["method"] == "OPTIONS" and _has(
            scope, b"access-control-request-method"
        )
        if not origins.allows(scope) and (is_preflight or scope["method"] not in SAFE_METHODS):
            detail = "pages of this origin may not use the service (ZONECAST_ALLOWED_ORIGINS)"
            await problem_response(Kind.FORBIDDEN_ORIGIN, detail)(scope, receive, send)
        elif is_preflight:
            await _preflight(scope, origins)(scope, receive, send)
        else:
            await self._app(scope, receive, _telling(scope, origins, send))


def _has(scope: Scope, name: bytes) -> bool:
    return any(key == name for key, _ in scope["headers"])


def _preflight(scope: Scope, origins: Origins) -> Response:
    headers = {
        **origins.answer_headers(scope),
        "Access-Control-Allow-Methods": METHODS,
        "Access-Control-Allow-Headers": REQUEST_HEADERS,
        "Access-Control-Max-Age": str(MAX_AGE_S),
    }
    return Response(status_code=204, headers=headers)


def _telling(scope: Scope, origins: Origins, send: Send) -> Send:
    async def tell(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in origins.answer_headers(scope).items():
                if name == "Vary":
                    headers.add_vary_header(value)
                else:
                    headers[name] = value
        await send(message)

    return tell
