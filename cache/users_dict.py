"""The users dict as bytes: what is cached of it, and which of two copies is older."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final

import msgspec

from cache.envelope import UNREADABLE

UsersDict = Mapping[str, Any]
"""By global id in decimal: what `GET /users-dict` answers with."""

_MAX_HEADER_BYTES: Final = 512


@dataclass(frozen=True, slots=True)
class Stamp:
    """Of which state of the database a dict is: compared as a whole, every second.

    Attributes:
        identity: The history that the numbers belong to; others can't be compared with it.
        heads: How many channels there are.
        revs: The sum of their revisions; rises with every commit.
    """

    identity: str
    heads: int
    revs: int

    def is_older_than(self, other: Stamp) -> bool:
        """Tell whether this is an earlier state of the same history."""
        return self.identity == other.identity and self.revs < other.revs


@dataclass(frozen=True, slots=True)
class CachedBytes:
    """The encoded users dict.

    Attributes:
        body: The JSON object.
        etag: A hash of the body, hex, without quotes: the same on all nodes.
        stamp: The state that it is of; `None` when whoever cached it didn't know.
        entries: How many users it holds.
    """

    body: bytes = field(repr=False)
    etag: str
    stamp: Stamp | None
    entries: int

    @classmethod
    def of_dict(cls, users: UsersDict, stamp: Stamp | None) -> CachedBytes:
        """Encode a dict; some milliseconds for 10,000 users."""
        body = msgspec.json.encode(users)
        return cls(body, _etag_of(body), stamp, len(users))

    def to_dict(self) -> dict[str, Any]:
        """Decode the dict."""
        return msgspec.json.decode(self.body, type=dict[str, Any])


class MalformedValueError(ValueError):
    """Bytes in Redis that are no users dict of ours."""


_VERSION: Final = 1
"""Raised when older nodes must not read the value; they then ask the database."""


class _Header(msgspec.Struct):
    etag: str
    entries: int
    stamp: Stamp | None
    v: int = _VERSION


_HEADER_DECODER = msgspec.json.Decoder(_Header)


def encode_value(copy: CachedBytes) -> bytes:
    """Write a copy as Redis keeps it: a line that describes it, and the body as it is."""
    header = _Header(copy.etag, copy.entries, copy.stamp)
    return msgspec.json.encode(header) + b"\n" + copy.body


def decode_value(value: bytes) -> CachedBytes:
    """Read what `encode_value` wrote.

    Raises:
        MalformedValueError: it is anything else, or the body is not the one described.
    """
    line, _, body = value.partition(b"\n")
    header = _decode_header(line)
    if _etag_of(body) != header.etag:
        raise MalformedValueError("the body is not the one described")
    return CachedBytes(body, header.etag, header.stamp, header.entries)


def decode_stamp(value: bytes) -> Stamp | None:
    """Read the stamp of a value from its beginning, `HEADER_RANGE`.

    Raises:
        MalformedValueError: it is no value of ours.
    """
    return _decode_header(value.partition(b"\n")[0]).stamp


HEADER_RANGE: Final = (0, _MAX_HEADER_BYTES - 1)
"""The bytes of a value that hold its description, first and last."""


class NearCopy:
    """The newest users dict that a node knows, and whether it is still current.

    What was adopted is kept even when it is out of date: nothing older is served after it.
    """

    def __init__(self) -> None:
        self.newest: CachedBytes | None = None
        self.adopted_s = 0.0
        self._generation = -1
        self._identity_load = 0

    def current(self, generation: int, now_s: float, ttl_s: float) -> CachedBytes | None:
        """Return the copy when nothing was invalidated since it was read."""
        if self._generation != generation or now_s - self.adopted_s >= ttl_s:
            return None
        return self.newest

    def is_outdated(self, copy: CachedBytes, load: int) -> bool:
        """Tell whether a copy may be older than the one that was adopted.

        Args:
            copy: What was read.
            load: The number of the load that read it; 0 when it comes from Redis.
        """
        if self.newest is None or self.newest.stamp is None:
            return False
        if copy.stamp is None:
            return True
        if copy.stamp.identity == self.newest.stamp.identity:
            return copy.stamp.is_older_than(self.newest.stamp)
        # Of two histories only the order of reading tells which is the present one.
        return load <= self._identity_load

    def adopt(
        self, copy: CachedBytes, *, generation: int, load: int, loads_begun: int, now_s: float
    ) -> bool:
        """Take a copy, unless it is outdated; returns whether it was taken.

        Args:
            copy: What was read.
            generation: The invalidations known when reading it began.
            load: The number of the load that read it; 0 when it comes from Redis.
            loads_begun: The number of the load that began last.
            now_s: The time on a monotonic clock.
        """
        if self.is_outdated(copy, load):
            return False
        known = self.newest.stamp if self.newest is not None else None
        if copy.stamp is not None and (known is None or copy.stamp.identity != known.identity):
            self._identity_load = loads_begun
        self.newest = copy
        self.adopted_s = now_s
        self._generation = generation
        return True


def _decode_header(line: bytes) -> _Header:
    try:
        header = _HEADER_DECODER.decode(line)
    except UNREADABLE:
        raise MalformedValueError("the first line is no description") from None
    if header.v > _VERSION:
        raise MalformedValueError("of a newer release")
    return header


def _etag_of(body: bytes) -> str:
    return blake2b(body, digest_size=16).hexdigest()
