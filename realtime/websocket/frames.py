"""WebSocket frames (RFC 6455, section 5): read from a client, and made for one. Pure.

What a message costs is bounded before its bytes are there. A contract test holds the reader to
the sans-I/O layer of the `websockets` package, split wherever a network may split.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from websockets.exceptions import ProtocolError
from websockets.frames import Close

try:
    from websockets.speedups import apply_mask
except ImportError:  # Where the package was built without its C part.
    from websockets.utils import apply_mask

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

NO_STATUS: Final = 1005
"""The code of a close frame without one."""

_FINAL: Final = 0x80
_RESERVED: Final = 0x70
_OPCODE: Final = 0x0F
_MASKED: Final = 0x80
_KNOWN: Final = frozenset({CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG})
_CONTROL_MAX_BYTES: Final = 125

Message = tuple[int, bytes]
"""An opcode with its unmasked payload; of a fragmented message the first frame's, and the whole."""


class FrameError(Exception):
    """What came is no frame, or too large; `code` is what the connection is closed with."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class FrameReader:
    """Reads the frames of one client. Holds nothing between two whole messages.

    Args:
        max_bytes: The longest message, in however many frames it comes.
    """

    __slots__ = ("_max_bytes", "_message", "_opcode", "_rest")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._rest: bytearray | None = None
        self._message: bytearray | None = None
        self._opcode = CONTINUATION

    @property
    def is_empty(self) -> bool:
        """Whether neither a frame nor a message is incomplete."""
        return self._rest is None and self._message is None

    @property
    def held_bytes(self) -> int:
        """How much of incomplete frames and messages is held."""
        return len(self._rest or b"") + len(self._message or b"")

    def read(self, data: bytes) -> Iterator[Message]:
        """Yield what is complete with `data`. To be iterated to the end, or never again.

        Raises:
            FrameError: after all that came before it.
        """
        buffer: bytes | bytearray = data
        if self._rest is not None:
            buffer = self._rest
            buffer += data
        at = 0
        while (frame := self._frame(buffer, at)) is not None:
            first, start, at = frame
            payload = buffer[start:at]
            if at > start:
                payload = apply_mask(payload, buffer[start - 4 : start])
            message = self._assemble(first, bytes(payload))
            if message is not None:
                yield message
        if at == len(buffer):
            self._rest = None
        elif self._rest is None:
            self._rest = bytearray(buffer[at:])
        else:
            del self._rest[:at]

    def _frame(self, buffer: bytes | bytearray, at: int) -> tuple[int, int, int] | None:
        """Return first byte, begin and end of the payload at `at`; `None`: it isn't all there."""
        have = len(buffer) - at
        if have < 2:
            return None
        first, second = buffer[at], buffer[at + 1]
        if first & _OPCODE not in _KNOWN or not second & _MASKED:
            raise FrameError(1002)
        length = second & 0x7F
        start = at + 6
        if length == 126:
            if have < 4:
                return None
            (length,) = struct.unpack_from("!H", buffer, at + 2)
            start = at + 8
        elif length == 127:
            if have < 10:
                return None
            (length,) = struct.unpack_from("!Q", buffer, at + 2)
            start = at + 14
        # Before the bytes are waited for: who announces too much is told at once.
        if length > self._max_bytes - len(self._message or b""):
            raise FrameError(1009)
        self._check(first, length)
        return (first, start, start + length) if len(buffer) >= start + length else None

    def _check(self, first: int, length: int) -> None:
        opcode = first & _OPCODE
        if first & _RESERVED:
            raise FrameError(1002)
        if opcode >= CLOSE:
            if length > _CONTROL_MAX_BYTES or not first & _FINAL:
                raise FrameError(1002)
            if opcode == CLOSE and self._message is not None:
                raise FrameError(1002)
        elif (opcode == CONTINUATION) == (self._message is None):
            raise FrameError(1002)

    def _assemble(self, first: int, payload: bytes) -> Message | None:
        opcode = first & _OPCODE
        if opcode >= CLOSE:
            return opcode, payload
        if opcode != CONTINUATION:
            if first & _FINAL:
                return opcode, payload
            self._opcode = opcode
            self._message = bytearray(payload)
            return None
        message = self._message
        if message is None:
            raise FrameError(1002)
        message += payload
        if not first & _FINAL:
            return None
        self._message = None
        return self._opcode, bytes(message)


def read_close(payload: bytes) -> int:
    """Return the code of a close frame.

    Raises:
        FrameError: the code is none that may be sent, or the reason is no UTF-8.
    """
    try:
        return int(Close.parse(payload).code)
    except ProtocolError:
        raise FrameError(1002) from None
    except UnicodeDecodeError:
        raise FrameError(1007) from None


# From server to client, and so never masked.


def frame_header(length: int, opcode: int = TEXT) -> bytes:
    """Begin an unfragmented frame, by default a text frame, of `length` bytes of payload."""
    first = _FINAL | opcode
    if length < 126:
        return struct.pack("!BB", first, length)
    if length < 65_536:
        return struct.pack("!BBH", first, 126, length)
    return struct.pack("!BBQ", first, 127, length)


def text_frame(payload: bytes) -> bytes:
    """Make a complete text frame."""
    return frame_header(len(payload)) + payload


def pong_frame(payload: bytes) -> bytes:
    """Make the answer to a ping."""
    return frame_header(len(payload), PONG) + payload


def close_frame(payload: bytes) -> bytes:
    """Make a close frame of a payload that `close_payload` made or a client sent."""
    return frame_header(len(payload), CLOSE) + payload


def close_payload(code: int, reason: str = "") -> bytes:
    """Make what a close frame says; a reason has at most 123 bytes."""
    return struct.pack("!H", code) + reason.encode()
