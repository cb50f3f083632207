"""Protobuf's wire format: messages read from bytes, and written as such. Pure.

Just what the client protocol needs (decision 54), and strict where the format is: whatever it
doesn't allow is `MalformedError`. Contract tests hold both directions to Google's implementation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import msgspec

_VARINT: Final = 0
_FIXED_64: Final = 1
_LENGTH: Final = 2
_FIXED_32: Final = 5

_FIXED_BYTES: Final = {_FIXED_64: 8, _FIXED_32: 4}
_KEY_MAX: Final = 2**32
_VARINT_MAX_BYTES: Final = 10
_UINT_64: Final = 2**64 - 1
_ONE_BYTE: Final = tuple(bytes([value]) for value in range(0x80))


_NULL: Final = msgspec.Raw(b"null")


class MalformedError(Exception):
    """Bytes that are no message, or one of too many fields."""


class Allowance:
    """How many fields may still be read: it bounds the time that is spent on a few bytes each."""

    __slots__ = ("fields",)

    def __init__(self, fields: int) -> None:
        self.fields = fields


# On the wire


def varint(value: int) -> bytes:
    """Write a number, a negative one as 64 bits."""
    if 0 <= value < 0x80:
        return _ONE_BYTE[value]
    if 0 < value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    value &= _UINT_64
    written = bytearray()
    while value >= 0x80:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Read a number of up to 64 bits at `at`; return it, and where it ends.

    Raises:
        MalformedError: it is longer, or cut off.
    """
    value = shift = 0
    for end, byte in enumerate(data[at : at + _VARINT_MAX_BYTES], at + 1):
        if byte < 0x80:
            return (value | byte << shift) & _UINT_64, end
        value |= (byte & 0x7F) << shift
        shift += 7
    raise MalformedError


def read_delimited(data: bytes, at: int) -> tuple[bytes, int]:
    """Read bytes behind their length at `at`; return them, and where they end.

    Raises:
        MalformedError: there are fewer.
    """
    length, start = read_varint(data, at)
    end = start + length
    if end > len(data):
        raise MalformedError
    return data[start:end], end


def delimited(data: bytes) -> bytes:
    """Write bytes behind their length."""
    return varint(len(data)) + data


def _read_value(data: bytes, at: int, wire_type: int) -> tuple[int | bytes, int]:
    if wire_type == _VARINT:
        return read_varint(data, at)
    if wire_type == _LENGTH:
        return read_delimited(data, at)
    # What is left are groups, which are of old and not of this protocol, and nonsense.
    end = at + _FIXED_BYTES.get(wire_type, len(data) + 1)
    if end > len(data):
        raise MalformedError
    return data[at:end], end


# What fields hold


class Kind(NamedTuple):
    """What a field holds that is no message.

    Attributes:
        wire_type: How it is written.
        read: Makes a value of what is on the wire.
        write: The other way.
    """

    wire_type: int
    read: Callable[[Any], Any]
    write: Callable[[Any], bytes]


def _uint_32(value: int) -> int:
    return value % 2**32


def _int_32(value: int) -> int:
    return (value + 2**31) % 2**32 - 2**31


def _int_64(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise MalformedError from None


def _document(value: bytes) -> msgspec.Raw:
    """Check that bytes are a JSON document, and keep them as they are; none are as good as null."""
    if not value:
        return _NULL
    try:
        msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        raise MalformedError from None
    return msgspec.Raw(value)


UINT_32: Final = Kind(_VARINT, _uint_32, varint)
UINT_64: Final = Kind(_VARINT, int, varint)
INT_32: Final = Kind(_VARINT, _int_32, varint)
INT_64: Final = Kind(_VARINT, _int_64, varint)
BOOL: Final = Kind(_VARINT, bool, varint)
STRING: Final = Kind(_LENGTH, _text, lambda text: delimited(text.encode()))
JSON_BYTES: Final = Kind(_LENGTH, _document, lambda value: delimited(msgspec.json.encode(value)))
"""Bytes for Protobuf, a JSON document for us."""


class MapOf(NamedTuple):
    """What a field holds that is a map from strings to messages; it can only be written."""

    shape: Shape

    def entries(self, values: Mapping[str, Mapping[str, Any]]) -> Iterator[bytes]:
        """Write the entries, which are messages of a key and a value."""
        key, value = varint(key_of(1, STRING)), varint(key_of(2, self.shape))
        for text, held in values.items():
            yield delimited(key + STRING.write(text) + value + delimited(self.shape.write(held)))


class Shape:
    """A message: those of its fields that are known here. Others are ignored.

    Args:
        fields: Number and kind by name.
    """

    __slots__ = ("_by_key", "_by_name")

    def __init__(self, **fields: tuple[int, Kind | Shape | MapOf]) -> None:
        self._by_name = {
            name: (key_of(number, kind), kind) for name, (number, kind) in fields.items()
        }
        self._by_key = {
            key: (name, kind)
            for name, (key, kind) in self._by_name.items()
            if not isinstance(kind, MapOf)
        }

    def read(self, data: bytes, allowance: Allowance) -> dict[str, Any]:
        """Read a message: of a field that comes again the last counts, and messages are merged.

        Raises:
            MalformedError: it is none, or a message in it, or a text is no UTF-8 or no JSON; or
                there are more fields than are allowed.
        """
        found: dict[str, Any] = {}
        parts: dict[str, list[bytes]] = {}
        for name, kind, value in self._known_fields(data, allowance):
            if isinstance(kind, Kind):
                found[name] = kind.read(value)
            else:
                parts.setdefault(name, []).append(value)
                found[name] = kind
        for name, pieces in parts.items():
            found[name] = found[name].read(b"".join(pieces), allowance)
        return found

    def _known_fields(
        self, data: bytes, allowance: Allowance
    ) -> Iterator[tuple[str, Kind | Shape, Any]]:
        """Yield the fields that are known, with what is on the wire."""
        by_key, end, at = self._by_key, len(data), 0
        while at < end:
            allowance.fields -= 1
            # Nearly all keys, lengths and numbers are single bytes: no call is made for these.
            key = data[at]
            at += 1
            if key >= 0x80:
                key, at = read_varint(data, at - 1)
            value: int | bytes
            if key & 7 == _VARINT and at < end and data[at] < 0x80:
                value = data[at]
                at += 1
            elif key & 7 == _LENGTH and at < end and at + data[at] < end and data[at] < 0x80:
                value = data[at + 1 : at + 1 + data[at]]
                at += 1 + data[at]
            else:
                value, at = _read_value(data, at, key & 7)
            field = by_key.get(key)
            if field is not None:
                yield *field, value
            elif not 7 < key < _KEY_MAX:
                raise MalformedError
            if allowance.fields < 0:
                raise MalformedError

    def write(self, values: Mapping[str, Any]) -> bytes:
        """Write a message. Values that are false, zero, empty or `None` are left out, as readers
        take them for granted; but a message is there even if it is empty.

        Raises:
            KeyError: a value is of no field.
        """
        written = bytearray()
        for name, value in values.items():
            key, kind = self._by_name[name]
            if isinstance(kind, Shape):
                written += varint(key) + delimited(kind.write(value))
            elif isinstance(kind, MapOf):
                written += b"".join(varint(key) + entry for entry in kind.entries(value))
            elif value:
                written += varint(key) + kind.write(value)
        return bytes(written)


def key_of(number: int, kind: Kind | Shape | MapOf) -> int:
    """Return what a field begins with."""
    return number << 3 | (kind.wire_type if isinstance(kind, Kind) else _LENGTH)
