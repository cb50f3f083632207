"""The boundary of the HTTP API: what holds for every request before a route is known."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from realtime.api.problems import Kind, ProblemError, problem_response, status_response
from realtime.limits import Refusal
from realtime.node import Node, node_of
from realtime.request_quota import Standing, asker_of

UNCOUNTED: Final = frozenset({"/healthz", "/readyz"})
"""Paths that no quota holds: load balancers ask them."""

UNMATCHED = "unmatched"
"""The route in figures of requests that no route took: paths are of the client's making."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that is ready to be sent.

    Attributes:
        status: The HTTP status.
        headers: As ASGI has them.
        body: The bytes.
    """

    status: int
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes


AtOnce = Callable[[Node, Scope], Answer | None]
"""Answers a request without awaiting; `None`: it has to go its usual way."""


class Boundary:
    """Counts requests, bounds bodies, and turns what nobody caught into a plain 500.

    Pure ASGI: streams, WebSockets and the lifespan pass through untouched.

    Args:
        app: Serves what is not answered here.
        at_once: By method and path: what may have an answer ready, which then needs no route.
    """

    def __init__(
        self, app: ASGIApp, at_once: Mapping[tuple[str, str], AtOnce] | None = None
    ) -> None:
        self._app = app
        self._at_once = at_once or {}
        self._log = structlog.stdlib.get_logger("zonecast.http")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of the server."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        node = node_of(Request(scope))
        if node.quota is None or scope["path"] in UNCOUNTED:
            await self._serve(node, scope, receive, send)
            return
        standing = await node.quota.take(asker_of(node.gate, scope))
        send = _telling(node.quota.headers(standing), send)
        if standing.is_allowed:
            await self._serve(node, scope, receive, send)
        else:
            node.limits.refused(Refusal.REQUESTS)
            exchange = _Exchange(scope, receive, send)
            await _too_many(standing)(scope, receive, exchange.send)

    async def _serve(self, node: Node, scope: Scope, receive: Receive, send: Send) -> None:
        if await self._answer_at_once(node, scope, send):
            return
        exchange = _Exchange(scope, receive, send)
        try:
            exchange.check_declared()
            await self._app(scope, exchange.receive, exchange.send)
        except ProblemError as error:
            if exchange.started:
                raise
            response = problem_response(error.kind, error.detail, error.fields)
            await response(scope, receive, exchange.send)
        except asyncio.CancelledError:
            if not node.connections.closing:
                raise
            # The server cancels what outlasts its bound, and would log it as a fault of ours.
            self._log.warning("request dropped", method=scope["method"], path=scope["path"])
            if not exchange.started:
                detail = "the node stopped; whether a write was done is not known"
                await problem_response(Kind.TIMEOUT, detail)(scope, receive, exchange.send)
        except Exception:
            self._log.exception("request failed", method=scope["method"], path=scope["path"])
            if exchange.started:
                # Only the server can make a truncated answer look like one: it drops the line.
                raise
            await status_response(500)(scope, receive, exchange.send)

    async def _answer_at_once(self, node: Node, scope: Scope, send: Send) -> bool:
        ready = self._at_once.get((scope["method"], scope["path"]))
        if ready is None:
            return False
        began_s = time.perf_counter()
        # A node that is about to go says so in each answer.
        answer = None if node.connections.stopping else ready(node, scope)
        if answer is None:
            return False
        head = {"type": "http.response.start", "status": answer.status, "headers": answer.headers}
        await send(head)
        await send({"type": "http.response.body", "body": answer.body})
        duration_s = time.perf_counter() - began_s
        node.metrics.request_answered(scope["path"], scope["method"], answer.status, duration_s)
        return True


def _telling(headers: Sequence[tuple[bytes, bytes]], send: Send) -> Send:
    async def tell(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *headers]}
        await send(message)

    return tell


def _too_many(standing: Standing) -> Response:
    return problem_response(
        Kind.TOO_MANY_REQUESTS,
        f"ask again in {standing.next_in_s} s",
        headers={"Retry-After": str(standing.next_in_s)},
    )


class _Exchange:
    """One request with its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        node = node_of(request)
        self._scope = scope
        self._receive = receive
        self._send = send
        self._metrics = node.metrics
        self._connections = node.connections
        self._began_s = time.perf_counter()
        self._received_bytes = 0
        self._max_bytes = node.settings.max_body_bytes
        self._declared = request.headers.get("content-length", "")
        self.started = False

    def check_declared(self) -> None:
        """Refuse a body over the limit before it is sent.

        Raises:
            ProblemError: it is.
        """
        declared = self._declared
        if declared.isascii() and declared.isdigit() and int(declared[:20]) > self._max_bytes:
            raise self._too_large()

    def _too_large(self) -> ProblemError:
        detail = f"a body may have {self._max_bytes} bytes"
        return ProblemError(Kind.BODY_TOO_LARGE, detail, {"max_body_bytes": self._max_bytes})

    async def receive(self) -> Message:
        """Pass the body on as far as it is within the limit."""
        message = await self._receive()
        if message["type"] == "http.request":
            self._received_bytes += len(message.get("body", b""))
            if self._received_bytes > self._max_bytes:
                raise self._too_large()
        return message

    async def send(self, message: Message) -> None:
        """Pass the answer on; its first part is what is counted, so that streams count, too."""
        if message["type"] == "http.response.start" and not self.started:
            self.started = True
            route = getattr(self._scope.get("route"), "path", UNMATCHED)
            self._metrics.request_answered(
                route,
                self._scope["method"],
                message["status"],
                time.perf_counter() - self._began_s,
            )
            if self._connections.stopping:
                # Or the client would go on asking a node that is about to go.
                others = [pair for pair in message["headers"] if pair[0].lower() != b"connection"]
                message = {**message, "headers": [*others, (b"connection", b"close")]}
        await self._send(message)
