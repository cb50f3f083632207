"""Whatever bytes come as Protobuf: what Google's implementation reads, ours reads, or refuses.

And whatever we write, Google's reads. Its schema is the one that the official Python SDK brings.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any

import msgspec
import pytest
from centrifuge.protocol import client_pb2  # type: ignore[import-untyped]  # it ships no types
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from google.protobuf.unknown_fields import (  # type: ignore[import-untyped]
    UnknownFieldSet,
)
from hypothesis import event, given, settings
from hypothesis import strategies as st

from channels.changes import Change
from channels.positions import MAX_REV, Position
from realtime.websocket.centrifuge_codec import METHODS, BadRequestError, Command
from realtime.websocket.protobuf_codec import PROTOBUF
from realtime.websocket.protobuf_fields import Allowance, MalformedError, varint
from realtime.websocket.protobuf_shapes import COMMAND
from tests.realtime.encodings import read_replies

fuzzed = settings(max_examples=300, derandomize=True, deadline=None)

numbers = st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2, 127, 128, 2**31, 2**32, 2**63])
names = st.sampled_from([0, *range(1, 16), 99, 2**29 - 1, 2**29]) | st.integers(1, 8)
texts = st.text(max_size=12).map(str.encode) | st.sampled_from([b"zone:A", b"{}", b'{"min":1}'])


def varint_field(number: int, value: int) -> bytes:
    """Write a number."""
    return varint(number << 3) + varint(value)


def bytes_field(number: int, value: bytes) -> bytes:
    """Write what has a length."""
    return varint(number << 3 | 2) + varint(len(value)) + value


def _messages(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    fields = (
        st.builds(varint_field, names, numbers)
        | st.builds(bytes_field, names, inner)
        | st.builds(lambda number, data: varint(number << 3 | 1) + data, names, st.binary())
        | st.builds(lambda number, data: varint(number << 3 | 5) + data, names, st.binary())
    )
    return st.lists(fields, max_size=6).map(b"".join)


messages = st.recursive(texts | st.binary(max_size=12), _messages, max_leaves=12)


def is_document(data: bytes) -> bool:
    """Tell whether bytes are good as `data`."""
    with contextlib.suppress(msgspec.DecodeError):
        msgspec.json.decode(data)
        return True
    return not data


def has_good_data(command: Any) -> bool:
    """Tell whether what has to be JSON in a command is."""
    return is_document(command.subscribe.data) and is_document(command.rpc.data)


def has_groups(message: Any) -> bool:
    """Tell whether there are groups among what is unknown: ours refuses them."""
    inner = [value for field, value in message.ListFields() if field.message_type is not None]
    return any(field.wire_type == 3 for field in UnknownFieldSet(message)) or any(
        has_groups(value) for value in inner if hasattr(value, "ListFields")
    )


def assert_equal(ours: dict[str, Any], theirs: Any) -> None:
    """Compare what was read; what is absent is zero, false or empty."""
    for name in METHODS:
        assert theirs.HasField(name) == (name in ours)
    for name, value in ours.items():
        found = getattr(theirs, name)
        if isinstance(value, dict):
            for inner, held in value.items():
                if isinstance(held, dict):
                    assert_equal_fields(held, getattr(found, inner))
            assert_equal_fields({k: v for k, v in value.items() if not isinstance(v, dict)}, found)
        else:
            assert value == found


def assert_equal_fields(ours: dict[str, Any], theirs: Any) -> None:
    """Compare the fields of a message that holds no message."""
    for name, value in ours.items():
        found = getattr(theirs, name)
        assert (bytes(value) if isinstance(value, msgspec.Raw) else value) == (
            found if name != "data" or found else b"null"
        )


@settings(fuzzed, max_examples=600)
@given(messages | st.builds(lambda data, at: data[:at], messages, st.integers(0, 40)))
def test_any_message_is_read_as_by_google(data: bytes) -> None:
    """Wider only in what is not looked at, narrower only in what is to be JSON."""
    try:
        theirs = client_pb2.Command.FromString(data)
    except DecodeError:
        theirs = None
    try:
        ours = COMMAND.read(data, Allowance(10_000))
    except MalformedError:
        event("refused")
        assert theirs is None or not has_good_data(theirs) or has_groups(theirs), data.hex()
        return
    event("read by both" if theirs is not None else "read by us")
    if theirs is not None:
        assert_equal(ours, theirs)


@fuzzed
@given(
    st.binary(max_size=60)
    | st.lists(messages, max_size=4).map(lambda ms: b"".join(varint(len(m)) + m for m in ms))
)
def test_any_bytes_are_commands_or_refused(data: bytes) -> None:
    """With parameters that are JSON, and an id where one is needed."""
    with contextlib.suppress(BadRequestError):
        for command in PROTOBUF.decode_commands(data, 100):
            assert command.method in METHODS or not command.method
            assert command.id or command.method == "send"
            assert isinstance(json.loads(bytes(command.params)), dict)


changes = st.builds(
    lambda channel, rev, tx, time_ms, events: Change(
        channel, "ab", rev, tx, time_ms, (), json.dumps(events).encode()
    ),
    st.from_regex(r"zone:[A-Za-z0-9._-]{1,64}", fullmatch=True) | st.just("zones"),
    st.integers(1, MAX_REV),
    st.text(max_size=40),
    st.integers(0, MAX_REV),
    st.lists(st.dictionaries(st.text(max_size=8), st.text(max_size=200), max_size=4), max_size=4),
)


@fuzzed
@given(st.lists(changes, max_size=6))
def test_any_changes_are_pushes_to_google(found: list[Change]) -> None:
    """Channel, revision, time and data, in their order, in the frame and in a history."""
    frame = PROTOBUF.encode(found)
    header = {126: 4, 127: 10}.get(frame[1], 2)
    pushes = [reply.push for reply in read_replies(frame[header:])]
    assert [(push.channel, push.pub.offset, push.pub.time) for push in pushes] == [
        (change.channel, change.rev, change.time_ms) for change in found
    ]
    head = Position("ab", MAX_REV)
    (reply,) = read_replies(b"".join(PROTOBUF.encode_history(1, head, found)))
    assert list(reply.history.publications) == [push.pub for push in pushes]
    for change, push in zip(found, pushes, strict=True):
        said = json.loads(push.pub.data)
        assert said == {"tx": change.tx, "events": json.loads(change.events_json)}


@fuzzed
@given(st.integers(1, 2**32 - 1), st.text(max_size=300), st.integers(0, 2**32 - 1), st.booleans())
def test_any_reply_is_one_to_google(
    command_id: int,
    text: str,
    number: int,
    flag: bool,  # noqa: FBT001 - drawn by Hypothesis.
) -> None:
    """Texts, numbers and flags of every size."""
    result = {"client": text, "ping": number, "pong": flag, "data": {"node": text}}
    command = Command(command_id, "connect", msgspec.Raw(b"{}"))
    (reply,) = read_replies(PROTOBUF.encode_reply(command, result))
    said = reply.connect
    assert (reply.id, said.client, said.ping, said.pong) == (command_id, text, number, flag)
    assert json.loads(said.data) == {"node": text}


def test_a_result_that_has_no_place_in_the_schema_is_a_fault() -> None:
    """Nothing is left out in silence: a field that was forgotten is found by its first test."""
    with pytest.raises(KeyError, match="colour"):
        PROTOBUF.encode_reply(Command(1, "connect", msgspec.Raw(b"{}")), {"colour": "red"})
