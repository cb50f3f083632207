"""A collector of traces: OTLP over HTTP, real bytes, read with the protocol's own messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from opentelemetry.proto.trace.v1.trace_pb2 import Status

TIMEOUT_S = 20.0
_OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n"


@dataclass(frozen=True)
class CollectedSpan:
    """A span as a collector gets it; ids in hex, no parent is an empty one.

    Attributes:
        node: The `service.instance.id` of who made it.
    """

    node: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: str
    is_error: bool
    began_ns: int
    ended_ns: int
    attributes: dict[str, Any] = field(hash=False)
    resource: dict[str, Any] = field(hash=False)


Wanted = Callable[[CollectedSpan], bool]


class TraceCollector:
    """Keeps all spans that it is sent.

    Attributes:
        spans: In the order in which they came.
        bodies: The requests' bodies as they came.
        headers: The requests' headers, names in lower case.
    """

    def __init__(self) -> None:
        self.spans: list[CollectedSpan] = []
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self._came = asyncio.Event()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode("latin-1").split("\r\n")
                assert lines[0] == "POST /v1/traces HTTP/1.1", lines[0]
                pairs = (line.split(": ", 1) for line in lines[1:] if line)
                headers = {name.lower(): value for name, value in pairs}
                body = await reader.readexactly(int(headers["content-length"]))
                self.headers.append(headers)
                self._take(body)
                writer.write(_OK)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def _take(self, body: bytes) -> None:
        self.bodies.append(body)
        request = ExportTraceServiceRequest.FromString(body)
        for resource_spans in request.resource_spans:
            resource = {pair.key: _value(pair.value) for pair in resource_spans.resource.attributes}
            for scope_spans in resource_spans.scope_spans:
                self.spans += [_collected(span, resource) for span in scope_spans.spans]
        self._came.set()

    def named(self, name: str) -> list[CollectedSpan]:
        """Return the spans of one name."""
        return [span for span in self.spans if span.name == name]

    async def until(self, is_enough: Callable[[list[CollectedSpan]], object]) -> None:
        """Wait until the spans are enough; bounded."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                while not is_enough(self.spans):
                    self._came.clear()
                    await self._came.wait()
        except TimeoutError:
            found = [(span.node, span.name, span.attributes) for span in self.spans]
            raise AssertionError(f"the collector only got {found}") from None

    async def first(self, wanted: Wanted) -> CollectedSpan:
        """Wait for a span, and return it; bounded."""
        await self.until(lambda spans: any(map(wanted, spans)))
        return next(span for span in self.spans if wanted(span))


def _collected(span: SpanMessage, resource: dict[str, Any]) -> CollectedSpan:
    return CollectedSpan(
        node=resource["service.instance.id"],
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        kind=SpanMessage.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        is_error=span.status.code == Status.STATUS_CODE_ERROR,
        began_ns=span.start_time_unix_nano,
        ended_ns=span.end_time_unix_nano,
        attributes={pair.key: _value(pair.value) for pair in span.attributes},
        resource=resource,
    )


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return getattr(value, kind) if kind else None


@asynccontextmanager
async def collecting() -> AsyncIterator[TraceCollector]:
    """Run a collector on a free port of loopback."""
    collector = TraceCollector()
    server = await asyncio.start_server(collector.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    collector.url = f"http://{host}:{port}"
    try:
        yield collector
    finally:
        server.close()
