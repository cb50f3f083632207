"""The Centrifuge client protocol in JSON: commands in, replies and pushes out. Pure.

A WebSocket message holds one or more JSON objects, one a line. `docs/protocol.md` is the
description for clients; here is its only implementation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, TypeVar

import msgspec

from channels.changes import Change
from channels.positions import InvalidPositionError, Position, parse_minima
from channels.subscribers import EndReason, Start
from realtime.websocket.frames import PING, frame_header, text_frame

MAX_COMMAND_ID: Final = 2**53 - 1
REJECT_UNRECOVERED: Final = 2
"""Bit of a subscribe command's `flag`: error 112 instead of a snapshot."""

METHODS: Final = frozenset(
    {
        "connect",
        "subscribe",
        "unsubscribe",
        "publish",
        "presence",
        "presence_stats",
        "history",
        "ping",
        "send",
        "rpc",
        "refresh",
        "sub_refresh",
    }
)

FOREIGN: Final = Position("", 0)
"""The position of a client whose own can't be read: no channel is ever in this epoch."""


class Disconnect(Enum):
    """Why the server closes a connection: close code and reason. SDKs come back below 3500."""

    SHUTDOWN = (3001, "shutdown")
    SERVER_ERROR = (3004, "internal server error")
    EXPIRED = (3005, "connection expired")
    SLOW = (3008, "slow")
    FORCED_TO_RECONNECT = (3011, "force reconnect")
    NO_PONG = (3012, "no pong")
    INVALID_TOKEN = (3500, "invalid token")
    BAD_REQUEST = (3501, "bad request")
    STALE = (3502, "stale")
    FORCED = (3503, "force disconnect")
    TOO_MANY_ERRORS = (3509, "too many errors")

    @property
    def code(self) -> int:
        """The WebSocket close code."""
        return self.value[0]

    @property
    def reason(self) -> str:
        """The WebSocket close reason."""
        return self.value[1]


class Problem(Enum):
    """Why a command fails: error code, message, and whether asking again may help."""

    INTERNAL = (100, "internal server error", True)
    UNAUTHORIZED = (101, "unauthorized", False)
    UNKNOWN_CHANNEL = (102, "unknown channel", False)
    PERMISSION_DENIED = (103, "permission denied", False)
    METHOD_NOT_FOUND = (104, "method not found", False)
    ALREADY_SUBSCRIBED = (105, "already subscribed", False)
    LIMIT_EXCEEDED = (106, "limit exceeded", False)
    BAD_REQUEST = (107, "bad request", False)
    NOT_AVAILABLE = (108, "not available", False)
    TOKEN_EXPIRED = (109, "token expired", False)
    TOO_MANY_REQUESTS = (111, "too many requests", True)
    UNRECOVERABLE = (112, "unrecoverable position", False)


class BadRequestError(Exception):
    """A message after which the connection is of no use (disconnect 3501); `why` is for logs."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


@dataclass(frozen=True, slots=True)
class Command:
    """One command: `method` is empty when it is none that the protocol knows."""

    id: int
    method: str
    params: msgspec.Raw


class ChannelRequest(msgspec.Struct, frozen=True):
    """The parameters of commands that need no more than a channel."""

    channel: str


class TokenRequest(msgspec.Struct, frozen=True):
    """The parameters of `connect` and `refresh` that are looked at."""

    token: str = ""


class ChannelTokenRequest(msgspec.Struct, frozen=True):
    """The parameters of `sub_refresh`."""

    channel: str
    token: str = ""


class SubscribeRequest(msgspec.Struct, frozen=True):
    """The parameters of `subscribe` that are looked at; an odd position is a foreign one."""

    channel: str
    recover: bool = False
    epoch: Any = None
    offset: Any = None
    flag: int = 0
    data: Any = None
    token: Any = None

    def __post_init__(self) -> None:
        _read_minimum(self.channel, self.data)

    @property
    def minimum(self) -> Position | None:
        """Below which position the client is to be told nothing: `min` in its data."""
        return _read_minimum(self.channel, self.data)

    @property
    def position(self) -> Position | None:
        """Where the client wants to go on from, `None` for a new subscription."""
        return read_position(self.epoch, self.offset) if self.recover else None


class Since(msgspec.Struct, frozen=True):
    """A stream position in a history command."""

    offset: Any = None
    epoch: Any = None


class HistoryRequest(msgspec.Struct, frozen=True):
    """The parameters of `history`: by default only the position is asked for."""

    channel: str
    limit: int = 0
    since: Since | None = None
    reverse: bool = False


class RpcRequest(msgspec.Struct, frozen=True):
    """The parameters of `rpc`; which `data` there must be depends on the method."""

    method: str = ""
    data: msgspec.Raw = msgspec.Raw(b"null")


Params = TypeVar("Params")
_commands: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _read_minimum(channel: str, data: object) -> Position | None:
    """Read `min` from a client's data; without it, that may be anything.

    Raises:
        InvalidPositionError: it is there, and no position.
    """
    text = data.get("min") if isinstance(data, dict) else None
    if text is None:
        return None
    if not isinstance(text, str):
        raise InvalidPositionError(str(text))
    return parse_minima(text, [channel]).get(channel)


def read_position(epoch: object, offset: object) -> Position:
    """Read a client's position; what is none is `FOREIGN`, so that its owner gets the state."""
    rev = 0 if offset is None else offset
    if not isinstance(epoch, str) or not isinstance(rev, int | str) or isinstance(rev, bool):
        return FOREIGN
    try:
        return Position.parse(f"{epoch}:{rev}")
    except InvalidPositionError:
        return FOREIGN


def decode_commands(message: str, max_commands: int) -> list[Command]:
    """Read all commands of a WebSocket message; pongs (`{}`) are left out.

    Raises:
        BadRequestError: it is not made of JSON objects, holds more than `max_commands`, or a
            command has no usable id or several methods. Nothing of it is to be executed.
    """
    try:
        objects = _commands.decode_lines(message)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        raise BadRequestError("not JSON objects") from None
    if len(objects) > max_commands:
        raise BadRequestError("too many commands in a message")
    return [_command(fields) for fields in objects if fields]


def _command(fields: dict[str, msgspec.Raw]) -> Command:
    methods = [name for name in fields if name in METHODS]
    if len(methods) > 1:
        raise BadRequestError("a command with several methods")
    method = methods[0] if methods else ""
    command_id = 0
    if "id" in fields:
        try:
            command_id = msgspec.json.decode(fields["id"], type=int)
        except msgspec.DecodeError:
            raise BadRequestError("an id that is no integer") from None
    if method != "send" and not 0 < command_id <= MAX_COMMAND_ID:
        raise BadRequestError("a command without a usable id")
    return Command(command_id, method, fields.get(method, msgspec.Raw(b"{}")))


def decode_params(command: Command, kind: type[Params]) -> Params:
    """Read the parameters of a command. Unknown fields are ignored.

    Raises:
        msgspec.DecodeError: a field is missing or of another type.
        RecursionError: they are nested too deep.
    """
    return msgspec.json.decode(command.params, type=kind)


# Replies and pushes: each is one line, as bytes or as parts of bytes to be joined.


def encode_reply(command: Command, result: dict[str, Any]) -> bytes:
    """Encode the successful reply to a command."""
    return msgspec.json.encode({"id": command.id, command.method: result})


def encode_problem(command_id: int, problem: Problem) -> bytes:
    """Encode the reply to a command that failed."""
    code, message, temporary = problem.value
    error: dict[str, Any] = {"code": code, "message": message}
    if temporary:
        error["temporary"] = True
    return msgspec.json.encode({"id": command_id, "error": error})


def encode_publication(change: Change) -> bytes:
    """Encode a change as a publication, its events as they are."""
    return b'{"data":{"tx":%b,"events":%b},"offset":%d,"time":%d}' % (
        msgspec.json.encode(change.tx),
        change.events_json,
        change.rev,
        change.time_ms,
    )


def encode_subscribed(command_id: int, start: Start, ttl_s: int | None = None) -> list[bytes]:
    """Encode the reply to `subscribe` in parts; the snapshot among them is not copied.

    Args:
        command_id: Of the command.
        start: How the subscription begins.
        ttl_s: How long it lasts without `sub_refresh`; `None`: as long as the connection.
    """
    head = b'{"id":%d,"subscribe":{"recoverable":true,"positioned":true,"epoch":%b,"offset":%d' % (
        command_id,
        msgspec.json.encode(start.position.epoch),
        start.position.rev,
    )
    if ttl_s is not None:
        head += b',"expires":true,"ttl":%d' % ttl_s
    if start.was_recovering:
        head += b',"was_recovering":true'
    if start.changes is None:
        return [head + b',"data":', start.replica.snapshot(), b"}}"]
    head += b',"recovered":true'
    if not start.changes:
        return [head + b"}}"]
    publications = b",".join(encode_publication(change) for change in start.changes)
    return [head + b',"publications":[', publications, b"]}}"]


def encode_history(command_id: int, head: Position, changes: Iterable[Change]) -> list[bytes]:
    """Encode the reply to `history` in parts; without changes it is only the position."""
    reply = b'{"id":%d,"history":{"epoch":%b,"offset":%d' % (
        command_id,
        msgspec.json.encode(head.epoch),
        head.rev,
    )
    publications = b",".join(encode_publication(change) for change in changes)
    if not publications:
        return [reply + b"}}"]
    return [reply + b',"publications":[', publications, b"]}}"]


_END_REASONS: Final = {
    EndReason.GONE: "gone",
    EndReason.REVOKED: "permission revoked",
    EndReason.RESUME: "resume",
    EndReason.EXPIRED: "subscription expired",
    EndReason.ANEW: "state invalidated",
}


def encode_end(channel: str, reason: EndReason) -> bytes:
    """Encode the push that ends one subscription."""
    body = {"code": int(reason), "reason": _END_REASONS[reason]}
    return msgspec.json.encode({"push": {"channel": channel, "unsubscribe": body}})


def encode_staleness(since_ms: int | None) -> bytes:
    """Encode the push that tells since when the picture is not verified; `None`: it is live."""
    data = {"state": "live" if since_ms is None else "stale", "since": since_ms}
    return msgspec.json.encode({"push": {"message": {"data": data}}})


PING_FRAMES: Final = frame_header(0, PING) + text_frame(b"{}")
"""The protocol's ping, for SDKs, and WebSocket's own, which every client library answers."""


class CentrifugeJsonCodec:
    """Changes as pushes: one line a change, one text frame for all, shared by connections."""

    def encode(self, changes: Sequence[Change]) -> bytes:
        """Encode whole transactions, in order, as one serialised WebSocket frame."""
        return text_frame(
            b"\n".join(
                b'{"push":{"channel":"%b","pub":%b}}'
                % (change.channel.encode("ascii"), encode_publication(change))
                for change in changes
            )
        )
