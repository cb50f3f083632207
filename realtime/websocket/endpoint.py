"""The WebSocket endpoint: decides at the handshake, opens sessions and notes their end."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any, Final

import structlog
from starlette.applications import Starlette

from realtime.auth import errors as auth_errors
from realtime.auth.credentials import Credentials, Source
from realtime.auth.errors import Reason
from realtime.auth.gate import Gate
from realtime.connections import Card, level_of_end
from realtime.heartbeat import Heartbeat
from realtime.limits import Refusal
from realtime.node import Node
from realtime.proxies import Proxies
from realtime.websocket.centrifuge_codec import Disconnect
from realtime.websocket.commands import Commands
from realtime.websocket.conversation import Conversations
from realtime.websocket.guest import GuardedProtobufSession, GuardedSession, Hall
from realtime.websocket.handshake import (
    TOKEN_SUBPROTOCOL,
    Handshake,
    RefusedError,
    check_handshake,
)
from realtime.websocket.handshake import (
    refusal as answer_of,
)
from realtime.websocket.protocol import WireBounds
from realtime.websocket.reception import Reception
from realtime.websocket.session import House, Outbox, ProtobufSession, Session

PATHS: Final = frozenset({"/connection/websocket", "/ws"})
"""The path that official SDKs customarily use, and a short one."""

TRANSPORT: Final = "websocket"
_LOG_NAME: Final = "zonecast.websocket"
_standard_log: Final = logging.getLogger(_LOG_NAME)
"""What structlog's lines go through: to ask it what is wanted costs less than to make a line."""
_RETRY_AFTER_S: Final = 5
_PROTOCOL_ERRORS: Final = frozenset({1002, 1007, 1009, 3501, 3502, 3509})
"""Close codes of peers that didn't keep to the protocol."""
_CLOSED_BY_CLIENT: Final = 3000
_OURS: Final = frozenset(why.code for why in Disconnect)


class WebSockets:
    """Serves the handshakes of an application whose lifespan has made a node.

    Args:
        app: The application.
    """

    def __init__(self, app: Starlette) -> None:
        self._app = app
        self._lobby: _Lobby | None = None

    def upgrade(
        self, handshake: Handshake, transport: asyncio.Transport, connections: set[Any]
    ) -> None:
        """Answer a handshake; if it is accepted, the transport is a session's from now on.

        Args:
            handshake: What is asked for.
            transport: The connection, of which nothing else is to be read by the caller.
            connections: Those of the server, which waits for them when it stops.
        """
        try:
            self._lobby_now().enter(handshake, transport, connections)
        except RefusedError as refused:
            transport.write(answer_of(refused))
            transport.close()

    def _lobby_now(self) -> _Lobby:
        node: Node | None = getattr(self._app.state, "node", None)
        if node is None:
            raise RefusedError(503, "this node has not started")
        if self._lobby is None or self._lobby.node is not node:
            self._lobby = _Lobby(node)
        return self._lobby


class _Lobby:
    """Where the connections of one node begin and end."""

    def __init__(self, node: Node) -> None:
        settings = node.settings
        self.node = node
        self._connect_timeout_s = settings.connect_timeout_s
        self._proxies = Proxies(settings.trusted_proxies)
        self._log = structlog.stdlib.get_logger(_LOG_NAME).bind(transport=TRANSPORT)
        self._outbox = Outbox()
        self._heartbeat = Heartbeat(
            ping_interval_s=settings.ping_interval_s,
            pong_timeout_s=settings.pong_timeout_s,
            ticked=self._count_traffic,
        )
        commands = Commands(
            feed=node.feed,
            settings=settings,
            node_id=node.node_id,
            limits=node.limits,
            attendance=node.attendance,
            reception=self._reception(node),
            connected=self._connected,
            problem_told=node.metrics.protocol_error,
            started=partial(node.metrics.subscription_started, TRANSPORT),
            log=self._log,
        )
        conversations = Conversations(
            commands,
            feed=node.feed,
            settings=settings,
            limits=node.limits,
            tasks=node.tasks,
            log=self._log,
        )
        self._house = House(
            feed=node.feed,
            bounds=WireBounds(
                max_message_bytes=settings.max_message_bytes,
                slow_buffer_max_bytes=settings.slow_buffer_max_bytes,
                close_timeout_s=settings.pong_timeout_s,
            ),
            outbox=self._outbox,
            subscriptions_changed=node.metrics.subscriptions_changed,
            listener=conversations,
            gone=self._leave,
        )
        self._connections: set[Any] = set()

    def _reception(self, node: Node) -> Reception | None:
        if node.gate.is_open:
            return None
        grace_s = node.settings.token_grace_s
        hall = Hall(node.gate, node.feed, self._heartbeat, grace_s)
        return Reception(hall, self._may_be)

    def _may_be(self, session: Session, subject: str) -> bool:
        refusal = self.node.connections.identify(session, subject)
        if refusal is not None:
            self.node.limits.refused(refusal)
        return refusal is None

    def _count_traffic(self) -> None:
        self.node.metrics.bytes_sent(TRANSPORT, self._outbox.sent_bytes)
        self._outbox.sent_bytes = 0

    def enter(
        self, handshake: Handshake, transport: asyncio.Transport, connections: set[Any]
    ) -> None:
        """Let a client in: whatever may refuse it before it is one, does so here.

        Raises:
            RefusedError: it is to be answered with that.
        """
        if handshake.path not in PATHS:
            raise RefusedError(404, "there is no WebSocket here")
        acceptance = check_handshake(handshake)
        gate = self.node.gate
        if not gate.origins.allows(handshake.scope):
            self.node.metrics.entry_refused(Reason.ORIGIN)
            raise RefusedError(403, "pages of this origin may not connect")
        opened_s = asyncio.get_running_loop().time()
        session: Session
        if gate.is_open:
            kind = ProtobufSession if acceptance.is_protobuf else Session
            session = kind(transport, self._house, opened_s)
        else:
            guarded = GuardedProtobufSession if acceptance.is_protobuf else GuardedSession
            session = guarded(transport, self._house, opened_s, _shown(gate, handshake))
        peer = self._proxies.client_of(handshake.peer or "", handshake.headers)
        card = Card(session.client_id, TRANSPORT, peer)
        refusal = self.node.connections.admit(session, card)
        if refusal is not None:
            # SDKs try again, perhaps on another node.
            retry = {"Retry-After": str(_RETRY_AFTER_S)}
            self.node.limits.refused(refusal)
            if refusal is Refusal.ADDRESS:
                raise RefusedError(429, "this address has all the connections it may", retry)
            raise RefusedError(503, "this node takes no more connections", retry)
        self._connections = connections
        connections.add(session)
        transport.set_protocol(session)
        transport.write(acceptance.answer())
        if _standard_log.isEnabledFor(logging.DEBUG):
            self._log.debug("connected", client=session.client_id, peer=peer or None)
        self.node.metrics.connection_opened(TRANSPORT)
        self._heartbeat.join(session)
        self._heartbeat.expect(session, opened_s + self._connect_timeout_s)

    def _connected(self, session: Session) -> None:
        self._heartbeat.forget(session, session.opened_s + self._connect_timeout_s)

    def _leave(self, session: Session) -> None:
        self._connections.discard(session)
        self.node.connections.remove(session)
        self._heartbeat.leave(session)
        if not session.is_connected:
            self._connected(session)
        code = _known_code(session.close_code)
        duration_s = asyncio.get_running_loop().time() - session.opened_s
        self.node.metrics.connection_closed(TRANSPORT, code, duration_s)
        if code in _PROTOCOL_ERRORS:
            self.node.metrics.protocol_error(code)
        self._log.log(
            level_of_end(code),
            "disconnected",
            client=session.client_id,
            code=code,
            duration_s=round(duration_s, 3),
        )


def _shown(gate: Gate, handshake: Handshake) -> Credentials | auth_errors.RefusedError:
    """Find what a handshake carries; it is judged when `connect` brings nothing better.

    A page may only be told why it isn't let in once it is connected.
    """
    try:
        found = gate.credentials(handshake.scope, tickets=True)
    except auth_errors.RefusedError as error:
        return error
    if found.source is not Source.HEADER:
        for name in handshake.offered_subprotocols:
            if name.startswith(TOKEN_SUBPROTOCOL):
                token = name.removeprefix(TOKEN_SUBPROTOCOL).decode("latin-1")
                return Credentials(Source.SUBPROTOCOL, token)
    return found


def _known_code(code: int | None) -> int:
    """Return a code of the standard's or ours: peers may choose among thousands for metrics."""
    if code is None:
        return 1006
    return code if 1000 <= code <= 1015 or code in _OURS else _CLOSED_BY_CLIENT
