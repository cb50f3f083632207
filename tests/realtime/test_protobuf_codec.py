"""The Protobuf codec, against Google's implementation with the schema of the official SDKs."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from centrifuge.protocol import client_pb2  # type: ignore[import-untyped]  # it ships no types

from channels.changes import Change, ChannelState
from channels.events import Entered, Left, User, Zone
from channels.positions import Position
from channels.presence import Difference
from channels.replica import Replica
from channels.subscribers import EndReason, Start
from realtime.settings import Settings
from realtime.websocket.centrifuge_codec import (
    BadRequestError,
    Command,
    HistoryRequest,
    Problem,
    RpcRequest,
    SubscribeRequest,
    TokenRequest,
    decode_params,
)
from realtime.websocket.frames import BINARY, PING, FrameReader, frame_header
from realtime.websocket.json_codec import JSON
from realtime.websocket.protobuf_codec import PROTOBUF
from tests.realtime import encodings
from tests.realtime.encodings import UNKNOWN_FIELD, Json, fill, read_replies, write_delimited

ADA = User(1, 1001, "Ädá \u2028 \U0001f600", "A", {"note": 'a "quoted"\nline'}, 3)
ENTERED = Change.of_events("zone:A", Position("ab12", 5), "t-1", 1_764_000_000_123, (Entered(ADA),))
LEFT = Change.of_events("zone:B", Position("ab12", 2**53 - 1), "t-1", 1_700, (Left(1, 3),))
SHOWN = "eyJ.x.y"
MANY = tuple(
    Change.of_events("zone:A", Position("ab12", rev), f"t-{rev}", rev, (Entered(ADA),) * 3)
    for rev in range(1, 40)
)


def started(made: Replica, changes: tuple[Change, ...] | None) -> Start:
    """Begin a subscription to `made`; one with changes was recovering."""
    return Start(made, made.position, was_recovering=changes is not None, changes=changes)


def replica(users: int = 1) -> Replica:
    """Make a zone with so many users."""
    everybody = {number: msgspec.structs.replace(ADA, id=number) for number in range(users)}
    state = ChannelState("zone:A", Position("ab12", 4), Zone("A", "A", {}), everybody, {})
    return Replica(state, recent_max_changes=10)


def commands(*wanted: Json) -> bytes:
    """Write commands as an SDK does."""
    return write_delimited([fill(client_pb2.Command(), command) for command in wanted])


def read(data: bytes) -> Command:
    """Read the one command of a message."""
    (command,) = PROTOBUF.decode_commands(data, 10)
    return command


def as_json(parts: bytes | list[bytes], *, by: Any) -> Json:
    """Return the one reply that a codec wrote, as it is in JSON."""
    written = parts if isinstance(parts, bytes) else b"".join(parts)
    if by is JSON:
        return {"offset": 0, **json.loads(written)}
    (reply,) = read_replies(written)
    return {"offset": 0, **encodings.values_of(reply)}


# Commands


def test_a_message_holds_several_commands_behind_their_lengths() -> None:
    """Commands come in their order, and pongs between them are left out."""
    message = commands({}, {"id": 1, "connect": {}}, {}, {"id": 2**32 - 1, "ping": {}})
    found = PROTOBUF.decode_commands(message, 10)
    assert [(command.id, command.method) for command in found] == [
        (1, "connect"),
        (2**32 - 1, "ping"),
    ]
    assert PROTOBUF.decode_commands(b"", 10) == []


def test_all_that_is_looked_at_in_a_subscribe_is_read() -> None:
    """Also numbers of 64 bits, and the JSON that the client's application put in `data`."""
    wanted = {
        "channel": "zone:A",
        "token": "t" * 300,
        "recover": True,
        "epoch": "ab12",
        "offset": 2**53 - 1,
        "data": {"min": "ab12:7"},
        "flag": -(2**63) + 2,
    }
    request = decode_params(read(commands({"id": 7, "subscribe": wanted})), SubscribeRequest)
    assert {name: getattr(request, name) for name in wanted} == wanted
    assert request.position == Position("ab12", 2**53 - 1)
    assert request.minimum == Position("ab12", 7)


def test_what_is_absent_is_as_it_is_in_json() -> None:
    """What Protobuf leaves out because it is zero, false or empty has the same meaning."""
    request = decode_params(
        read(commands({"id": 1, "subscribe": {"channel": "zones", "recover": False}})),
        SubscribeRequest,
    )
    assert (request.position, request.minimum, request.flag, request.token) == (None, None, 0, None)
    history = decode_params(read(commands({"id": 1, "history": {"channel": "a"}})), HistoryRequest)
    assert (history.limit, history.since, history.reverse) == (0, None, False)
    assert decode_params(read(commands({"id": 1, "connect": {}})), TokenRequest).token == ""


def test_a_history_and_a_call_are_read() -> None:
    """A message in a message, a negative number of 32 bits, and the data of a call."""
    wanted = {"channel": "a", "limit": -1, "since": {"offset": 9, "epoch": "e"}, "reverse": True}
    history = decode_params(read(commands({"id": 1, "history": wanted})), HistoryRequest)
    assert history.since is not None
    assert (history.limit, history.reverse) == (-1, True)
    assert (history.since.offset, history.since.epoch) == (9, "e")
    call = {"method": "digest", "data": {"channel": "zone:A"}}
    asked = decode_params(read(commands({"id": 1, "rpc": call})), RpcRequest)
    assert (asked.method, json.loads(bytes(asked.data))) == ("digest", {"channel": "zone:A"})


def test_data_of_commands_that_have_no_use_for_it_may_be_anything() -> None:
    """Applications may put into `connect`, `send` and `publish` what is no JSON."""
    command = client_pb2.Command(id=1)
    command.connect.data = b"\xff"
    command.connect.token = SHOWN
    sent = client_pb2.Command()
    sent.send.data = b"\x00\xff"
    message = write_delimited([command, sent])
    found = PROTOBUF.decode_commands(message, 10)
    assert [item.method for item in found] == ["connect", "send"]
    assert decode_params(found[0], TokenRequest).token == SHOWN


def test_unknown_fields_and_methods_are_not_garbage() -> None:
    """Fields of every wire type that newer SDKs may send don't matter; a method is answered."""
    inner = client_pb2.SubscribeRequest(channel="zones").SerializeToString()
    fixed = b"\x9d\x06abcd" + b"\x99\x06abcdefgh" + b"\x98\x06\xff\x01" + UNKNOWN_FIELD
    body = b"\x08\x01" + fixed + b"\x2a" + bytes([len(inner) + len(fixed)]) + fixed + inner
    command = read(bytes([len(body)]) + body)
    assert (command.id, command.method) == (1, "subscribe")
    assert decode_params(command, SubscribeRequest).channel == "zones"
    assert read(b"\x05\x08\x07" + UNKNOWN_FIELD).method == ""


def test_of_a_field_that_comes_twice_the_last_counts() -> None:
    """And messages are merged: so it is in Protobuf."""
    first = client_pb2.Command(id=1)
    first.subscribe.channel = "zone:A"
    first.subscribe.epoch = "ab"
    second = client_pb2.Command(id=2)
    second.subscribe.channel = "zone:B"
    body = first.SerializeToString() + second.SerializeToString()
    command = read(bytes([len(body)]) + body)
    request = decode_params(command, SubscribeRequest)
    assert (command.id, request.channel, request.epoch) == (2, "zone:B", "ab")


def delimited(body: bytes) -> bytes:
    """Put a short message behind its length."""
    return bytes([len(body)]) + body


@pytest.mark.parametrize(
    "message",
    [
        b'{"id":1,"connect":{}}',
        b"\x05\x08\x01",
        b"\x80",
        b"\xff" * 11,
        commands({"id": 1, "connect": {}}) + b"\x01",
        commands({"connect": {}}),
        commands({"id": 0, "connect": {}}),
        commands({"id": 1, "connect": {}, "ping": {}}),
        delimited(b"\x08"),
        delimited(b"\x08" + b"\xff" * 10),
        delimited(b"\x00\x01"),
        delimited(b"\x0b\x0c"),
        delimited(b"\x0f"),
        delimited(b"\x82\x80\x80\x80\x80\x01\x00"),
        delimited(b"\x08\x01\x22\x05\x0a"),
        delimited(b"\x08\x01\x99\x06abc"),
        delimited(b"\x08\x01\x22\x03\x0a\x01\xff"),
        delimited(b"\x08\x01\x22\x03\x0a\x02\xff"),
        delimited(b"\x08\x01\x2a\x03\x42\x01{"),
    ],
    ids=[
        "JSON",
        "cut off",
        "length cut off",
        "length too long",
        "second command cut off",
        "no id",
        "id zero",
        "several methods",
        "number cut off",
        "number too long",
        "field zero",
        "group",
        "wire type 7",
        "field number too large",
        "message cut off",
        "fixed cut off",
        "no UTF-8",
        "text cut off",
        "data that is no JSON",
    ],
)
def test_what_is_no_command_refuses_the_message(message: bytes) -> None:
    """A message is good as a whole or not at all."""
    with pytest.raises(BadRequestError):
        PROTOBUF.decode_commands(commands({"id": 1, "ping": {}}) + message, 10)


def test_a_message_of_too_many_commands_is_refused() -> None:
    """The bound on commands of one message holds, pongs included."""
    with pytest.raises(BadRequestError, match="too many"):
        PROTOBUF.decode_commands(b"\0" * 11, 10)
    assert PROTOBUF.decode_commands(b"\0" * 10, 10) == []


def test_a_message_of_too_many_fields_is_refused() -> None:
    """However few bytes each takes: the time that a message costs is bounded."""
    largest = client_pb2.Command(id=1)
    largest.connect.headers.update({f"h{number}": "x" for number in range(158)})
    PROTOBUF.decode_commands(write_delimited([largest]), 10)
    largest.connect.headers["one more"] = "x"
    with pytest.raises(BadRequestError):
        PROTOBUF.decode_commands(write_delimited([largest]), 10)


def test_the_default_bounds_fit_an_sdk_that_recovers_all_it_may() -> None:
    """An SDK that comes back with all its subscriptions in one message is read."""
    settings = Settings()
    largest = {
        "channel": "zone:" + "x" * 64,
        "recover": True,
        "positioned": True,
        "recoverable": True,
        "join_leave": True,
        "delta": "fossil",
        "epoch": "f" * 16,
        "offset": 2**53 - 1,
        "flag": 3,
        "data": {"min": "f" * 16 + ":1"},
    }
    many = [{"id": 2**32 - 1, "subscribe": largest}] * settings.max_subscriptions_per_connection
    message = commands({"id": 1, "connect": {"name": "js"}}, *many)
    assert len(message) <= settings.max_message_bytes
    found = PROTOBUF.decode_commands(message, settings.max_commands_per_message)
    assert len(found) == len(many) + 1


# Replies and pushes


RESULTS: dict[str, Json] = {
    "connect": {
        "client": "c",
        "version": "zonecast 1",
        "ping": 25,
        "pong": True,
        "data": {"node": "9f"},
        "expires": True,
        "ttl": 600,
    },
    "unsubscribe": {},
    "presence": {
        "presence": {"": {"client": "c", "user": "ada"}, "b" * 200: {"client": "d", "user": ""}}
    },
    "presence_stats": {"num_clients": 300, "num_users": 2},
    "ping": {},
    "rpc": {"data": {"channel": "zone:A", "rev": 42, "digest": "1-0d3a6f52"}},
    "refresh": {"client": "c", "version": "v", "expires": True, "ttl": 2**32 - 1},
    "sub_refresh": {"expires": True, "ttl": 60},
}


@pytest.mark.parametrize("method", list(RESULTS))
@pytest.mark.parametrize("command_id", [1, 127, 128, 2**32 - 1])
def test_replies_say_what_they_say_in_json(method: str, command_id: int) -> None:
    """Each result, under the id of its command."""
    command = Command(command_id, method, msgspec.Raw(b"{}"))
    written = PROTOBUF.encode_reply(command, RESULTS[method])
    assert as_json(written, by=PROTOBUF) == {
        "offset": 0,
        "id": command_id,
        method: RESULTS[method],
    }


@pytest.mark.parametrize("problem", list(Problem), ids=lambda problem: problem.name)
def test_problems_say_what_they_say_in_json(problem: Problem) -> None:
    """Code, message, and whether asking again may help."""
    ours, json_s = (codec.encode_problem(5, problem) for codec in (PROTOBUF, JSON))
    assert as_json(ours, by=PROTOBUF) == as_json(json_s, by=JSON)


@pytest.mark.parametrize("ttl_s", [None, 60])
@pytest.mark.parametrize("missed", [None, (), (ENTERED,), MANY], ids=["new", "none", "one", "many"])
def test_subscriptions_begin_as_in_json(
    missed: tuple[Change, ...] | None, ttl_s: int | None
) -> None:
    """With the state, with what was missed, or with nothing, and for as long as a token lasts."""
    start = started(replica(), missed)
    ours, json_s = (
        codec.encode_subscribed(300, start, codec.encode_publications(missed or ()), ttl_s)
        for codec in (PROTOBUF, JSON)
    )
    assert as_json(ours, by=PROTOBUF) == as_json(json_s, by=JSON)


def test_a_snapshot_is_shared_and_not_copied() -> None:
    """The state in the reply is the replica's own bytes, whatever their size."""
    made = replica(users=2_000)
    parts = PROTOBUF.encode_subscribed(2, started(made, None), b"")
    assert parts[-1] is made.snapshot()
    (reply,) = read_replies(b"".join(parts))
    assert reply.subscribe.data == made.snapshot()


@pytest.mark.parametrize("changes", [(), (LEFT,), MANY], ids=["none", "one", "many"])
def test_histories_are_as_in_json(changes: tuple[Change, ...]) -> None:
    """The position comes always, publications where there are some."""
    head = Position("ab12", 2**53 - 1)
    ours, json_s = (codec.encode_history(6, head, changes) for codec in (PROTOBUF, JSON))
    assert as_json(ours, by=PROTOBUF) == as_json(json_s, by=JSON)


@pytest.mark.parametrize("reason", list(EndReason), ids=lambda reason: reason.name)
def test_ends_and_staleness_are_as_in_json(reason: EndReason) -> None:
    """Unsubscribe pushes have code and reason; staleness has its beginning, also when it is 0."""
    assert as_json(PROTOBUF.encode_end("zone:A", reason), by=PROTOBUF) == as_json(
        JSON.encode_end("zone:A", reason), by=JSON
    )
    for since_ms in (None, 0, 1_764_000_000_000):
        assert as_json(PROTOBUF.encode_staleness(since_ms), by=PROTOBUF) == as_json(
            JSON.encode_staleness(since_ms), by=JSON
        )


def test_joins_and_leaves_are_as_in_json() -> None:
    """One push for each, of clients whose user is known or not."""
    difference = Difference("zone:A", {"c": "ada", "d": ""}, {"e": "Ädá"})
    ours, json_s = (codec.encode_attendance(difference) for codec in (PROTOBUF, JSON))
    assert len(ours) == 3
    for push, json_push in zip(ours, json_s, strict=True):
        assert as_json(push, by=PROTOBUF) == as_json(json_push, by=JSON)


@pytest.mark.parametrize("changes", [(LEFT,), (ENTERED, LEFT), MANY * 20], ids=["1", "2", "780"])
def test_one_frame_carries_all_changes_of_a_pass(changes: tuple[Change, ...]) -> None:
    """The shared frame is one binary message of as many pushes, as the lines are in JSON."""
    frames = FrameReader(10**7)
    binary, text = (codec.encode(changes) for codec in (PROTOBUF, JSON))
    opcode, payload = masked(frames, binary)
    assert opcode == BINARY
    _, lines = masked(frames, text)
    ours = [encodings.values_of(reply) for reply in read_replies(payload)]
    assert ours == [json.loads(line) for line in lines.split(b"\n")]


def masked(frames: FrameReader, frame: bytes) -> tuple[int, bytes]:
    """Read the only frame there is; the reader wants a client's, so it is masked by zeros."""
    payload_bytes = 127 if frame[1] == 127 else frame[1]
    header = {126: 4, 127: 10}.get(payload_bytes, 2)
    as_client = frame[:1] + bytes([frame[1] | 0x80]) + frame[2:header] + bytes(4) + frame[header:]
    (message,) = frames.read(as_client)
    return message


def test_the_ping_is_an_empty_reply_and_the_pong_an_empty_command() -> None:
    """As SDKs know them; and the WebSocket's own ping for all others."""
    ping = frame_header(0, PING)
    assert PROTOBUF.ping_frames.startswith(ping)
    opcode, payload = masked(FrameReader(10), PROTOBUF.ping_frames[len(ping) :])
    assert (opcode, read_replies(payload)) == (BINARY, [client_pb2.Reply()])
    assert write_delimited([client_pb2.Command()]) == PROTOBUF.pong
