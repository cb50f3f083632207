"""The Centrifuge client protocol in JSON: commands in, replies and pushes out. Pure.

A WebSocket message holds one or more JSON objects, one a line.
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
from realtime.websocket.frames import PING, TEXT, frame_header, text_frame

_commands: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _command(fields: dict[str, msgspec.Raw]) -> Command:
    command_id = 0
    if "id" in fields:
        try:
            command_id = msgspec.json.decode(fields["id"], type=int)
        except msgspec.DecodeError:
            raise BadRequestError("an id that is no integer") from None
    method = require_usable(command_id, [name for name in fields if name in METHODS])
    return Command(command_id, method, fields.get(method, msgspec.Raw(b"{}")))


def encode_publication(change: Change) -> bytes:
    """Encode a change as a publication, its events as they are."""
    return b'{"data":{"tx":%b,"events":%b},"offset":%d,"time":%d}' % (
        msgspec.json.encode(change.tx),
        change.events_json,
        change.rev,
        change.time_ms,
    )


class CentrifugeJsonCodec(CentrifugeCodec):
    """One line for each reply and push, in text messages."""

    opcode = TEXT
    separator = b"\n"
    pong = b"{}"
    ping_frames = frame_header(0, PING) + text_frame(pong)

    def decode_commands(self, message: bytes, max_commands: int) -> list[Command]:
        """Read all commands of a WebSocket message; pongs (`{}`) are left out."""
        try:
            objects = _commands.decode_lines(message)
        except (msgspec.DecodeError, RecursionError, UnicodeError):
            raise BadRequestError("not JSON objects") from None
        if len(objects) > max_commands:
            raise BadRequestError("too many commands in a message")
        return [_command(fields) for fields in objects if fields]

    def encode(self, changes: Sequence[Change]) -> bytes:
        """Encode whole transactions, in order, as the lines of one text frame."""
        return text_frame(
            b"\n".join(
                b'{"push":{"channel":"%b","pub":%b}}'
                % (change.channel.encode("ascii"), encode_publication(change))
                for change in changes
            )
        )

    def encode_reply(self, command: Command, result: Mapping[str, Any]) -> bytes:
        """Encode the successful reply to a command."""
        return msgspec.json.encode({"id": command.id, command.method: result})

    def encode_problem(self, command_id: int, problem: Problem) -> bytes:
        """Encode the reply to a command that failed."""
        return msgspec.json.encode({"id": command_id, "error": problem_body(problem)})

    def encode_subscribed(
        self, command_id: int, start: Start, publications: bytes, ttl_s: int | None = None
    ) -> list[bytes]:
        """Encode the reply to `subscribe` in parts; the snapshot among them is not copied."""
        head = (
            b'{"id":%d,"subscribe":{"recoverable":true,"positioned":true,"epoch":%b,"offset":%d'
            % (command_id, msgspec.json.encode(start.position.epoch), start.position.rev)
        )
        if ttl_s is not None:
            head += b',"expires":true,"ttl":%d' % ttl_s
        if start.was_recovering:
            head += b',"was_recovering":true'
        if start.changes is None:
            return [head + b',"data":', start.replica.snapshot(), b"}}"]
        head += b',"recovered":true'
        if not publications:
            return [head + b"}}"]
        return [head + b',"publications":[', publications, b"]}}"]

    def encode_publications(self, changes: Iterable[Change]) -> bytes:
        """Encode changes as the members of an array."""
        return b",".join(map(encode_publication, changes))

    def encode_history(
        self, command_id: int, head: Position, changes: Iterable[Change]
    ) -> list[bytes]:
        """Encode the reply to `history` in parts; without changes it is only the position."""
        reply = b'{"id":%d,"history":{"epoch":%b,"offset":%d' % (
            command_id,
            msgspec.json.encode(head.epoch),
            head.rev,
        )
        publications = self.encode_publications(changes)
        if not publications:
            return [reply + b"}}"]
        return [reply + b',"publications":[', publications, b"]}}"]

    def encode_end(self, channel: str, reason: EndReason) -> bytes:
        """Encode the push that ends one subscription."""
        body = {"code": int(reason), "reason": END_REASONS[reason]}
        return msgspec.json.encode({"push": {"channel": channel, "unsubscribe": body}})

    def encode_attendance(self, difference: Difference) -> list[bytes]:
        """Encode the pushes that tell who came to a channel and who left it, one for each."""
        return [
            msgspec.json.encode(
                {"push": {"channel": difference.channel, what: {"info": present(client, user)}}}
            )
            for what, clients in (("join", difference.joined), ("leave", difference.left))
            for client, user in clients.items()
        ]

    def encode_staleness(self, since_ms: int | None) -> bytes:
        """Encode the push that tells since when the picture is not verified; `None`: live."""
        return msgspec.json.encode({"push": {"message": {"data": staleness_data(since_ms)}}})


JSON: Final = CentrifugeJsonCodec()
"""The codec of all connections that speak JSON."""
