"""Frames: read as the `websockets` package reads them, wherever the network splits them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import OPEN, SERVER
from websockets.protocol import Protocol as SansIoProtocol

from realtime.websocket.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    FrameError,
    FrameReader,
    close_frame,
    close_payload,
    frame_header,
    pong_frame,
    read_close,
)

MAX_BYTES = 1_000
MASK = b"\x01\x80\xff\x2a"
Outcome = tuple[list[tuple[int, bytes]], int | None]
"""Messages, and the code that ended the reading; `None`: it goes on."""


def raw_frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    reserved: int = 0,
    is_masked: bool = True,
    length_bytes: int = 0,
) -> bytes:
    """Serialise a frame of any kind, also of kinds that no library makes."""
    first = (0x80 if fin else 0) | reserved << 4 | opcode
    length = len(payload)
    mask_bit = 0x80 if is_masked else 0
    if length_bytes == 8 or length > 65_535:
        head = bytes([first, mask_bit | 127]) + length.to_bytes(8)
    elif length_bytes == 2 or length > 125:
        head = bytes([first, mask_bit | 126]) + length.to_bytes(2)
    else:
        head = bytes([first, mask_bit | length])
    if not is_masked:
        return head + payload
    return head + MASK + bytes(byte ^ MASK[at % 4] for at, byte in enumerate(payload))


def ours(pieces: Iterable[bytes], max_bytes: int = MAX_BYTES) -> Outcome:
    """Read as the service does: until a close frame or an error."""
    reader = FrameReader(max_bytes)
    messages: list[tuple[int, bytes]] = []
    try:
        for piece in pieces:
            for opcode, payload in reader.read(piece):
                if opcode == TEXT:
                    try:
                        payload.decode()
                    except UnicodeDecodeError:
                        return messages, 1007
                if opcode == CLOSE:
                    code = read_close(payload)
                    messages.append((opcode, payload))
                    return messages, code
                messages.append((opcode, payload))
    except FrameError as error:
        return messages, error.code
    return messages, None


def theirs(pieces: Iterable[bytes], max_bytes: int = MAX_BYTES) -> Outcome:
    """Read by the sans-I/O layer, and put fragments together as its users do."""
    protocol = SansIoProtocol(SERVER, state=OPEN, max_size=max_bytes)
    messages: list[tuple[int, bytes]] = []
    fragments: list[bytes] = []
    begun = CONTINUATION
    for piece in pieces:
        protocol.receive_data(piece)
        for event in protocol.events_received():
            assert isinstance(event, Frame)
            data = bytes(event.data)
            if event.opcode >= CLOSE:
                messages.append((int(event.opcode), data))
                continue
            if event.opcode is not Opcode.CONT:
                begun, fragments = int(event.opcode), []
            fragments.append(data)
            if event.fin:
                whole = b"".join(fragments)
                if begun == TEXT:
                    try:
                        whole.decode()
                    except UnicodeDecodeError:
                        return messages, 1007
                messages.append((begun, whole))
        if protocol.parser_exc is not None:
            assert protocol.close_sent is not None
            return messages, int(protocol.close_sent.code)
        if protocol.close_rcvd is not None:
            return messages, int(protocol.close_rcvd.code)
    return messages, None


PAYLOADS = st.one_of(
    st.text(max_size=300).map(str.encode),
    st.binary(max_size=140),
    st.sampled_from([b"x" * 124, b"x" * 125, b"x" * 126, b"x" * 1_000, b"x" * 1_001]),
)
CLOSES = st.one_of(
    st.binary(max_size=6),
    st.builds(
        lambda code, reason: code.to_bytes(2) + reason[:120],
        st.sampled_from([0, 999, 1000, 1001, 1004, 1005, 1006, 1011, 1015, 2999, 3000, 4999, 5000]),
        st.one_of(st.text(max_size=20).map(str.encode), st.binary(max_size=20)),
    ),
)
ORDINARY = st.builds(
    raw_frame,
    st.sampled_from([CONTINUATION, TEXT, BINARY, PING, PONG]),
    PAYLOADS,
    fin=st.booleans(),
    length_bytes=st.sampled_from([0, 0, 2, 8]),
)
ODD = st.builds(
    raw_frame,
    st.integers(0, 15),
    PAYLOADS,
    fin=st.booleans(),
    reserved=st.sampled_from([0, 0, 1, 2, 4]),
    is_masked=st.sampled_from([True, True, False]),
)
ENDINGS = st.builds(raw_frame, st.just(CLOSE), CLOSES, fin=st.sampled_from([True, True, False]))


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """Draw a text in fragments, with control frames between them."""
    payload = draw(st.one_of(st.text(max_size=80).map(str.encode), st.binary(max_size=20)))
    cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=4)))
    edges = [0, *cuts, len(payload)]
    frames = []
    for number, (begin, end) in enumerate(pairwise(edges)):
        opcode = CONTINUATION if number else TEXT
        frames.append(raw_frame(opcode, payload[begin:end], fin=number == len(edges) - 2))
        if draw(st.booleans()):
            frames.append(raw_frame(PING, b"between"))
    return b"".join(frames)


STREAMS = st.lists(st.one_of(texts(), ORDINARY, ODD, ENDINGS), max_size=8).map(b"".join)


@given(STREAMS, st.lists(st.integers(0, 2_000), max_size=6))
def test_frames_are_read_as_the_library_reads_them(stream: bytes, cuts: Sequence[int]) -> None:
    """The same messages and the same end, in one piece, in some, and byte by byte."""
    expected = theirs([stream])
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    assert ours([stream]) == expected
    assert ours([stream[begin:end] for begin, end in pairwise(edges)]) == expected
    assert ours([stream[at : at + 1] for at in range(len(stream))]) == expected


HELLO = "Hello-µ@ßöäüàá-UTF-8!!".encode()
FRAGMENTED = raw_frame(TEXT, HELLO[:7], fin=False)


@pytest.mark.parametrize(
    ("stream", "messages", "code"),
    [
        (raw_frame(TEXT, HELLO), [(TEXT, HELLO)], None),
        (FRAGMENTED + raw_frame(CONTINUATION, HELLO[7:]), [(TEXT, HELLO)], None),
        (
            FRAGMENTED + raw_frame(PING, b"p") + raw_frame(CONTINUATION, HELLO[7:]),
            [(PING, b"p"), (TEXT, HELLO)],
            None,
        ),
        (raw_frame(TEXT, fin=False) + raw_frame(CONTINUATION), [(TEXT, b"")], None),
        (
            raw_frame(PONG, b"unsolicited") + raw_frame(PING),
            [(PONG, b"unsolicited"), (PING, b"")],
            None,
        ),
        (raw_frame(PING, b"x" * 125), [(PING, b"x" * 125)], None),
        (raw_frame(PING, b"x" * 126), [], 1002),
        (raw_frame(PING, fin=False), [], 1002),
        (raw_frame(TEXT, is_masked=False), [], 1002),
        *[(raw_frame(TEXT, b"x", reserved=bits), [], 1002) for bits in range(1, 8)],
        *[(raw_frame(opcode), [], 1002) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)],
        (raw_frame(CONTINUATION, b"x"), [], 1002),
        (FRAGMENTED + raw_frame(TEXT, b"x"), [], 1002),
        (FRAGMENTED + raw_frame(CLOSE, close_payload(1000)), [], 1002),
        (raw_frame(TEXT, b"ok") + raw_frame(3), [(TEXT, b"ok")], 1002),
        (raw_frame(TEXT, b"\xce\xba\xe1\xbd\xb9\xed\xa0\x80"), [], 1007),
        (raw_frame(TEXT, b"\xf4\x90", fin=False) + raw_frame(CONTINUATION, b"\x80\x80"), [], 1007),
        (raw_frame(TEXT, b"\xce"), [], 1007),
        (raw_frame(BINARY, b"\xff\xfe"), [(BINARY, b"\xff\xfe")], None),
        (raw_frame(CLOSE), [(CLOSE, b"")], 1005),
        (raw_frame(CLOSE, b"\x03"), [], 1002),
        *[
            (
                raw_frame(CLOSE, close_payload(code, "why")),
                [(CLOSE, close_payload(code, "why"))],
                code,
            )
            for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4999)
        ],
        *[
            (raw_frame(CLOSE, close_payload(code)), [], 1002)
            for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535)
        ],
        (raw_frame(CLOSE, close_payload(1000) + b"\xce\xba\xe1\xbd\xb9\xed\xa0\x80"), [], 1007),
        (
            raw_frame(CLOSE, close_payload(1000, "x" * 123)),
            [(CLOSE, close_payload(1000, "x" * 123))],
            1000,
        ),
        (raw_frame(CLOSE, close_payload(1000, "x" * 124)), [], 1002),
        (raw_frame(TEXT, b"x" * MAX_BYTES), [(TEXT, b"x" * MAX_BYTES)], None),
        (raw_frame(TEXT, b"x" * (MAX_BYTES + 1)), [], 1009),
        (raw_frame(TEXT, b"x" * 600, fin=False) + raw_frame(CONTINUATION, b"x" * 401), [], 1009),
        (raw_frame(TEXT, b"short", length_bytes=8), [(TEXT, b"short")], None),
    ],
)
def test_cases_of_the_standard(
    stream: bytes, messages: list[tuple[int, bytes]], code: int | None
) -> None:
    """Those of the Autobahn suite for readers: fragments, control frames, codes, UTF-8."""
    assert ours([stream]) == (messages, code)
    assert ours([stream[at : at + 1] for at in range(len(stream))]) == (messages, code)
    assert theirs([stream]) == (messages, code)


@pytest.mark.parametrize("length", [MAX_BYTES + 1, 70_000, 2**63 - 1, 2**64 - 1])
def test_an_announced_length_is_refused_before_its_bytes_come(length: int) -> None:
    """Nobody makes the service wait for, or store, what it would refuse."""
    head = bytes([0x81, 0xFF]) + length.to_bytes(8)
    assert ours([head]) == ([], 1009)


@pytest.mark.parametrize("first", [0x03, 0xC1, 0x0A])
def test_a_bad_frame_is_refused_before_its_bytes_come(first: int) -> None:
    """Its head says enough."""
    assert ours([bytes([first, 0x80 | 10])]) == ([], 1002)


def test_what_is_whole_leaves_nothing_behind() -> None:
    """An idle connection needs no reader; what is incomplete is held, and no more."""
    reader = FrameReader(MAX_BYTES)
    frame = raw_frame(TEXT, b"x" * 20)
    assert [*reader.read(frame * 3)] == [(TEXT, b"x" * 20)] * 3
    assert reader.is_empty
    assert [*reader.read(frame + frame[:9])] == [(TEXT, b"x" * 20)]
    assert (reader.is_empty, reader.held_bytes) == (False, 9)
    assert [*reader.read(frame[9:])] == [(TEXT, b"x" * 20)]
    assert reader.is_empty
    assert [*reader.read(raw_frame(TEXT, b"abc", fin=False) + raw_frame(0, fin=False) * 999)] == []
    assert (reader.is_empty, reader.held_bytes) == (False, 3)


@pytest.mark.parametrize("length", [0, 125, 126, 65_535, 65_536])
def test_frames_that_are_made_are_the_librarys(length: int) -> None:
    """Unmasked and unfragmented, of every size of length."""
    payload = b"x" * length
    made = frame_header(length) + payload
    assert made == Frame(Opcode.TEXT, payload).serialize(mask=False)
    if length <= 125:
        assert pong_frame(payload) == Frame(Opcode.PONG, payload).serialize(mask=False)
    assert close_payload(3001, "shutdown") == Close(3001, "shutdown").serialize()
    close = Frame(Opcode.CLOSE, close_payload(3001, "shutdown"))
    assert close_frame(close_payload(3001, "shutdown")) == close.serialize(mask=False)
