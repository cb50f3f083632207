"""The encodings of the client protocol from a client's side, for tests that run in each of them.

The Protobuf one is Google's implementation with the schema that the official Python SDK brings:
nothing of it is ours.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pytest
from centrifuge.protocol import client_pb2  # type: ignore[import-untyped]  # it ships no types
from google.protobuf.internal.decoder import _DecodeVarint32  # type: ignore[import-untyped]
from google.protobuf.internal.encoder import _VarintBytes  # type: ignore[import-untyped]
from websockets.frames import Opcode

Json = dict[str, Any]

UNKNOWN_FIELD: Final = b"\x9a\x06\x00"
"""Field 99, empty: what a protocol to come may have."""
_ALWAYS_THERE: Final[dict[str, Json]] = {
    "Publication": {"offset": 0, "time": 0},
    "SubscribeResult": {"offset": 0},
    "HistoryResult": {"offset": 0},
    "ClientInfo": {"user": ""},
    "PresenceResult": {"presence": {}},
}
"""What JSON says although it is nothing."""


@dataclass(frozen=True)
class Encoding:
    """How a client writes commands as one message, and reads one.

    Attributes:
        name: For the names of tests.
        opcode: Of its WebSocket messages.
        subprotocol: What it offers at the handshake; `None`: nothing.
        ping: The node's ping.
        pong: A client's answer.
    """

    name: str
    opcode: Opcode
    subprotocol: str | None
    ping: str | bytes
    pong: str | bytes
    write: Callable[[Sequence[Json]], str | bytes]
    read: Callable[[str | bytes], list[Json]]

    @property
    def offer(self) -> str:
        """The line of the handshake that offers it."""
        return f"Sec-WebSocket-Protocol: {self.subprotocol}\r\n" if self.subprotocol else ""


def _write_lines(commands: Sequence[Json]) -> str:
    return "\n".join(json.dumps(command) for command in commands)


def _read_lines(message: str | bytes) -> list[Json]:
    assert isinstance(message, str)
    return [json.loads(line) for line in message.split("\n")]


def fill(message: Any, values: Mapping[str, Any]) -> Any:
    """Set the fields of a Protobuf message; what is none of them becomes an unknown field."""
    for name, value in values.items():
        field = message.DESCRIPTOR.fields_by_name.get(name)
        if field is None:
            message.MergeFromString(UNKNOWN_FIELD)
        elif field.message_type is not None:
            getattr(message, name).SetInParent()
            fill(getattr(message, name), value)
        elif value is not None:
            is_bytes = field.type == field.TYPE_BYTES
            try:
                setattr(message, name, json.dumps(value).encode() if is_bytes else value)
            except (TypeError, ValueError):
                pytest.skip(f"Protobuf has no way to say {name} {value!r}")
    return message


def values_of(message: Any) -> Json:
    """Return a Protobuf message as the JSON encoding would have it."""
    found: Json = {**_ALWAYS_THERE.get(message.DESCRIPTOR.name, {})}
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            found[field.name] = {key: values_of(entry) for key, entry in value.items()}
        elif field.message_type is not None and field.is_repeated:
            found[field.name] = [values_of(entry) for entry in value]
        elif field.message_type is not None:
            found[field.name] = values_of(value)
        else:
            found[field.name] = json.loads(value) if field.type == field.TYPE_BYTES else value
    return found


def write_delimited(messages: Sequence[Any]) -> bytes:
    """Write Protobuf messages behind their lengths."""
    written = [message.SerializeToString() for message in messages]
    return b"".join(_VarintBytes(len(message)) + message for message in written)


def read_replies(message: bytes) -> list[Any]:
    """Read a message of the node's to its end."""
    replies, at = [], 0
    while at < len(message):
        length, at = _DecodeVarint32(message, at)
        assert at + length <= len(message)
        replies.append(client_pb2.Reply.FromString(message[at : at + length]))
        at += length
    return replies


def _write_commands(commands: Sequence[Json]) -> bytes:
    return write_delimited([fill(client_pb2.Command(), command) for command in commands])


def _read_replies(message: str | bytes) -> list[Json]:
    assert isinstance(message, bytes)
    return [values_of(reply) for reply in read_replies(message)]


JSON_LINES: Final = Encoding("json", Opcode.TEXT, None, "{}", "{}", _write_lines, _read_lines)
PROTOBUF: Final = Encoding(
    "protobuf",
    Opcode.BINARY,
    "centrifuge-protobuf",
    b"\0",
    b"\0",
    _write_commands,
    _read_replies,
)
ENCODINGS: Final = (JSON_LINES, PROTOBUF)


class Spoken:
    """What clients of the present test speak, unless they are told otherwise."""

    now = JSON_LINES


def offered() -> list[str] | None:
    """Return the subprotocols that clients of the present test offer."""
    return [Spoken.now.subprotocol] if Spoken.now.subprotocol else None


def spoken_by(subprotocol: str | None) -> Encoding:
    """Return the encoding of a connection by the subprotocol that was agreed upon."""
    return PROTOBUF if subprotocol == PROTOBUF.subprotocol else JSON_LINES
