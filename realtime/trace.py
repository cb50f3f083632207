"""A trace: recorded moves of people, read line by line from a CSV `time,badge,zone_id`."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final

from channels.names import is_zone_id

HEADER: Final = ["time", "badge", "zone_id"]
LINE_MAX_BYTES: Final = 4_096
BADGE_MAX_CHARACTERS: Final = 200


@dataclass(frozen=True, slots=True)
class Reading:
    """A badge was read in a zone.

    Attributes:
        line: The number of its line, from 1.
        time_s: When, Unix seconds; a time without a zone counts as UTC.
        badge: Whose.
        zone_id: Where.
    """

    line: int
    time_s: float
    badge: str
    zone_id: str


@dataclass(frozen=True, slots=True)
class MalformedLine:
    """A line that is no reading."""

    line: int
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"


class Trace:
    """Reads a file from beginning to end, one line in memory at a time.

    Args:
        path: The file; UTF-8, with or without the header line and a byte order mark.

    Attributes:
        size_bytes: How long the file is.
        read_bytes: How far reading has come.

    Raises:
        OSError: the file can't be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # Opened once for nothing: a folder, or a file of somebody else's, fails here already.
        with path.open("rb") as file:
            self.size_bytes = os.fstat(file.fileno()).st_size
        self.read_bytes = 0

    def __iter__(self) -> Iterator[Reading | MalformedLine]:
        """Yield each line that is not empty, in the order of the file; it blocks on the disk."""
        with self._path.open("rb") as file:
            number = 0
            while line := file.readline(LINE_MAX_BYTES + 1):
                number += 1
                self.read_bytes += len(line)
                if len(line) > LINE_MAX_BYTES and not line.endswith(b"\n"):
                    self._skip_line(file)
                    yield MalformedLine(number, f"longer than {LINE_MAX_BYTES} bytes")
                    continue
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                item = read_line(number, line)
                if item is not None:
                    yield item

    def _skip_line(self, file: BinaryIO) -> None:
        while line := file.readline(LINE_MAX_BYTES):
            self.read_bytes += len(line)
            if line.endswith(b"\n"):
                return


def read_line(number: int, line: bytes) -> Reading | MalformedLine | None:
    """Read one line; `None`: it is empty, or the header in line 1."""
    try:
        text = line.decode("utf-8").strip()
    except UnicodeDecodeError:
        return MalformedLine(number, "not UTF-8")
    if not text:
        return None
    try:
        # Line by line: a stray quote must not swallow the lines after it.
        fields = [field.strip() for field in next(csv.reader([text], strict=True))]
    except csv.Error as error:
        return MalformedLine(number, f"not CSV: {error}")
    if number == 1 and [field.lower() for field in fields] == HEADER:
        return None
    if len(fields) != len(HEADER):
        return MalformedLine(number, f"{len(fields)} columns, not time,badge,zone_id")
    return _read_fields(number, *fields)


def _read_fields(number: int, time: str, badge: str, zone_id: str) -> Reading | MalformedLine:
    try:
        moment = datetime.fromisoformat(time)
    except ValueError:
        return MalformedLine(number, f"not a time like 2016-05-31 00:05:00: {time[:40]!r}")
    if not badge or len(badge) > BADGE_MAX_CHARACTERS or not badge.isprintable():
        return MalformedLine(number, f"not a badge: {badge[:40]!r}")
    if not is_zone_id(zone_id):
        return MalformedLine(number, f"not a zone id: {zone_id[:40]!r}")
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return Reading(number, moment.timestamp(), badge, zone_id)
