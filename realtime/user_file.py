"""The user file: one user a line as CSV, read in one pass and written the same."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

from channels.names import is_zone_id

COLUMNS: Final = ("id", "global_id", "name", "zone_id", "attributes", "version")
REQUIRED: Final = ("global_id", "name")
LINE_MAX_BYTES: Final = 65_536
MAX_GLOBAL_ID: Final = 2**53 - 1
NAME_MAX_CHARACTERS: Final = 200


class UnusableFileError(Exception):
    """A file that isn't one of users at all; one line."""


@dataclass(frozen=True, slots=True)
class UserRow:
    """A user as a line has it.

    Attributes:
        line: Which line, from 1.
        end: Where the next line begins, in bytes.
    """

    line: int
    end: int
    global_id: int
    name: str
    zone_id: str | None
    attributes: dict[str, Any]

    def document(self) -> dict[str, Any]:
        """Return it as the HTTP API takes it."""
        return {
            "global_id": self.global_id,
            "name": self.name,
            "zone_id": self.zone_id,
            "attributes": self.attributes,
        }

    def is_like(self, user: dict[str, Any]) -> bool:
        """Tell whether a user of the service is what this line says."""
        return {key: user[key] for key in self.document()} == self.document()


@dataclass(frozen=True, slots=True)
class RefusedLine:
    """A line from which no user was made, and why."""

    line: int
    end: int
    reason: str


class UserFile:
    """Reads a file of users, one line in memory at a time; it blocks on the disk.

    The first line names the columns, in any order; `id` and `version`, which an export has, say
    nothing to an import. UTF-8, with or without a byte order mark. A field in quotes doesn't go
    on in the next line: a stray quote spoils its own line alone.

    Args:
        path: The file.

    Attributes:
        size_bytes: How long it is.
        columns: What its first line names.

    Raises:
        OSError: it can't be read.
        UnusableFileError: its first line doesn't name the columns.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as file:
            self.size_bytes = os.fstat(file.fileno()).st_size
            head = file.readline(LINE_MAX_BYTES)
            self._begin = file.tell()
        self.columns = _columns(head)

    def rows(self, line: int = 1, offset: int = 0) -> Iterator[UserRow | RefusedLine]:
        """Yield every line that is not empty, from the one after `line`, which ends at `offset`."""
        with self._path.open("rb") as file:
            file.seek(max(offset, self._begin))
            number = max(line, 1)
            while data := file.readline(LINE_MAX_BYTES + 1):
                number += 1
                if len(data) > LINE_MAX_BYTES and not data.endswith(b"\n"):
                    _skip_line(file)
                    reason = f"longer than {LINE_MAX_BYTES} bytes"
                    yield RefusedLine(number, file.tell(), reason)
                elif data.strip():
                    yield self._row(number, file.tell(), data)

    def _row(self, number: int, end: int, data: bytes) -> UserRow | RefusedLine:
        try:
            values = self._values(_fields(data))
            return UserRow(
                number,
                end,
                _global_id(values["global_id"]),
                _name(values["name"]),
                _zone_id(values.get("zone_id", "")),
                _attributes(values.get("attributes", "")),
            )
        except ValueError as error:
            return RefusedLine(number, end, str(error))

    def _values(self, fields: list[str]) -> dict[str, str]:
        if len(fields) != len(self.columns):
            raise ValueError(f"{len(fields)} columns where line 1 names {len(self.columns)}")
        return dict(zip(self.columns, fields, strict=True))


def _skip_line(file: BinaryIO) -> None:
    while data := file.readline(LINE_MAX_BYTES):
        if data.endswith(b"\n"):
            return


def _columns(head: bytes) -> Sequence[str]:
    try:
        columns = [field.lower() for field in _fields(head.removeprefix(b"\xef\xbb\xbf"))]
    except ValueError as error:
        raise UnusableFileError(f"line 1: {error}") from None
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        raise UnusableFileError(
            f"line 1 names no column {' and '.join(missing)}; there may be {', '.join(COLUMNS)}"
        )
    unknown = [name for name in columns if name not in COLUMNS]
    if unknown:
        raise UnusableFileError(f"line 1 names an unknown column: {unknown[0][:40]!r}")
    if len(set(columns)) != len(columns):
        raise UnusableFileError("line 1 names a column twice")
    return columns


def _fields(data: bytes) -> list[str]:
    """Return the fields of a line.

    Raises:
        ValueError: it is no CSV in UTF-8.
    """
    try:
        text = data.decode("utf-8").rstrip("\r\n")
        rows = list(csv.reader([text], strict=True))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8, from byte {error.start + 1} of the line on") from None
    except csv.Error as error:
        raise ValueError(f"not CSV: {error}") from None
    return [field.strip() for field in rows[0]] if rows else []


def _global_id(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:17]) <= MAX_GLOBAL_ID):
        raise ValueError(f"global_id: not an integer from 1 to 2^53 - 1: {text[:40]!r}")
    return int(text)


def _name(text: str) -> str:
    if not text:
        raise ValueError("name: empty")
    if len(text) > NAME_MAX_CHARACTERS:
        raise ValueError(f"name: longer than {NAME_MAX_CHARACTERS} characters")
    return text


def _zone_id(text: str) -> str | None:
    if text and not is_zone_id(text):
        raise ValueError(f"zone_id: no zone can have this id: {text[:40]!r}")
    return text or None


def _attributes(text: str) -> dict[str, Any]:
    if not text:
        return {}
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError:
        raise ValueError(f"attributes: not a JSON object: {text[:40]!r}") from None


def line_of(user: dict[str, Any]) -> list[str]:
    """Return the fields of a user, in the order of `COLUMNS`."""
    attributes = msgspec.json.encode(user["attributes"]).decode() if user["attributes"] else ""
    return [
        str(user["id"]),
        str(user["global_id"]),
        user["name"],
        user["zone_id"] or "",
        attributes,
        str(user["version"]),
    ]
