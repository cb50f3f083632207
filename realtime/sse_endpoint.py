"""The SSE endpoint: `GET /sse?zone=A&zone=B` for a browser's bare `EventSource` and for curl."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection
from typing import Final
from uuid import uuid4

import structlog
from sse_starlette.sse import AppStatus, EventSourceResponse
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from channels.names import DIRECTORY, is_zone_id, zone_channel
from channels.positions import InvalidPositionError, Position, parse_minima, parse_vector
from realtime.api.problems import Kind, ProblemError
from realtime.connections import Card
from realtime.http_protocol import ABORT_EXTENSION
from realtime.node import Node, node_of
from realtime.sse_codec import SseCodec
from realtime.sse_stream import SLOW, TRANSPORT, SseStream

PATH: Final = "/sse"
EVERYTHING: Final = "*"
_ABORTED_WITHIN_S: Final = 1.0


class SseEndpoint:
    """Serves event streams."""

    def __init__(self) -> None:
        self._codec = SseCodec()
        # The node ends its streams itself, each after what is queued for it.
        AppStatus.enable_automatic_graceful_drain = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request until its client is gone.

        Raises (before anything is sent; the application answers with a problem):
            HTTPException: the request is not valid, or there is no room.
            UnknownChannelError: there is no such zone.
            UnavailableError: the database can't be asked.
        """
        request = Request(scope, receive)
        node = node_of(request)
        wanted = _read_wanted(request, node.settings.sse_max_zones)
        stream = SseStream(
            feed=node.feed,
            codec=self._codec,
            settings=node.settings,
            metrics=node.metrics,
            wanted=wanted,
            minima=_read_minima(request, wanted),
        )
        if not node.connections.admit(stream, Card(str(uuid4()), TRANSPORT, _address_of(request))):
            raise ProblemError(Kind.OVERLOADED, "this node takes no more connections")
        try:
            await _open(stream, node.settings.request_timeout_s)
            await _serve(stream, node, request, send)
        finally:
            stream.close()
            node.connections.remove(stream)


def _address_of(request: Request) -> str:
    address = request.client
    return f"{address.host}:{address.port}" if address else ""


def _read_wanted(request: Request, max_zones: int) -> dict[str, Position | None]:
    """Read which zones are asked for, and from where on.

    Raises:
        HTTPException: 422 for the zones, 400 for `since`.
    """
    zone_ids = dict.fromkeys(request.query_params.getlist("zone"))
    if EVERYTHING in zone_ids:
        return {DIRECTORY: None}
    if not zone_ids:
        raise _invalid("name zones, as in ?zone=A&zone=B, or all of them: ?zone=*")
    if len(zone_ids) > max_zones:
        raise _invalid(f"at most {max_zones} zones on one stream; ?zone=* takes all")
    for zone_id in zone_ids:
        if not is_zone_id(zone_id):
            raise _invalid(f"not a zone id: {zone_id[:100]!r}")
    since = _read_positions(request)
    return {zone_channel(zone_id): since.get(zone_id) for zone_id in zone_ids}


def _invalid(reason: str) -> ProblemError:
    listed = [{"loc": ["query", "zone"], "msg": reason}]
    return ProblemError(Kind.INVALID, reason, {"errors": listed})


def _read_positions(request: Request) -> dict[str, Position]:
    # A browser that comes back repeats the URL; its header is the newer one, and nobody
    # could correct it there.
    with contextlib.suppress(InvalidPositionError):
        last_event_id = request.headers.get("last-event-id", "")
        if last_event_id:
            return parse_vector(last_event_id)
    since = request.query_params.get("since", "")
    try:
        return parse_vector(since) if since else {}
    except InvalidPositionError as error:
        raise HTTPException(400, f"since: {error}") from error


def _read_minima(request: Request, channels: Collection[str]) -> dict[str, Position]:
    """Read below which positions the client is to be told nothing.

    Raises:
        HTTPException: 400, when that can't be read.
    """
    minima: dict[str, Position] = {}
    for text in request.query_params.getlist("min"):
        try:
            positions = parse_minima(text, channels)
        except InvalidPositionError as error:
            raise HTTPException(400, f"min: {error}") from error
        if "=" not in text and len(channels) > 1:
            raise HTTPException(400, "min: name the zone, as in ?min=A=epoch:rev")
        minima |= positions
    return minima


async def _open(stream: SseStream, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s) as bound:
            await stream.join()
    except TimeoutError:
        if not bound.expired():
            raise
        raise ProblemError(Kind.TIMEOUT, "the zones could not be read in time") from None


async def _serve(stream: SseStream, node: Node, request: Request, send: Send) -> None:
    loop = asyncio.get_running_loop()
    opened_s = loop.time()
    log = structlog.stdlib.get_logger("zonecast.sse").bind(transport=TRANSPORT)
    peer = _address_of(request) or None
    log.info("connected", peer=peer)
    node.metrics.connection_opened(TRANSPORT)
    # Its own ping is off: it would write into the middle of an event sent in chunks.
    response = EventSourceResponse(
        stream.chunks(), ping=0, send_timeout=node.settings.slow_drain_timeout_s
    )
    try:
        async with stream.bound:
            await response(request.scope, request.receive, send)
    except TimeoutError:
        if not stream.bound.expired():
            stream.close_code = SLOW
        await _abort(request)
    finally:
        duration_s = loop.time() - opened_s
        node.metrics.connection_closed(TRANSPORT, stream.close_code, duration_s)
        log.info("disconnected", peer=peer, code=stream.close_code, duration_s=round(duration_s, 3))


async def _abort(request: Request) -> None:
    """Drop the connection with what is buffered; a server without that closes it in time."""
    extension = request.scope.get("extensions", {}).get(ABORT_EXTENSION)
    if extension is None:
        return
    extension["abort"]()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_ABORTED_WITHIN_S):
            while (await request.receive())["type"] != "http.disconnect":
                pass


routes: Final = (Route(PATH, SseEndpoint(), methods=["GET"], name="sse"),)
