"""What clients choose never begins a line of the log, paints a terminal, or passes for a field."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import AsyncIterator, Iterator
from urllib.parse import quote

import httpx
import pytest
import structlog

from realtime.logs import configure_logging
from tests.hostile.test_requests import NAMES
from tests.realtime.conftest import LiveNode, serving, settings_of_test
from tests.realtime.raw_socket import raw_socket

FORGED = (
    'x\r\n{"event":"forged","level":"error"}\n'
    "2026-01-01 [error] forged \x1b[31mred\x1b[0m\x07\u2028\u202e"
)


@pytest.fixture
def log(log_format: str) -> Iterator[io.StringIO]:
    """Where the lines of this process go, written as a served node writes them."""
    root, config = logging.getLogger(), structlog.get_config()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logging("debug", log_format, stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**config)


@pytest.fixture
async def node(sqlite_url: str, log: io.StringIO) -> AsyncIterator[LiveNode]:
    """A node that believes what proxies on loopback say."""
    assert not log.getvalue()
    settings = settings_of_test(database_url=sqlite_url, trusted_proxies="127.0.0.1")
    async with serving(settings) as live:
        yield live


def assert_clean(text: str, log_format: str) -> None:
    """Check that every line is one of the node's own, and nothing in it is for a terminal."""
    assert text
    for line in text.rstrip("\n").split("\n"):
        assert line.isprintable(), ascii(line)
        if log_format == "json":
            assert json.loads(line)["event"] != "forged"
        else:
            assert line.startswith("20"), line
            assert "forged" not in line[:60], line


@pytest.mark.parametrize("log_format", ["json", "console"])
async def test_what_clients_send_stays_inside_its_field(
    node: LiveNode, log: io.StringIO, log_format: str
) -> None:
    """Paths, ids, User-Agent, proxy headers, client names, channels, commands and close reasons."""
    structlog.stdlib.get_logger("zonecast.http").warning("request dropped", path=FORGED)
    logging.getLogger("uvicorn.error").warning("said %s", FORGED)
    async with httpx.AsyncClient(base_url=node.url, trust_env=False) as client:
        for name in [*NAMES, FORGED]:
            await client.get(f"/zones/{quote(name, safe='')}")
            await client.get("/sse", params={"zone": name, "since": name})
            await client.post("/users", json={"global_id": 1, "name": name, "zone_id": name})
        painted = {"User-Agent": "x\x1b[31m", "X-Forwarded-For": "\x1b[31m1, x y"}
        await client.get("/zones", headers=painted)
    port = int(node.url.rpartition(":")[2])
    for command in (
        {"id": 1, "connect": {"name": FORGED, "version": FORGED, "token": FORGED}},
        {"id": 1, "connect": {}, FORGED: {}},
        {"id": FORGED, "connect": {}},
        {"id": 1, "subscribe": {"channel": FORGED}},
    ):
        async with raw_socket(port) as raw:
            await raw.shake_hands(headers="X-Forwarded-For: \x1b[31mred\r\n")
            raw.write(json.dumps(command))
            raw.write(json.dumps({"id": 2, "subscribe": {"channel": FORGED}}))
            raw.write(json.dumps({"id": 3, FORGED: {}}))
            raw.writer.write(b"\x88\x85\0\0\0\0\x03\xe8\x1b[m")
            await raw.read_to_end()
    assert_clean(log.getvalue(), log_format)


@pytest.mark.parametrize("log_format", ["console"])
def test_a_traceback_s_lines_are_not_for_a_terminal_either(
    log: io.StringIO, log_format: str
) -> None:
    """It has several lines, and none of them paints."""
    assert log_format == "console"
    try:
        raise ValueError(FORGED)  # noqa: TRY301 - as a handler would
    except ValueError:
        structlog.stdlib.get_logger("zonecast.http").exception("request failed")
    assert "Traceback" in log.getvalue()
    assert all(line.isprintable() for line in log.getvalue().rstrip("\n").split("\n"))
