"""The way of traces out of a node: off by default, and never in the way of the service."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from channels.changes import Change
from channels.positions import Position
from realtime.otel.export import exporting
from realtime.otel.spans import Spans
from tests.nodes import NodeProcess
from tests.processes import free_port
from tests.realtime.command_line import PROGRAM, environment
from tests.realtime.conftest import serving
from tests.realtime.trace_collector import collecting

if TYPE_CHECKING:
    from realtime.settings import Settings

LIFE = """
import asyncio, sys
from realtime.app import build_app, running_node
from realtime.settings import load_settings

async def live():
    settings = load_settings(log_level="error")
    build_app(settings)
    async with running_node(settings):
        pass

asyncio.run(live())
heavy = ("opentelemetry.sdk.trace", "opentelemetry.exporter", "realtime.otel")
print(*{name for name in sys.modules if name in heavy})
"""


def loaded_in_a_life(**settings: str) -> set[str]:
    """Run a node for a moment, and return what of traces it has imported."""
    done = subprocess.run(
        [sys.executable, "-c", LIFE],
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return set(done.stdout.splitlines()[-1].split())


def test_a_node_without_a_collector_imports_nothing_for_it(sqlite_url: str, nowhere: str) -> None:
    """Traces cost a node nothing until they are asked for; redis-py takes the SDK's metrics."""
    assert loaded_in_a_life(database_url=sqlite_url) == set()
    collector = f"http://{nowhere}"
    assert loaded_in_a_life(database_url=sqlite_url, otel_endpoint=collector) == {
        "opentelemetry.sdk.trace",
        "opentelemetry.exporter",
        "realtime.otel",
    }


@pytest.mark.parametrize("lacking", ["opentelemetry.sdk", "opentelemetry.exporter.otlp"])
def test_a_collector_without_the_extra_is_refused_in_one_line(lacking: str) -> None:
    """Who forgot it is told before anything is served, and how to get it."""
    program = (
        f"import sys; sys.modules[{lacking!r}] = None; from realtime.command import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "serve"],
        env=environment(otel_endpoint="http://127.0.0.1:4318"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    (line,) = done.stderr.splitlines()
    assert "ZONECAST_OTEL_ENDPOINT: needs the extra otel: pip install 'zonecast[otel]'" in line


def test_a_variable_of_the_sdk_that_cannot_be_used_is_told_in_one_line(nowhere: str) -> None:
    """No traceback of a library that nobody has chosen by name."""
    done = subprocess.run(
        [*PROGRAM, "serve"],
        env={**environment(otel_endpoint=f"http://{nowhere}"), "OTEL_BSP_SCHEDULE_DELAY": "0"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    (line,) = done.stderr.splitlines()
    assert "a variable OTEL_... can't be used: " in line


@asynccontextmanager
async def silence() -> AsyncIterator[str]:
    """Listen, take whatever comes, and never answer."""
    held: list[asyncio.StreamWriter] = []

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)
        while await reader.read(65_536):
            pass

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in held:
            writer.close()


async def until_logged(node: NodeProcess, words: str) -> None:
    """Wait until a node's log has some words; bounded."""
    async with asyncio.timeout(20):
        # A file has no events.
        while words not in node.log_tail(100_000):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def write(node: NodeProcess) -> None:
    """Make a zone, which is told to the collector."""
    async with httpx.AsyncClient(base_url=node.url) as http:
        answer = await http.post("/zones", json={"zone_id": "A", "name": "A"})
        assert answer.status_code == 201, answer.text


@pytest.fixture
def nowhere() -> str:
    """An address at which nobody listens."""
    return f"127.0.0.1:{free_port()}"


@pytest.fixture
def node_of_nobody(tmp_path: Path, empty_sqlite_url: str, nowhere: str) -> NodeProcess:
    """A node whose collector is down."""
    settings = {
        "database_url": empty_sqlite_url,
        "otel_endpoint": f"http://{nowhere}",
        "otel_export_timeout_s": 0.3,
    }
    return NodeProcess(tmp_path, settings)


@pytest.mark.parametrize("key", ["hush-hush", "hush-hush%0Ax"])
async def test_a_collector_that_is_down_costs_a_line_and_no_more(
    node_of_nobody: NodeProcess, nowhere: str, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """The service works on; the line tells why, without the key that headers hold."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"api-key={key}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    node = node_of_nobody
    await node.start()
    try:
        await write(node)
        await until_logged(node, "spans not exported")
        assert (await node.get("/zones/A")).startswith("HTTP/1.1 200")
    finally:
        await node.stop()  # Looks for the key in the log, too.
    assert await node.wait_exit() == -signal.SIGTERM
    lines = [line for line in node.log_tail(100_000).splitlines() if "not exported" in line]
    assert nowhere in lines[0]
    assert ("InvalidHeader" if "%" in key else "ConnectionError") in lines[0]


@pytest.fixture
async def node_of_silence(tmp_path: Path, empty_sqlite_url: str) -> AsyncIterator[NodeProcess]:
    """A node whose collector takes everything and never answers."""
    async with silence() as url:
        settings = {
            "database_url": empty_sqlite_url,
            "otel_endpoint": url,
            "otel_export_timeout_s": 60,
            "otel_flush_timeout_s": 0.5,
        }
        node = NodeProcess(tmp_path, settings)
        await node.start()
        yield node
        await node.stop()


async def test_a_collector_that_is_silent_does_not_hold_up_the_end(
    node_of_silence: NodeProcess,
) -> None:
    """A node that stops waits for it no longer than its bound, whatever the bound of a try."""
    node = node_of_silence
    await write(node)
    began_s = time.monotonic()
    await node.stop()
    took_s = time.monotonic() - began_s
    assert await node.wait_exit() == -signal.SIGTERM
    assert "spans given up" in node.log_tail(100_000)
    assert took_s < 8  # `stop` would kill it after 15.


async def test_what_is_left_is_exported_when_a_node_stops(
    sqlite_url: str, make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK's variables count: its names, and headers for the collector."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "building")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=hush-hush")
    async with collecting() as collector:
        settings = make_settings(database_url=sqlite_url, otel_endpoint=collector.url + "/")
        async with serving(settings) as live, httpx.AsyncClient(base_url=live.url) as http:
            assert (await http.get("/zones")).status_code == 200
            assert not collector.spans
        (span,) = collector.spans
        assert (span.name, span.resource["service.name"]) == ("GET /zones", "building")
        assert collector.headers[0]["api-key"] == "hush-hush"


async def test_the_sampler_of_the_environment_counts(
    sqlite_url: str, make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most services record a part of their traces, and all that their callers do."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    async with collecting() as collector:
        settings = make_settings(database_url=sqlite_url, otel_endpoint=collector.url)
        async with serving(settings) as live, httpx.AsyncClient(base_url=live.url) as http:
            for number, path in enumerate(("/zones", "/users", "/zones/A")):
                headers = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"} if number == 1 else {}
                await http.get(path, headers=headers)
        assert [span.name for span in collector.spans] == ["GET /users"]


async def test_spans_that_the_queue_has_no_room_for_are_dropped_with_a_line(
    make_settings: Callable[..., Settings], caplog: pytest.LogCaptureFixture
) -> None:
    """Memory is bounded, and ending a span waits for nobody."""
    async with silence() as url:
        settings = make_settings(
            otel_endpoint=url, otel_queue_max_spans=4, otel_flush_timeout_s=0.1
        )
        async with exporting(settings, "node") as tracer:
            for _ in range(1_000):
                tracer.start_span("one of many").end()
    assert "Queue full, dropping Span." in caplog.text


async def test_a_header_that_cannot_be_read_is_told_without_its_text(
    make_settings: Callable[..., Settings],
    nowhere: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Who forgets the name of a header has written down a key."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "hush-hush")
    async with exporting(make_settings(otel_endpoint=f"http://{nowhere}"), "node"):
        pass
    printed = caplog.text + "".join(capsys.readouterr())
    assert "OTEL_EXPORTER_OTLP_HEADERS" in printed
    assert "hush-hush" not in printed


async def test_a_pass_of_many_changes_tells_of_the_first_ones(
    make_settings: Callable[..., Settings],
) -> None:
    """Spans of a thousand changes would hold up the loop; each says how many there were."""
    changes = [
        Change.of_json("zone:A", Position("0a", rev), f"tx{rev}", 5, b"[]") for rev in (1, 2, 3)
    ]
    async with collecting() as collector:
        async with exporting(make_settings(otel_endpoint=collector.url), "node") as tracer:
            spans = Spans(tracer, pass_max_spans=2)
            spans.fanned_out(changes, 0.25, lambda _channel: 7, 7)
        told = [span.attributes for span in collector.spans]
    assert [(a["zonecast.rev"], a["zonecast.pass_changes"]) for a in told] == [(1, 3), (2, 3)]
    span = collector.spans[0]
    assert span.ended_ns - span.began_ns == 250_000_000
