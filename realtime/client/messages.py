"""The service's messages as a client reads them; what it doesn't know it ignores."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from channels.changes import Change
from channels.events import Event, User, Zone, decode_events
from channels.positions import Position


class SnapshotBody(msgspec.Struct, frozen=True):
    """A zone's state, as the subscribe reply and the snapshot event have it."""

    channel: str
    epoch: str
    rev: int
    zone: Zone | None
    users: list[User]
    digest: str


class TransactionBody(msgspec.Struct, frozen=True):
    """What a publication says; its events are decoded only when they are new."""

    tx: str
    events: msgspec.Raw


class Publication(msgspec.Struct, frozen=True):
    """One transaction's effect on one channel."""

    data: TransactionBody
    offset: int
    time: int = 0

    def change(self, channel: str, epoch: str) -> Change:
        """Return the change that it tells of."""
        position = Position(epoch, self.offset)
        raw = bytes(self.data.events)
        try:
            return Change.of_json(channel, position, self.data.tx, self.time, raw)
        except msgspec.ValidationError:
            events = tuple(_known_events(raw))
            return Change.of_events(channel, position, self.data.tx, self.time, events)


def _known_events(raw: bytes) -> list[Event]:
    """Decode the events whose types are known, as the protocol asks of its clients."""
    known: list[Event] = []
    for item in msgspec.json.decode(raw, type=list[msgspec.Raw]):
        try:
            known += decode_events(b"[" + bytes(item) + b"]")
        except msgspec.ValidationError:
            continue
    return known


class SubscribeReply(msgspec.Struct, frozen=True):
    """How a subscription begins: the missed changes, or the state."""

    epoch: str = ""
    offset: int = 0
    recovered: bool = False
    publications: tuple[Publication, ...] = ()
    data: SnapshotBody | None = None


class ErrorReply(msgspec.Struct, frozen=True):
    """Why a command failed."""

    code: int
    message: str = ""
    temporary: bool = False


class NodeBody(msgspec.Struct, frozen=True):
    """Who answers."""

    node: str = ""


class ConnectReply(msgspec.Struct, frozen=True):
    """How the connection is; `ttl` is how many seconds the token is still good."""

    ping: int = 25
    expires: bool = False
    ttl: int = 0
    data: NodeBody = NodeBody()


class RefreshReply(msgspec.Struct, frozen=True):
    """How long the new token is good."""

    expires: bool = False
    ttl: int = 0


class RpcReply(msgspec.Struct, frozen=True):
    """What a method answered."""

    data: Any = None


class UnsubscribePush(msgspec.Struct, frozen=True):
    """Why a subscription ended."""

    code: int
    reason: str = ""


class StatusBody(msgspec.Struct, frozen=True):
    """Whether the picture is verified."""

    state: str = ""
    since: int | None = None


class MessagePush(msgspec.Struct, frozen=True):
    """What the service tells the connection."""

    data: StatusBody


class Push(msgspec.Struct, frozen=True):
    """What comes unasked."""

    channel: str = ""
    pub: Publication | None = None
    unsubscribe: UnsubscribePush | None = None
    message: MessagePush | None = None


class ServerMessage(msgspec.Struct, frozen=True):
    """One line from the service; with nothing in it, a ping."""

    id: int = 0
    error: ErrorReply | None = None
    connect: ConnectReply | None = None
    subscribe: SubscribeReply | None = None
    refresh: RefreshReply | None = None
    rpc: RpcReply | None = None
    push: Push | None = None


PING: Final = ServerMessage()

_decoder: Final = msgspec.json.Decoder(ServerMessage)


def decode_messages(message: bytes) -> list[ServerMessage]:
    """Decode the lines of one message.

    Raises:
        msgspec.DecodeError: they are none of this protocol.
    """
    return _decoder.decode_lines(message)
