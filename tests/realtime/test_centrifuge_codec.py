"""The codec: what is read as a command, and the exact bytes of replies, pushes and frames."""

from __future__ import annotations

import json

import msgspec
import pytest
from websockets.frames import Frame, Opcode

from channels.changes import Change, ChannelState
from channels.events import Entered, Left, User, Zone
from channels.positions import Position
from channels.replica import Replica
from channels.subscribers import EndReason, Start
from realtime.settings import Settings
from realtime.websocket.centrifuge_codec import (
    FOREIGN,
    BadRequestError,
    Command,
    HistoryRequest,
    Problem,
    SubscribeRequest,
    decode_params,
    read_position,
)
from realtime.websocket.frames import text_frame
from realtime.websocket.json_codec import JSON

ADA = User(1, 1001, "Ädá \u2028 \U0001f600", "A", {"note": 'a "quoted"\nline'}, 3)
ENTERED = Change.of_events("zone:A", Position("ab12", 5), "t-1", 1_700, (Entered(ADA),))
LEFT = Change.of_events("zone:B", Position("ab12", 9), "t-1", 1_700, (Left(1, 3),))


def started(made: Replica, changes: tuple[Change, ...] | None) -> Start:
    """Begin a subscription to `made`; one with changes was recovering."""
    return Start(made, made.position, was_recovering=changes is not None, changes=changes)


def replica() -> Replica:
    """Make a zone with one user, after `ENTERED`."""
    state = ChannelState("zone:A", Position("ab12", 4), Zone("A", "A", {}), {}, {})
    made = Replica(state, recent_max_changes=10)
    made.apply(ENTERED)
    return made


def test_a_message_holds_several_commands_one_a_line() -> None:
    """Commands come in their order, and empty lines and pongs between them are left out."""
    commands = JSON.decode_commands(b'\n{"id":1,"connect":{}}\n{}\n\n{"id":2,"ping":{}}\n', 10)
    assert [(command.id, command.method) for command in commands] == [(1, "connect"), (2, "ping")]


def test_an_unknown_method_is_a_command_without_one() -> None:
    """A command of a protocol to come is answered, not taken for garbage."""
    assert JSON.decode_commands(b'{"id":7,"dance":{}}', 10)[0].method == ""


def test_unknown_fields_are_ignored() -> None:
    """Fields and flag bits that newer SDKs send don't matter."""
    (command,) = JSON.decode_commands(
        b'{"id":1,"trace":"x","subscribe":{"channel":"zones","tf":{"op":"x"},"flag":65}}', 10
    )
    request = decode_params(command, SubscribeRequest)
    assert (request.channel, request.flag, request.position) == ("zones", 65, None)


def test_send_needs_no_id() -> None:
    """The one command without a reply has no id."""
    assert JSON.decode_commands(b'{"send":{"data":1}}', 10)[0].method == "send"


@pytest.mark.parametrize(
    "message",
    [
        "hello",
        "[]",
        '"connect"',
        "null",
        '{"id":1,"connect":{}',
        '{"id":1,"connect":{}}\n}',
        '{"connect":{}}',
        '{"id":0,"connect":{}}',
        '{"id":-1,"connect":{}}',
        '{"id":"1","connect":{}}',
        '{"id":1.5,"connect":{}}',
        '{"id":true,"connect":{}}',
        '{"id":9007199254740993,"connect":{}}',
        '{"id":1,"connect":{},"subscribe":{}}',
        '{"id":1,"connect":' + "[" * 50_000 + "]" * 50_000 + "}",
    ],
    ids=lambda text: text[:30],
)
def test_what_is_no_command_refuses_the_message(message: str) -> None:
    """A message is good as a whole or not at all."""
    with pytest.raises(BadRequestError):
        JSON.decode_commands(message.encode(), 10)


def test_a_message_of_too_many_commands_is_refused() -> None:
    """The bound on commands of one message holds, pongs included."""
    with pytest.raises(BadRequestError, match="too many"):
        JSON.decode_commands(b"{}\n" * 11, 10)
    assert JSON.decode_commands(b"{}\n" * 10, 10) == []


def test_the_default_bounds_fit_an_sdk_that_recovers_all_it_may() -> None:
    """The JavaScript SDK reconnects with all its subscriptions in one message, and gives up
    for good where that is over the limit.
    """
    settings = Settings()
    largest = {"channel": "zone:" + "x" * 64, "flag": 3, "recover": True, "positioned": True}
    largest |= {"recoverable": True, "epoch": "f" * 16, "offset": 2**53 - 1}
    commands: list[dict[str, object]] = [{"connect": {"name": "js"}, "id": 2**32}]
    for _ in range(settings.max_subscriptions_per_connection):
        commands += [{"subscribe": largest, "id": 2**32}]
    message = "\n".join(json.dumps(command) for command in commands)
    assert len(message) <= settings.max_message_bytes
    assert len(JSON.decode_commands(message.encode(), settings.max_commands_per_message)) == len(
        commands
    )


@pytest.mark.parametrize(
    ("epoch", "offset", "position"),
    [
        ("ab12", 5, Position("ab12", 5)),
        ("ab12", None, Position("ab12", 0)),
        ("ab12", "5", Position("ab12", 5)),
        ("_", 0, FOREIGN),
        ("", 0, FOREIGN),
        (None, 5, FOREIGN),
        ("AB12", 5, FOREIGN),
        ("ab12", -1, FOREIGN),
        ("ab12", 2**53, FOREIGN),
        ("ab12", 1.0, FOREIGN),
        ("ab12", True, FOREIGN),
        (7, 5, FOREIGN),
        ("ab12", [5], FOREIGN),
    ],
)
def test_a_position_that_cannot_be_read_is_foreign(
    epoch: object, offset: object, position: Position
) -> None:
    """Odd positions, like the `_` that SDKs send after 2502, lead to the state, not an error."""
    assert read_position(epoch, offset) == position


def test_params_of_another_type_are_refused() -> None:
    """Types of the fields that matter are checked."""
    command = Command(1, "history", msgspec.Raw(b'{"channel":"zones","limit":"all"}'))
    with pytest.raises(msgspec.DecodeError):
        decode_params(command, HistoryRequest)


def test_replies_carry_the_id_of_their_command() -> None:
    """Results and errors come back under the command's id."""
    assert JSON.encode_reply(Command(3, "ping", msgspec.Raw(b"{}")), {}) == b'{"id":3,"ping":{}}'
    assert json.loads(JSON.encode_problem(4, Problem.UNKNOWN_CHANNEL)) == {
        "id": 4,
        "error": {"code": 102, "message": "unknown channel"},
    }
    assert json.loads(JSON.encode_problem(5, Problem.INTERNAL))["error"]["temporary"] is True


def test_a_new_subscription_gets_the_state() -> None:
    """The snapshot is the replica's own bytes, spliced in."""
    made = replica()
    parts = JSON.encode_subscribed(2, started(made, None), b"")
    assert parts[1] is made.snapshot()
    assert json.loads(b"".join(parts)) == {
        "id": 2,
        "subscribe": {
            "recoverable": True,
            "positioned": True,
            "epoch": "ab12",
            "offset": 5,
            "data": json.loads(made.snapshot()),
        },
    }


def test_a_recovered_subscription_gets_what_it_missed() -> None:
    """Missed changes come as publications, and without any there is no list."""
    made = replica()
    publications = JSON.encode_publications((ENTERED,))
    missed = b"".join(JSON.encode_subscribed(2, started(made, (ENTERED,)), publications))
    result = json.loads(missed)["subscribe"]
    assert (result["was_recovering"], result["recovered"]) == (True, True)
    assert "data" not in result
    assert [publication["offset"] for publication in result["publications"]] == [5]
    nothing = b"".join(JSON.encode_subscribed(2, started(made, ()), b""))
    assert "publications" not in json.loads(nothing)["subscribe"]


def test_one_frame_carries_a_transaction_over_two_channels() -> None:
    """The shared frame is one text frame whose lines are the channels' pushes."""
    frame = JSON.encode([ENTERED, LEFT])
    payload = frame[4:]
    assert frame == Frame(Opcode.TEXT, payload).serialize(mask=False)
    entered, left = (json.loads(line)["push"] for line in payload.split(b"\n"))
    assert (entered["channel"], left["channel"]) == ("zone:A", "zone:B")
    assert entered["pub"] == {
        "data": {"tx": "t-1", "events": json.loads(ENTERED.events_json)},
        "offset": 5,
        "time": 1_700,
    }
    assert entered["pub"]["data"]["events"][0]["user"]["name"] == ADA.name


def test_history_without_changes_is_only_the_position() -> None:
    """The position comes always, publications only where there are some."""
    bare = json.loads(b"".join(JSON.encode_history(6, Position("ab12", 5), ())))
    assert bare == {"id": 6, "history": {"epoch": "ab12", "offset": 5}}
    full = json.loads(b"".join(JSON.encode_history(6, Position("ab12", 5), (ENTERED,))))
    assert full["history"]["publications"][0]["offset"] == 5


def test_pushes_name_reasons_and_states() -> None:
    """Unsubscribe pushes have code and reason, as SDKs need both; staleness has its beginning."""
    assert json.loads(JSON.encode_end("zone:A", EndReason.ANEW)) == {
        "push": {"channel": "zone:A", "unsubscribe": {"code": 2502, "reason": "state invalidated"}}
    }
    stale, live = json.loads(JSON.encode_staleness(12)), json.loads(JSON.encode_staleness(None))
    assert stale["push"]["message"]["data"] == {"state": "stale", "since": 12}
    assert live["push"]["message"]["data"] == {"state": "live", "since": None}


@pytest.mark.parametrize("length", [0, 125, 126, 65_535, 65_536, 100_000])
def test_frames_are_those_of_the_websocket_protocol(length: int) -> None:
    """Each of the three forms of a frame's length is written as the library would."""
    payload = b"x" * length
    assert text_frame(payload) == Frame(Opcode.TEXT, payload).serialize(mask=False)


def test_a_ping_is_both_protocols_ping() -> None:
    """SDKs answer the empty object, other clients the WebSocket ping."""
    ping = Frame(Opcode.PING, b"").serialize(mask=False)
    assert ping + Frame(Opcode.TEXT, b"{}").serialize(mask=False) == JSON.ping_frames
