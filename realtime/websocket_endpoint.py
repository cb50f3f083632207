"""The WebSocket endpoint: admits connections and gives each its session."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog
from starlette.responses import PlainTextResponse
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from realtime.centrifuge_codec import CentrifugeJsonCodec, Disconnect
from realtime.connections import Card
from realtime.heartbeat import Heartbeat
from realtime.node import Node, node_of
from realtime.websocket_commands import Conversation
from realtime.websocket_protocol import EXTENSION, SharedFrameProtocol
from realtime.websocket_session import Session, Traffic

PATHS: Final = ("/connection/websocket", "/ws")
"""The path that official SDKs customarily use, and a short one."""

SUBPROTOCOL: Final = "centrifuge-json"
TRANSPORT: Final = "websocket"
_RETRY_AFTER_S: Final = 5
_PROTOCOL_ERRORS: Final = frozenset({1002, 1007, 1009, 3501, 3502})
"""Close codes of peers that didn't keep to the protocol."""
_CLOSED_BY_CLIENT: Final = 3000


@dataclass(frozen=True, slots=True)
class _Shared:
    """What all WebSocket connections of a node have in common."""

    node: Node
    codec: CentrifugeJsonCodec
    traffic: Traffic
    heartbeat: Heartbeat


def _shared_of(websocket: WebSocket, node: Node) -> _Shared:
    """Return the node's shared parts, made for its first connection."""
    state = websocket.app.state
    shared: _Shared | None = getattr(state, "websockets", None)
    if shared is None or shared.node is not node:
        shared = state.websockets = _share(node)
    return shared


def _share(node: Node) -> _Shared:
    traffic = Traffic()

    def count_traffic() -> None:
        node.metrics.bytes_sent(TRANSPORT, traffic.sent_bytes)
        traffic.sent_bytes = 0

    heartbeat = Heartbeat(
        ping_interval_s=node.settings.ping_interval_s,
        pong_timeout_s=node.settings.pong_timeout_s,
        ticked=count_traffic,
    )
    return _Shared(node, CentrifugeJsonCodec(), traffic, heartbeat)


async def websocket_endpoint(websocket: WebSocket) -> None:
    """Serve one connection until it is gone: the Centrifuge client protocol in JSON.

    Raises:
        RuntimeError: the server is not the one that `zonecast serve` runs.
    """
    node = node_of(websocket)
    wire = _wire_of(websocket)
    shared = _shared_of(websocket, node)
    session = Session(
        wire,
        codec=shared.codec,
        feed=node.feed,
        traffic=shared.traffic,
        subscriptions_changed=node.metrics.subscriptions_changed,
    )
    card = Card(session.client_id, TRANSPORT, _address_of(websocket))
    if not node.connections.admit(session, card):
        await _send_away(websocket)
        return
    try:
        await _serve_admitted(websocket, wire, session, node, shared.heartbeat)
    finally:
        node.connections.remove(session)


def _address_of(websocket: WebSocket) -> str:
    address = websocket.client
    return f"{address.host}:{address.port}" if address else ""


def _wire_of(websocket: WebSocket) -> SharedFrameProtocol:
    extension = websocket.scope.get("extensions", {}).get(EXTENSION)
    if extension is None:
        raise RuntimeError(
            "WebSockets are served by Zonecast's own uvicorn protocol only: "
            "start the server with `zonecast serve` or realtime.websocket_server.server_config"
        )
    wire: SharedFrameProtocol = extension["protocol"]
    return wire


async def _send_away(websocket: WebSocket) -> None:
    """Answer the handshake of one too many: SDKs try again, perhaps on another node."""
    await websocket.send_denial_response(
        PlainTextResponse(
            "this node takes no more connections\n",
            status_code=503,
            headers={"retry-after": str(_RETRY_AFTER_S)},
        )
    )


async def _serve_admitted(
    websocket: WebSocket,
    wire: SharedFrameProtocol,
    session: Session,
    node: Node,
    heartbeat: Heartbeat,
) -> None:
    wire.attach(
        session,
        slow_buffer_max_bytes=node.settings.slow_buffer_max_bytes,
        close_timeout_s=node.settings.pong_timeout_s,
    )
    offered = SUBPROTOCOL in websocket.scope["subprotocols"]
    try:
        await websocket.accept(SUBPROTOCOL if offered else None)
    except WebSocketDisconnect:
        return
    loop = asyncio.get_running_loop()
    opened_s = loop.time()
    log = structlog.get_logger().bind(client=session.client_id, transport=TRANSPORT)
    log.info("connected", peer=_address_of(websocket) or None)
    node.metrics.connection_opened(TRANSPORT)
    heartbeat.join(session)
    conversation = Conversation(
        session,
        feed=node.feed,
        settings=node.settings,
        node_id=node.node_id,
        problem_told=node.metrics.protocol_error,
        started=partial(node.metrics.subscription_started, TRANSPORT),
        log=log,
    )
    try:
        await conversation.run(wire.receive, lambda: wire.disconnected)
    finally:
        heartbeat.leave(session)
        code = _known_code(session.close_code)
        duration_s = loop.time() - opened_s
        node.metrics.connection_closed(TRANSPORT, code, duration_s)
        if code in _PROTOCOL_ERRORS:
            node.metrics.protocol_error(code)
        log.info("disconnected", code=code, duration_s=round(duration_s, 3))


def _known_code(code: int | None) -> int:
    """Return a code of the standard's or ours: peers may choose among thousands for metrics."""
    if code is None:
        return 1006
    ours = {why.code for why in Disconnect}
    return int(code) if 1000 <= code <= 1015 or code in ours else _CLOSED_BY_CLIENT


routes: Final = tuple(WebSocketRoute(path, websocket_endpoint) for path in PATHS)
