"""The user file: what is read of it, what is refused and why, in bounded memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from realtime.user_file import LINE_MAX_BYTES, RefusedLine, UnusableFileError, UserFile, UserRow


def rows_of(path: Path, content: bytes) -> list[UserRow | RefusedLine]:
    """Write a file and read it."""
    path.write_bytes(content)
    return list(UserFile(path).rows())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file is."""
    return tmp_path / "users.csv"


def test_columns_come_in_any_order_and_optional_ones_may_be_missing(path: Path) -> None:
    """With a byte order mark, Windows' line ends, empty lines, and no end of the last line."""
    head = "\ufeffName,GLOBAL_ID,zone_id,attributes\r\n".encode()
    body = b'Ada,1,A,"{""badge"": 7}"\r\n\r\n"Lovelace, Ada",2,,\r\n Eve ,3,B,'
    rows = [row for row in rows_of(path, head + body) if isinstance(row, UserRow)]
    assert [(row.line, row.global_id, row.name, row.zone_id) for row in rows] == [
        (2, 1, "Ada", "A"),
        (4, 2, "Lovelace, Ada", None),
        (5, 3, "Eve", "B"),
    ]
    assert rows[0].attributes == {"badge": 7}
    assert rows[-1].end == path.stat().st_size


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"x,Ada,,", "global_id: not an integer"),
        (b"0,Ada,,", "global_id: not an integer from 1"),
        (b"9007199254740992,Ada,,", "global_id: not an integer from 1 to 2^53 - 1"),
        (b"9" * 5000 + b",Ada,,", "global_id: not an integer"),
        (b"-1,Ada,,", "global_id"),
        ("\u0661,Ada,,".encode(), "global_id"),
        (b"1,,,", "name: empty"),
        (b"1," + b"x" * 201 + b",,", "name: longer than 200"),
        (b"1,Ada,a/b,", "zone_id: no zone can have this id: 'a/b'"),
        (b"1,Ada,,[1]", "attributes: not a JSON object"),
        (b"1,Ada", "2 columns where line 1 names 4"),
        (b"1,Ada,,,,", "6 columns"),
        (b"1,\xff\xfeAda,,", "not UTF-8, from byte 3 of the line on"),
        (b'1,"Ada,,', "not CSV"),
    ],
)
def test_a_line_that_cannot_be_used_spoils_no_other(path: Path, line: bytes, reason: str) -> None:
    """It is told with its number and the reason."""
    head = b"global_id,name,zone_id,attributes\n"
    before, refused, after = rows_of(path, head + b"5,Before,,\n" + line + b"\n6,After,,\n")
    assert isinstance(before, UserRow)
    assert isinstance(after, UserRow)
    assert after.line == 4
    assert isinstance(refused, RefusedLine)
    assert refused.line == 3
    assert reason in refused.reason


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (b"", "line 1 names no column global_id and name"),
        (b"name,zone_id\n1,2\n", "line 1 names no column global_id;"),
        (b"1,Ada,A\n", "line 1 names no column global_id and name"),
        (b"global_id,name,colour\n", "unknown column: 'colour'"),
        (b"global_id,name,name\n", "names a column twice"),
        ("global_id,name\n".encode("utf-16"), "line 1: not UTF-8"),
    ],
)
def test_a_file_without_the_columns_is_not_begun(path: Path, head: bytes, reason: str) -> None:
    """What its first line lacks is said."""
    path.write_bytes(head)
    with pytest.raises(UnusableFileError, match=reason):
        UserFile(path)


def test_reading_goes_on_behind_any_line(path: Path) -> None:
    """With the numbers that lines have in the file."""
    path.write_bytes(b"global_id,name\n1,Ada\nx,\n3,Eve\n")
    file = UserFile(path)
    first = next(iter(file.rows()))
    assert [row.line for row in file.rows(first.line, first.end)] == [3, 4]


def test_a_hundred_thousand_lines_and_an_endless_one_need_little_memory(path: Path) -> None:
    """One line at a time, and of one that is too long only as much as is allowed."""
    with path.open("wb") as file:
        file.write(b"global_id,name,zone_id\n")
        file.writelines(b"%d,Somebody %d,A\n" % (n, n) for n in range(1, 100_001))
        file.write(b"x" * (80 * LINE_MAX_BYTES) + b"\n100001,Last,A\n")
    tracemalloc.start()
    try:
        count, last_line = 0, 0
        for row in UserFile(path).rows():
            count, last_line = count + 1, row.line
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 100_002
    assert last_line == 100_003
    assert peak_bytes < 1_000_000
