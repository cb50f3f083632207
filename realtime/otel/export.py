"""The way of spans to the collector: a bounded queue, a thread, and one line when it fails."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from typing import Any, Final
from urllib.parse import urlsplit

import requests
import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Tracer

from realtime.logs import PacedLog
from realtime.otel_settings import OtelSettings

BATCH_MAX_SPANS: Final = 512
LOG_INTERVAL_S: Final = 10.0
HEADER_VARIABLES: Final = ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS")
# Read at import, as it is from files.
_VERSION: Final = version("zonecast")
_SERVICE_NAME: Final = "service.name"
_UNNAMED: Final = "unknown_service"


class _Session(requests.Session):
    """Remembers how its last request ended: the exporter itself only says that it failed."""

    def __init__(self) -> None:
        super().__init__()
        self.outcome = "not asked"

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        """Send a request, as the base class does."""
        try:
            response = super().request(*args, **kwargs)
        except Exception as error:
            # Not its words: they may quote a header, and headers hold the collector's key.
            self.outcome = type(error).__name__
            raise
        self.outcome = f"HTTP {response.status_code}"
        return response


class LoggedExporter(SpanExporter):
    """Hands spans to a collector; what it doesn't take is dropped and logged, without secrets.

    Called in the thread of the batch processor alone, but for `shutdown`.

    Args:
        settings: Name the collector and the bound of a try.
    """

    def __init__(self, settings: OtelSettings) -> None:
        self._session = _Session()
        self._exporter = OTLPSpanExporter(
            endpoint=f"{settings.otel_endpoint}/v1/traces",
            timeout=settings.otel_export_timeout_s,
            session=self._session,
        )
        self._log = PacedLog(structlog.stdlib.get_logger("zonecast.otel"), LOG_INTERVAL_S)
        self._collector = urlsplit(settings.otel_endpoint).netloc
        self._is_shut = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans, within the bound."""
        result = self._exporter.export(spans)
        if result is not SpanExportResult.SUCCESS:
            self._log.warning(
                "spans not exported",
                collector=self._collector,
                spans=len(spans),
                reason=self._session.outcome,
            )
        return result

    def ask(self) -> str:
        """Send no spans; return why the collector doesn't take them, empty when it does."""
        is_taken = self._exporter.export(()) is SpanExportResult.SUCCESS
        return "" if is_taken else self._session.outcome

    def shutdown(self) -> None:
        """Give up what is under way; nothing is sent afterwards."""
        if not self._is_shut:
            self._is_shut = True
            self._exporter.shutdown()  # type: ignore[no-untyped-call] # the SDK's own

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Do nothing: nothing is kept here."""
        return True


@asynccontextmanager
async def exporting(settings: OtelSettings, node_id: str) -> AsyncIterator[Tracer]:
    """Yield what begins spans; at the end wait, bounded, until those that ended are exported.

    The standard variables of the SDK name the service, its resource, the sampler, and headers
    and certificates for the collector. The process's own provider is left alone.
    """
    # In a thread, as the SDK looks up from the disk what is installed.
    provider, exporter = await asyncio.to_thread(_make_provider, settings, node_id)
    try:
        yield provider.get_tracer("zonecast", _VERSION)
    finally:
        await _flush(provider, exporter, settings.otel_flush_timeout_s)


def check_environment(settings: OtelSettings) -> None:
    """Find out whether the SDK can read its variables.

    Raises:
        ValueError: it can't.
    """
    provider, _ = _make_provider(settings, "")
    provider.shutdown()


def ask_collector(settings: OtelSettings) -> str:
    """Ask the collector as a node would; return why it would take no spans, empty when it would.

    Blocks, for as long as a try may take.
    """
    _keep_headers_out_of_logs()
    exporter = LoggedExporter(settings)
    try:
        return exporter.ask()
    finally:
        exporter.shutdown()


def _make_provider(settings: OtelSettings, node_id: str) -> tuple[TracerProvider, LoggedExporter]:
    _keep_headers_out_of_logs()
    exporter = LoggedExporter(settings)
    provider = TracerProvider(resource=_resource_of(node_id), shutdown_on_exit=False)
    queue_max_spans = settings.otel_queue_max_spans
    provider.add_span_processor(
        BatchSpanProcessor(
            exporter,
            max_queue_size=queue_max_spans,
            max_export_batch_size=min(BATCH_MAX_SPANS, queue_max_spans),
        )
    )
    return provider, exporter


def _keep_headers_out_of_logs() -> None:
    """Say in our own words what the SDK would say with the headers that hold keys."""
    for name in ("opentelemetry.exporter", "opentelemetry.util.re"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    log = structlog.stdlib.get_logger("zonecast.otel")
    for variable in HEADER_VARIABLES:
        given = os.environ.get(variable, "").split(",")
        if any(item.strip() and "=" not in item for item in given):
            log.warning("a header for the collector is not NAME=VALUE", variable=variable)


def _resource_of(node_id: str) -> Resource:
    resource = Resource.create({SERVICE_INSTANCE_ID: node_id, SERVICE_VERSION: _VERSION})
    # `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` are in it by now.
    if str(resource.attributes.get(_SERVICE_NAME, _UNNAMED)).startswith(_UNNAMED):
        resource = resource.merge(Resource({_SERVICE_NAME: "zonecast"}))
    return resource


async def _flush(provider: TracerProvider, exporter: LoggedExporter, timeout_s: float) -> None:
    """Export what is left; what the collector has not taken in time is given up."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def shut_down() -> None:
        provider.shutdown()
        with suppress(RuntimeError):  # The loop is closed: nobody waits any more.
            loop.call_soon_threadsafe(done.set)

    # A thread of its own that nobody joins: the loop's executor would be waited for at the end.
    threading.Thread(target=shut_down, name="zonecast-otel-flush", daemon=True).start()
    try:
        async with asyncio.timeout(timeout_s):
            await done.wait()
    except TimeoutError:
        log = structlog.stdlib.get_logger("zonecast.otel")
        log.warning("spans given up: the collector did not take them in time")
    finally:
        exporter.shutdown()
