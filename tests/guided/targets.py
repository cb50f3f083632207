"""What is fuzzed: each reader of foreign bytes, with what must hold whatever they are."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from cache.envelope import EnvelopeCodec, MalformedEnvelopeError, NewerEnvelopeError
from channels.names import InvalidChannelError, parse_channel
from channels.positions import (
    InvalidPositionError,
    Position,
    format_vector,
    parse_minima,
    parse_vector,
)
from channels.zone_grants import InvalidPatternError, ZonePatterns
from realtime.websocket.centrifuge_codec import (
    BadRequestError,
    CentrifugeCodec,
    ChannelTokenRequest,
    HistoryRequest,
    RpcRequest,
    SubscribeRequest,
    decode_params,
)
from realtime.websocket.frames import FrameError, FrameReader
from realtime.websocket.handshake import Handshake, RefusedError, check_handshake
from realtime.websocket.json_codec import JSON
from realtime.websocket.protobuf_codec import PROTOBUF

Target = Callable[[bytes], None]

_MESSAGE_MAX_BYTES: Final = 300
_KINDS: Final = (ChannelTokenRequest, HistoryRequest, RpcRequest, SubscribeRequest)


def _frames_of(pieces: Iterable[bytes]) -> tuple[list[tuple[int, bytes]], int]:
    """Return the messages read, and the code by which reading ended, or 0."""
    reader = FrameReader(_MESSAGE_MAX_BYTES)
    found: list[tuple[int, bytes]] = []
    try:
        for piece in pieces:
            found.extend(reader.read(piece))
            # A frame has a head of up to 14 bytes.
            assert reader.held_bytes <= 2 * _MESSAGE_MAX_BYTES + 14
    except FrameError as error:
        return found, error.code
    return found, 0


def frames(data: bytes) -> None:
    """However bytes are cut on the way, the same is read of them."""
    whole, whole_code = _frames_of([data])
    cut, cut_code = _frames_of(data[at : at + 1] for at in range(len(data)))
    assert (cut, cut_code) == (whole, whole_code)
    assert whole_code in {0, 1002, 1007, 1009}
    assert all(len(payload) <= _MESSAGE_MAX_BYTES for _, payload in whole)


def _commands(codec: CentrifugeCodec, data: bytes) -> None:
    try:
        commands = codec.decode_commands(data, 100)
    except BadRequestError:
        return
    assert len(commands) <= 100
    for command in commands:
        for kind in _KINDS:
            with contextlib.suppress(msgspec.DecodeError, RecursionError, BadRequestError):
                request = decode_params(command, kind)
                if isinstance(request, SubscribeRequest):
                    _ = request.position, request.minimum


def json_commands(data: bytes) -> None:
    """A message is commands whose parameters can be read, or is refused."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return  # The connection has ended with 1007 before.
    _commands(JSON, data)


def protobuf_commands(data: bytes) -> None:
    """The same in Protobuf."""
    _commands(PROTOBUF, data)


def envelopes(data: bytes) -> None:
    """A message of the bus is a change of its channel, or is refused."""
    codec = EnvelopeCodec()
    with contextlib.suppress(MalformedEnvelopeError, NewerEnvelopeError):
        assert codec.decode(data, "zone:A").channel == "zone:A"


def positions(data: bytes) -> None:
    """What is read as a vector is written as one that reads the same."""
    text = data.decode("latin-1")
    with contextlib.suppress(InvalidPositionError):
        assert Position.parse(text).rev >= 0
    with contextlib.suppress(InvalidPositionError):
        parse_minima(text, ["zone:A"])
    with contextlib.suppress(InvalidPositionError):
        vector = parse_vector(text)
        assert parse_vector(format_vector(vector.items())) == vector


def grants(data: bytes) -> None:
    """A pattern matches what it is made of, and takes no time that grows beyond measure."""
    text = data.decode("latin-1")
    with contextlib.suppress(InvalidChannelError):
        parse_channel(text)
    pattern, _, zone_id = text.partition("\n")
    with contextlib.suppress(InvalidPatternError):
        patterns = ZonePatterns.parse([pattern])
        patterns.matches(zone_id)
        assert patterns.matches(pattern.replace("*", "A"))


def handshakes(data: bytes) -> None:
    """A head is accepted or refused with a status."""
    lines = [line.partition(b":") for line in data.split(b"\n")]
    headers = [(name.strip().lower(), value.strip()) for name, _, value in lines]
    handshake = Handshake("GET", "1.1", "/ws", b"", headers, None)
    status = 101
    try:
        answer = check_handshake(handshake).answer()
    except RefusedError as refused:
        status = refused.status
    else:
        assert answer.endswith(b"\r\n\r\n")
        assert answer.count(b"\r\n\r\n") == 1
    assert status == 101 or 400 <= status < 506


TARGETS: Final[dict[str, tuple[Target, tuple[bytes, ...]]]] = {
    "frames": (
        frames,
        (
            b"\x81\x82\x00\x00\x00\x00{}",
            b"\x01\x81\x01\x02\x03\x04\x60\x80\x81\x01\x02\x03\x04\x60",
            b"\x88\x82\x00\x00\x00\x00\x03\xe8\x89\x80\x00\x00\x00\x00",
            b"\x82\xfe\x00\x80\x00\x00\x00\x00" + bytes(128),
        ),
    ),
    "json_commands": (
        json_commands,
        (
            b'{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"zone:A"}}',
            b'{"id":2,"subscribe":{"channel":"A","recover":true,"epoch":"ab12","offset":5}}',
            b'{"id":3,"history":{"channel":"zone:A","limit":9,"since":{"offset":1,"epoch":"e"}}}',
            b'{"id":4,"rpc":{"method":"digest","data":{"channel":"zone:A"}}}\n{}',
        ),
    ),
    "protobuf_commands": (
        protobuf_commands,
        (
            b"\x04\x08\x01\x22\x00",
            b"\x18\x08\x02\x2a\x14\x0a\x06zone:A\x18\x01\x32\x04ab12\x38\x05\x50\x01\x00",
        ),
    ),
    "envelopes": (
        envelopes,
        (
            b'{"v":1,"channel":"zone:A","epoch":"ab","rev":2,"tx":"t","time":3,"events":[]}',
            b'{"v":1,"channel":"zone:A","epoch":"ab","rev":2,"tx":"","time":3,"parts":[["zones",2]]}',
            b'{"v":2}',
        ),
    ),
    "positions": (positions, (b"ab12:5", b"A=ab12:5,B=0f:1", b"zone:A=ab12:5")),
    "grants": (grants, (b"F1-*\nF1-Z1", b"*", b"zone:F1-Z1", b"*a*b*\nxaxbx")),
    "handshakes": (
        handshakes,
        (
            b"Sec-WebSocket-Version: 13\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
            b"Sec-WebSocket-Protocol: a, centrifuge-json\nSec-WebSocket-Version: 8",
            b"Content-Length: 0\nTransfer-Encoding: chunked",
        ),
    ),
}
"""Each target by its name, with inputs to begin with."""
