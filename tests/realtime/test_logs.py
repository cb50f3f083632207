"""Logs are one JSON object a line, ours and the libraries', and hold no secret."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from realtime.logs import MASK, PacedLog, configure_logging, mask_text


class Written:
    """What was logged."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The JSON objects."""
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]


@pytest.fixture
def written() -> Iterator[Written]:
    """Logging configured as JSON into memory, and put back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    found = Written()
    configure_logging("info", "json", found.stream)
    yield found
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_an_event_is_one_json_object_with_its_fields(written: Written) -> None:
    """Level, logger, time and every field are members."""
    structlog.stdlib.get_logger("zonecast.http").info("write", action="transfer", channels=2)
    [line] = written.lines
    assert line["event"] == "write"
    assert line["level"] == "info"
    assert line["logger"] == "zonecast.http"
    assert (line["action"], line["channels"]) == ("transfer", 2)
    assert line["timestamp"].endswith("Z")


def test_a_library_line_takes_the_same_way(written: Written) -> None:
    """What the standard library's loggers say becomes JSON, too, with its extra fields."""
    logging.getLogger("uvicorn.error").warning("late by %s", 3, extra={"revision": "ab"})
    [line] = written.lines
    assert (line["event"], line["level"], line["revision"]) == ("late by 3", "warning", "ab")


def test_lines_below_the_level_are_not_written(written: Written) -> None:
    """Debug lines need level debug."""
    structlog.stdlib.get_logger("zonecast.http").debug("detail")
    assert written.lines == []


def test_what_the_object_mapper_does_is_told_at_debug_only(written: Written) -> None:
    """It says hundreds of lines at the first query, all of them at level info."""
    for name in ("sqlalchemy.orm.mapper.Mapper", "sqlalchemy.engine.Engine", "alembic.runtime"):
        logging.getLogger(name).info("configured")
    assert written.lines == []


@pytest.mark.parametrize(
    "line",
    [
        '127.0.0.1:5 - "GET /zones?token=abc123 HTTP/1.1" 200',
        '127.0.0.1:5 - "WebSocket /ws?token=abc123" [accepted]',
    ],
)
def test_the_server_lines_have_no_query(written: Written, line: str) -> None:
    """A query may hold a token, so access lines end at the path."""
    logging.getLogger("uvicorn.access").info("%s", line)
    [found] = written.lines
    assert "abc123" not in found["event"]
    assert "?" not in found["event"]
    assert found["event"].endswith(("200", "[accepted]"))


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("postgresql+asyncpg://ada:hunter2@db/zonecast", "db/zonecast"),
        ("redis://:hunter2@cache:6379/0", "cache:6379/0"),
        ("GET /ws?token=hunter2&zone=A", "zone=A"),
        ("Authorization: Bearer hunter2hunter2", "Authorization"),
        ('{"token": "hunter2", "zone": "A"}', '"zone": "A"'),
        ("password=hunter2 host=db", "host=db"),
        ("got eyJhbGciOiJIUzI1.hunter2x.c2lnbmF0dXJl from A", "from A"),
    ],
)
def test_secrets_in_text_are_masked(text: str, kept: str) -> None:
    """Passwords of URLs, token parameters, authorization and JWTs disappear, the rest stays."""
    masked = mask_text(text)
    assert "hunter2" not in masked
    assert MASK in masked
    assert kept in masked


@pytest.mark.parametrize(
    "field",
    [
        {"url": "redis://:hunter2@cache:6379/0"},
        {"header": "Basic hunter2hunter2"},
        {"header": "bearer hunter2hunter2"},
        {"query": ["zone=A", "Token=hunter2"]},
        {"query": "TICKET=hunter2"},
        {"dsn": "passwd=hunter2"},
        {"text": "api-key: 1, apikey: hunter2"},
        {"text": "\u017fecret=hunter2"},
        {"jwt": "eyJhbGciOiJIUzI1.hunter2x.c2lnbmF0dXJl"},
        {"headers": {"Authorization": "hunter2"}},
        {"headers": {"set-cookie": "hunter2"}},
        {"error": OSError("postgresql://u:hunter2@db")},
    ],
)
def test_no_line_of_ours_has_a_secret(written: Written, field: dict[str, Any]) -> None:
    """Whatever kind it is, and wherever it stands; not only where another one is, too."""
    structlog.stdlib.get_logger("zonecast.http").info("seen", **field)
    assert len(written.lines) == 1
    assert "hunter2" not in written.stream.getvalue()


@pytest.mark.parametrize(
    "text", ["GET /zones/F1-Z1", "tokens are 3", "http://a.example/b@c", "zone:A=ab12:7"]
)
def test_harmless_text_stays_as_it_is(text: str) -> None:
    """What holds no secret is not mangled."""
    assert mask_text(text) == text


def test_secrets_in_fields_and_tracebacks_are_masked(written: Written) -> None:
    """Members named like secrets, nested values, objects and tracebacks are masked as well."""
    log = structlog.stdlib.get_logger("zonecast.http")
    try:
        int("redis://:hunter2@cache")
    except ValueError as error:
        log.exception(
            "failed",
            headers={"Authorization": "hunter2", "Host": "a"},
            urls=["redis://u:hunter2@cache"],
            error=error,
            access_token="hunter2",  # noqa: S106 -- made up.
        )
    assert "hunter2" not in written.stream.getvalue()
    [line] = written.lines
    assert line["headers"]["Host"] == "a"
    assert "ValueError" in line["exception"]


def test_console_lines_are_for_people() -> None:
    """The console format is no JSON and has no colours outside of a terminal."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logging("info", "auto", _Terminal(stream))
    try:
        structlog.stdlib.get_logger("zonecast").info("started", port=8000)
    finally:
        structlog.reset_defaults()
        root.handlers[:] = handlers
        root.setLevel(level)
    line = stream.getvalue()
    assert "started" in line
    assert "8000" in line
    with pytest.raises(json.JSONDecodeError):
        json.loads(line)


class _Terminal(io.StringIO):
    """A stream that says it is a terminal and writes elsewhere."""

    def __init__(self, target: io.StringIO) -> None:
        super().__init__()
        self._target = target

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        return self._target.write(text)


def test_what_happens_all_the_time_is_written_once_an_interval(written: Written) -> None:
    """A paced log writes the first of many and counts the others in the next line."""
    slow = PacedLog(structlog.stdlib.get_logger("zonecast.sync"), 3_600)
    for _ in range(5):
        slow.warning("publish failed", reason="down")
    slow.info("repaired", channel="zone:A")
    assert [line["event"] for line in written.lines] == ["publish failed", "repaired"]

    quick = PacedLog(structlog.stdlib.get_logger("zonecast.sync"), 0)
    quick.warning("publish failed", reason="down")
    assert "suppressed" not in written.lines[-1]


def test_a_paced_log_counts_what_it_left_out(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line after the interval says how many were not written."""
    now_s = [100.0]
    monkeypatch.setattr("realtime.logs.time.monotonic", lambda: now_s[0])
    log = PacedLog(structlog.stdlib.get_logger("zonecast.sync"), 1)
    for _ in range(4):
        log.warning("failed")
    now_s[0] += 1
    log.warning("failed")
    assert [line.get("suppressed") for line in written.lines] == [None, 3]
