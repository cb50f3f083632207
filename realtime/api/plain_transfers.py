"""Transfers of one user as clients mostly send them, answered before a route is looked for."""

from __future__ import annotations

import asyncio
import re
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from channels.names import is_zone_id
from realtime.api import transfers
from realtime.api.problems import TRANSLATIONS, Kind, ProblemError, known_problem
from realtime.api.routes import GIVEN_UP, slow_body
from realtime.node import Node, node_of

# Fifteen digits are below 2^53; what is longer, or written otherwise, the route looks at.
_PATH: Final = re.compile(r"/users/([1-9][0-9]{0,14})/transfer")
_TEMPLATE: Final = "/users/{user_id}/transfer"
_KNOWN: Final = tuple(TRANSLATIONS)


class _Destination(msgspec.Struct, forbid_unknown_fields=True):
    """A valid body; the route documents it and says what is wrong with another."""

    zone_id: str | None


_decoder: Final = msgspec.json.Decoder(_Destination)


class PlainTransfers:
    """Answers `POST /users/{user_id}/transfer` when the request is plainly valid.

    It is the write that is asked most, and finding its route and reading its body would cost as
    much as the write. Whatever is not valid, or sent in an unusual way, goes to the route.

    Args:
        app: Serves what is not answered here.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._route = _route_of(_TEMPLATE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of the server."""
        user_id = _user_of(scope) if scope["type"] == "http" else None
        if user_id is None:
            await self._app(scope, receive, send)
            return
        node = node_of(Request(scope))
        if not node.gate.is_open:
            # Which zones a token grants is for the route to look at.
            await self._app(scope, receive, send)
            return
        begun: list[Message] = []
        response = await self._answer(node, scope, receive, user_id, begun)
        if response is None:
            await self._app(scope, _again(begun, receive), send)
            return
        scope["route"] = self._route
        await response(scope, receive, send)

    async def _answer(
        self, node: Node, scope: Scope, receive: Receive, user_id: int, begun: list[Message]
    ) -> Response | None:
        timeout_s = node.settings.request_timeout_s
        try:
            async with asyncio.timeout(timeout_s) as bound:
                message = await receive()
                begun.append(message)
                destination = _destination_of(message)
                if destination is None:
                    return None
                bound.reschedule(asyncio.get_running_loop().time() + timeout_s)
                return await transfers.transfer(node, user_id, destination.zone_id)
        except TimeoutError:
            if not bound.expired():
                raise
            raise ProblemError(Kind.TIMEOUT, GIVEN_UP) if begun else slow_body(timeout_s) from None
        except _KNOWN as error:
            return known_problem(error, scope["path"])


def _route_of(template: str) -> BaseRoute:
    for route in transfers.router.routes:
        if isinstance(route, Route) and route.path == template:
            return route
    raise LookupError(template)


def _user_of(scope: Scope) -> int | None:
    """Return whom a request moves; `None` when it is another one, or sent in an unusual way."""
    if scope["method"] != "POST" or scope["query_string"] or scope.get("root_path"):
        return None
    found = _PATH.fullmatch(scope["path"])
    if found is None:
        return None
    content_type = b""
    for name, value in scope["headers"]:
        if name == b"content-type":
            if content_type:
                return None
            content_type = value
        elif name == b"content-encoding":
            return None
    return int(found[1]) if content_type == b"application/json" else None


def _destination_of(message: Message) -> _Destination | None:
    """Read the body; `None` when it is not all there, or not valid."""
    if message["type"] != "http.request" or message.get("more_body", False):
        return None
    try:
        destination = _decoder.decode(message.get("body", b""))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    zone_id = destination.zone_id
    return destination if zone_id is None or is_zone_id(zone_id) else None


def _again(begun: list[Message], receive: Receive) -> Receive:
    """Receive what was received already, and then what follows."""

    async def receive_again() -> Message:
        return begun.pop(0) if begun else await receive()

    return receive_again
