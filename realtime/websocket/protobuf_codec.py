"""The Centrifuge client protocol in Protobuf: commands in, replies and pushes out. Pure.

A WebSocket message is binary and holds one or more commands or replies, each behind its length.
What applications say to each other in it (`data`) is the JSON that it is in the other encoding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from channels.changes import Change
from channels.positions import Position
from channels.presence import Difference
from channels.subscribers import EndReason, Start
from realtime.websocket.centrifuge_codec import (
    END_REASONS,
    METHODS,
    BadRequestError,
    CentrifugeCodec,
    Command,
    Problem,
    present,
    problem_body,
    require_usable,
    staleness_data,
)
from realtime.websocket.frames import BINARY, PING, frame_header
from realtime.websocket.protobuf_fields import (
    BOOL,
    JSON_BYTES,
    STRING,
    UINT_32,
    UINT_64,
    Allowance,
    MalformedError,
    Shape,
    delimited,
    key_of,
    read_delimited,
    varint,
)
from realtime.websocket.protobuf_shapes import COMMAND, NOTHING, REPLY

_FIELDS_PER_COMMAND: Final = 16
"""So many fields a message may have for each command that it may have; SDKs send up to twelve."""

# Replies and pushes that hold bytes which are shared are written around them, by these keys.
_ID: Final = varint(key_of(1, UINT_32))
_PUSH: Final = varint(key_of(4, NOTHING))
_SUBSCRIBE: Final = varint(key_of(6, NOTHING))
_HISTORY: Final = varint(key_of(11, NOTHING))
_CHANNEL: Final = varint(key_of(2, STRING))
_PUB: Final = varint(key_of(4, NOTHING))
_PUB_DATA: Final = varint(key_of(4, JSON_BYTES))
_PUB_OFFSET: Final = varint(key_of(6, UINT_64))
_PUB_TIME: Final = varint(key_of(9, UINT_64))
_SUBSCRIBE_DATA: Final = varint(key_of(11, JSON_BYTES))
_SUBSCRIBE_PUBLICATION: Final = varint(key_of(7, NOTHING))
_HISTORY_PUBLICATION: Final = varint(key_of(1, NOTHING))

_SUBSCRIBED: Final = Shape(
    expires=(1, BOOL),
    ttl=(2, UINT_32),
    recoverable=(3, BOOL),
    epoch=(6, STRING),
    recovered=(8, BOOL),
    offset=(9, UINT_64),
    positioned=(10, BOOL),
    was_recovering=(12, BOOL),
)
_HISTORY_HEAD: Final = Shape(epoch=(2, STRING), offset=(3, UINT_64))


def _command(data: bytes, allowance: Allowance) -> Command:
    fields = COMMAND.read(data, allowance)
    command_id = fields.get("id", 0)
    method = require_usable(command_id, [name for name in fields if name in METHODS])
    # Read by what reads the parameters of commands in JSON: there is one way to be right or wrong.
    params = msgspec.json.encode(fields.get(method, {}))
    return Command(command_id, method, msgspec.Raw(params))


def _publication(change: Change) -> tuple[int, tuple[bytes, ...]]:
    """Encode a change as a publication: its size, and its parts, with its events as they are."""
    tx, events = msgspec.json.encode(change.tx), change.events_json
    data_bytes = len(b'{"tx":,"events":}') + len(tx) + len(events)
    begin = _PUB_DATA + varint(data_bytes) + b'{"tx":'
    end = b"}" + _PUB_OFFSET + varint(change.rev) + _PUB_TIME + varint(change.time_ms)
    parts = (begin, tx, b',"events":', events, end)
    return sum(map(len, parts)), parts


def _push(change: Change) -> bytes:
    # Without a helper for each level: this is what is done of a pass before it goes out.
    publication_bytes, publication = _publication(change)
    channel = change.channel.encode("ascii")
    head = _CHANNEL + varint(len(channel)) + channel + _PUB + varint(publication_bytes)
    push_bytes = len(head) + publication_bytes
    opening = _PUSH + varint(push_bytes)
    return b"".join((varint(len(opening) + push_bytes), opening, head, *publication))


def _publications(key: bytes, changes: Iterable[Change]) -> list[bytes]:
    parts: list[bytes] = []
    for change in changes:
        size_bytes, publication = _publication(change)
        parts += (key, varint(size_bytes), *publication)
    return parts


def _reply(command_id: int, key: bytes, result: Sequence[bytes]) -> list[bytes]:
    """Write a reply around the parts of its result, which are not copied."""
    head = _ID + varint(command_id) + key + varint(sum(map(len, result)))
    return [varint(len(head) + sum(map(len, result))) + head, *result]


class CentrifugeProtobufCodec(CentrifugeCodec):
    """Replies and pushes behind their lengths, in binary messages."""

    opcode = BINARY
    separator = b""
    pong = delimited(b"")
    ping_frames = frame_header(0, PING) + frame_header(len(pong), BINARY) + pong

    def decode_commands(self, message: bytes, max_commands: int) -> list[Command]:
        """Read all commands of a WebSocket message; pongs (of no length) are left out."""
        commands: list[Command] = []
        allowance = Allowance(_FIELDS_PER_COMMAND * max_commands)
        at = count = 0
        try:
            while at < len(message):
                data, at = read_delimited(message, at)
                count += 1
                if count > max_commands:
                    raise BadRequestError("too many commands in a message")
                if data:
                    commands.append(_command(data, allowance))
        except MalformedError:
            raise BadRequestError("not Protobuf commands") from None
        return commands

    def encode(self, changes: Sequence[Change]) -> bytes:
        """Encode whole transactions, in order, as one binary frame of as many replies."""
        pushes = [_push(change) for change in changes]
        return b"".join((frame_header(sum(map(len, pushes)), BINARY), *pushes))

    def encode_reply(self, command: Command, result: Mapping[str, Any]) -> bytes:
        """Encode the successful reply to a command."""
        return delimited(REPLY.write({"id": command.id, command.method: result}))

    def encode_problem(self, command_id: int, problem: Problem) -> bytes:
        """Encode the reply to a command that failed."""
        return delimited(REPLY.write({"id": command_id, "error": problem_body(problem)}))

    def encode_publications(self, changes: Iterable[Change]) -> bytes:
        """Encode changes as the repeated field of the reply to `subscribe`."""
        return b"".join(_publications(_SUBSCRIBE_PUBLICATION, changes))

    def encode_subscribed(
        self, command_id: int, start: Start, publications: bytes, ttl_s: int | None = None
    ) -> list[bytes]:
        """Encode the reply to `subscribe` in parts; the snapshot among them is not copied."""
        values = {
            "expires": ttl_s is not None,
            "ttl": ttl_s,
            "recoverable": True,
            "positioned": True,
            "epoch": start.position.epoch,
            "offset": start.position.rev,
            "was_recovering": start.was_recovering,
            "recovered": start.changes is not None,
        }
        result = [_SUBSCRIBED.write(values)]
        if start.changes is None:
            state = start.replica.snapshot()
            result += (_SUBSCRIBE_DATA, varint(len(state)), state)
        else:
            result.append(publications)
        return _reply(command_id, _SUBSCRIBE, result)

    def encode_history(
        self, command_id: int, head: Position, changes: Iterable[Change]
    ) -> list[bytes]:
        """Encode the reply to `history` in parts; without changes it is only the position."""
        result = [_HISTORY_HEAD.write({"epoch": head.epoch, "offset": head.rev})]
        result += _publications(_HISTORY_PUBLICATION, changes)
        return _reply(command_id, _HISTORY, result)

    def encode_end(self, channel: str, reason: EndReason) -> bytes:
        """Encode the push that ends one subscription."""
        body = {"code": int(reason), "reason": END_REASONS[reason]}
        return delimited(REPLY.write({"push": {"channel": channel, "unsubscribe": body}}))

    def encode_attendance(self, difference: Difference) -> list[bytes]:
        """Encode the pushes that tell who came to a channel and who left it, one for each."""
        return [
            delimited(
                REPLY.write(
                    {"push": {"channel": difference.channel, what: {"info": present(client, user)}}}
                )
            )
            for what, clients in (("join", difference.joined), ("leave", difference.left))
            for client, user in clients.items()
        ]

    def encode_staleness(self, since_ms: int | None) -> bytes:
        """Encode the push that tells since when the picture is not verified; `None`: live."""
        return delimited(REPLY.write({"push": {"message": {"data": staleness_data(since_ms)}}}))


PROTOBUF: Final = CentrifugeProtobufCodec()
"""The codec of all connections that speak Protobuf."""
