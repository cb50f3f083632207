"""The SSE endpoint: `GET /sse?zone=A&zone=B` for a browser's bare `EventSource` and for curl."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final
from uuid import uuid4

from sse_starlette.sse import AppStatus, EventSourceResponse
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from realtime.api.admission import admit, begin_subscriptions
from realtime.api.problems import Kind, ProblemError
from realtime.connections import Card
from realtime.http_protocol import ABORT_EXTENSION, HANDOVER_EXTENSION, Handover
from realtime.node import Node, node_of
from realtime.sse.guest import GuardedStream, enter
from realtime.sse.mailbox import Mailbox
from realtime.sse.request import read_request
from realtime.sse.stream import SLOW, SseStream, Streams, streams_of
from realtime.sse.subscriptions import TRANSPORT
from realtime.sse.wire import StreamConnection

PATH: Final = "/sse"
_ABORTED_WITHIN_S: Final = 1.0


class SseEndpoint:
    """Serves event streams.

    Under our own server a request ends when its stream begins: the head goes out as any
    answer's, and the stream takes the connection over. Under another one, and for HEAD,
    sse-starlette's response serves it to the end.
    """

    def __init__(self) -> None:
        # The node ends its streams itself, each after what is queued for it.
        AppStatus.enable_automatic_graceful_drain = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, until its stream goes on without it or its client is gone.

        Raises (before anything is sent; the application answers with a problem):
            AuthError: who asks has no valid token, or may not watch this.
            HTTPException: the request is not valid, or there is no room.
            UnknownChannelError: there is no such zone.
            UnavailableError: the database can't be asked.
        """
        request = Request(scope, receive)
        node = node_of(request)
        # From here on to the stream nothing may be awaited: what is taken back meanwhile has to
        # reach it.
        principal = None if node.gate.is_open else await enter(request, node)
        asked = read_request(request, node.settings.sse_max_zones)
        begin_subscriptions(node, len(asked.wanted))
        mailbox = Mailbox(node.settings.slow_buffer_max_bytes)
        peer = _peer_of(request)
        shared = _shared_of(request, node)
        stream = (
            SseStream(shared, asked, mailbox, peer)
            if principal is None
            else GuardedStream(shared, asked, mailbox, peer, principal)
        )
        subject = "" if principal is None else principal.subject
        card = Card(str(uuid4()), TRANSPORT, peer, subject)
        is_taken_over = False
        try:
            admit(node, stream, card)
            await _join(stream, node.settings.request_timeout_s)
            handover = scope.get("extensions", {}).get(HANDOVER_EXTENSION)
            if handover is not None and scope["method"] == "GET":
                is_taken_over = await _take_over(
                    stream, mailbox, request, send, handover["handover"]
                )
            else:
                await _respond(stream, mailbox, request, send)
        finally:
            if not is_taken_over:
                stream.closed()


def _shared_of(request: Request, node: Node) -> Streams:
    """Return what the node's streams share, made for its first one."""
    state = request.app.state
    shared: Streams | None = getattr(state, "event_streams", None)
    if shared is None or shared.node is not node:
        shared = state.event_streams = streams_of(node)
    return shared


async def _join(stream: SseStream, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s) as bound:
            await stream.join()
    except TimeoutError:
        if not bound.expired():
            raise
        raise ProblemError(Kind.TIMEOUT, "the zones could not be read in time") from None


def _peer_of(request: Request) -> str:
    address = request.client
    return f"{address.host}:{address.port}" if address else ""


def _response(stream: SseStream, mailbox: Mailbox) -> EventSourceResponse:
    shared = stream.shared
    return EventSourceResponse(
        mailbox.chunks(shared.traffic, stream.drained),
        # It would write into the middle of an event sent in chunks.
        ping=0,
        send_timeout=shared.node.settings.slow_drain_timeout_s,
    )


async def _take_over(
    stream: SseStream, mailbox: Mailbox, request: Request, send: Send, handover: Handover
) -> bool:
    """Send the head, and let the stream have the connection; tell whether it has."""
    response = _response(stream, mailbox)
    # That the connection ends with the stream is for the server to say.
    headers = [pair for pair in response.raw_headers if pair[0] != b"connection"]
    handover.prepare()
    try:
        async with asyncio.timeout(response.send_timeout):
            await send(
                {
                    "type": "http.response.start",
                    "status": response.status_code,
                    "headers": headers,
                }
            )
    except TimeoutError:
        # What was answered before on this connection is not read.
        await _abort(request)
        return False
    settings = stream.shared.node.settings
    connection = StreamConnection(
        stream, traffic=stream.shared.traffic, limit_bytes=settings.slow_buffer_max_bytes
    )
    if not handover.complete(connection):
        return False
    stream.take_over(mailbox, connection)
    stream.open()
    return True


async def _respond(stream: SseStream, mailbox: Mailbox, request: Request, send: Send) -> None:
    """Let sse-starlette's response serve the stream, until its client is gone."""
    response = _response(stream, mailbox)
    stream.open()
    try:
        async with mailbox.bounded():
            await response(request.scope, request.receive, send)
    except TimeoutError:
        if not mailbox.is_aborted:
            stream.close_code = SLOW
        await _abort(request)


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
