"""The Centrifuge client protocol: what is said in it, and what each of its encodings can do. Pure.

`docs/protocol.md` is the description for clients. The encodings are modules of their own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Final, TypeVar

import msgspec

from channels.changes import Change
from channels.positions import InvalidPositionError, Position, parse_minima
from channels.presence import Difference
from channels.subscribers import EndReason, Start

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
    """One command: `method` is empty when it is none that the protocol knows.

    Its parameters are JSON, whatever the encoding that it came in.
    """

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
    join_leave: bool = False

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


def decode_params(command: Command, kind: type[Params]) -> Params:
    """Read the parameters of a command. Unknown fields are ignored.

    Raises:
        msgspec.DecodeError: a field is missing or of another type.
        RecursionError: they are nested too deep.
    """
    return msgspec.json.decode(command.params, type=kind)


def require_usable(command_id: int, methods: Sequence[str]) -> str:
    """Return the method of a command, of those of the protocol's that it has.

    Raises:
        BadRequestError: it has several, or no usable id.
    """
    if len(methods) > 1:
        raise BadRequestError("a command with several methods")
    method = methods[0] if methods else ""
    if method != "send" and not 0 < command_id <= MAX_COMMAND_ID:
        raise BadRequestError("a command without a usable id")
    return method


def problem_body(problem: Problem) -> dict[str, Any]:
    """Say why a command failed."""
    code, message, temporary = problem.value
    error: dict[str, Any] = {"code": code, "message": message}
    if temporary:
        error["temporary"] = True
    return error


END_REASONS: Final = {
    EndReason.GONE: "gone",
    EndReason.REVOKED: "permission revoked",
    EndReason.RESUME: "resume",
    EndReason.EXPIRED: "subscription expired",
    EndReason.ANEW: "state invalidated",
}


def present(client: str, user: str) -> dict[str, str]:
    """Say who watches a channel."""
    return {"client": client, "user": user}


def staleness_data(since_ms: int | None) -> dict[str, Any]:
    """Say since when the picture is not verified; `None`: it is live."""
    return {"state": "live" if since_ms is None else "stale", "since": since_ms}


class CentrifugeCodec(ABC):
    """An encoding: messages become commands; replies and pushes, bytes or parts of bytes.

    There is one instance for all connections that speak it: the hub encodes a change once for it.

    Attributes:
        opcode: Of the WebSocket messages on either side.
        separator: What stands between replies and pushes that are joined into one message.
        pong: The message by which SDKs answer a ping.
        ping_frames: The protocol's ping, for SDKs, and WebSocket's own, which every client
            library answers.
    """

    opcode: ClassVar[int]
    separator: ClassVar[bytes]
    pong: ClassVar[bytes]
    ping_frames: ClassVar[bytes]

    @abstractmethod
    def decode_commands(self, message: bytes, max_commands: int) -> list[Command]:
        """Read all commands of a WebSocket message; pongs are left out.

        Raises:
            BadRequestError: it can't be read, holds more than `max_commands`, or a command has no
                usable id or several methods. Nothing of it is to be executed.
        """

    @abstractmethod
    def encode(self, changes: Sequence[Change]) -> bytes:
        """Encode whole transactions, in order, as one serialised WebSocket frame."""

    @abstractmethod
    def encode_reply(self, command: Command, result: Mapping[str, Any]) -> bytes:
        """Encode the successful reply to a command."""

    @abstractmethod
    def encode_problem(self, command_id: int, problem: Problem) -> bytes:
        """Encode the reply to a command that failed."""

    @abstractmethod
    def encode_publications(self, changes: Iterable[Change]) -> bytes:
        """Encode what the reply to `subscribe` holds of missed changes."""

    @abstractmethod
    def encode_subscribed(
        self, command_id: int, start: Start, publications: bytes, ttl_s: int | None = None
    ) -> list[bytes]:
        """Encode the reply to `subscribe` in parts; the snapshot among them is not copied.

        Args:
            command_id: Of the command.
            start: How the subscription begins.
            publications: Its changes, if any, as `encode_publications` makes them.
            ttl_s: How long it lasts without `sub_refresh`; `None`: as long as the connection.
        """

    @abstractmethod
    def encode_history(
        self, command_id: int, head: Position, changes: Iterable[Change]
    ) -> list[bytes]:
        """Encode the reply to `history` in parts; without changes it is only the position."""

    @abstractmethod
    def encode_end(self, channel: str, reason: EndReason) -> bytes:
        """Encode the push that ends one subscription."""

    @abstractmethod
    def encode_attendance(self, difference: Difference) -> list[bytes]:
        """Encode the pushes that tell who came to a channel and who left it, one for each."""

    @abstractmethod
    def encode_staleness(self, since_ms: int | None) -> bytes:
        """Encode the push that tells since when the picture is not verified; `None`: live."""
