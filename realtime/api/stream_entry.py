"""The entry of event streams, which the table of HTTP routes is not for."""

from __future__ import annotations

from typing import Final

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from realtime.api.problems import challenge
from realtime.auth.errors import Reason, RefusedError
from realtime.node import node_of

STREAMS: Final = frozenset({"/sse"})


class StreamEntry:
    """Lets nobody into streams where tokens are asked for: they can't show theirs yet."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of the server."""
        if (
            scope["type"] == "http"
            and scope["path"] in STREAMS
            and not node_of(HTTPConnection(scope)).gate.is_open
        ):
            error = RefusedError(Reason.NOT_HERE, "streams take no tokens yet")
            await challenge(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)
