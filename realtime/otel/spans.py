"""Spans: what a node tells of a change on its way, and how its steps are tied together.

A change carries the step that it came from, as `traceparent` of W3C writes it, to the next one,
over the bus, too. No span has an id of a user, a path, a query or a token in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Final

from opentelemetry.context import Context
from opentelemetry.trace import (
    Span,
    SpanKind,
    StatusCode,
    Tracer,
    get_current_span,
    use_span,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from channels.changes import Change, Transaction
from channels.ports import BusMessage

TRACE_MAX_LENGTH: Final = 128
"""Longer ones are no `traceparent` that anybody writes today."""
CHANNELS_MAX: Final = 32
"""So many channels of a transaction are named in a span; how many there are is always told."""

ANNOUNCED_MAX_CHANGES: Final = 1_024
"""Changes that came without their events, and are still to be read from the log; beyond, the
oldest lose their trace."""

_KEY: Final = "traceparent"
_trying: Final[ContextVar[Span | None]] = ContextVar("zonecast.try", default=None)
_propagator: Final = TraceContextTextMapPropagator()
_ROOT: Final = Context()


def context_of(trace: str) -> Context:
    """Return the context whose current span is the one that a `traceparent` names.

    Empty, and so one of no trace, when it names none.
    """
    # Never the present context: callbacks of the loop run in that of whoever asked for them.
    if not trace or len(trace) > TRACE_MAX_LENGTH:
        return _ROOT
    return _propagator.extract({_KEY: trace}, _ROOT)


def trace_of(span: Span) -> str:
    """Return the `traceparent` that names a span; empty when there is none."""
    at = span.get_span_context()
    if not at.is_valid:
        return ""
    return f"00-{at.trace_id:032x}-{at.span_id:016x}-{at.trace_flags & 1:02x}"


def is_dropped(context: Context) -> bool:
    """Tell whether a context is of a trace that its beginning chose not to record."""
    at = get_current_span(context).get_span_context()
    return at.is_valid and not at.trace_flags.sampled


class Spans:
    """The spans of one node. No method awaits or raises.

    Args:
        tracer: Begins spans.
        pass_max_spans: So many changes of one pass are told of; beginning with the oldest.
    """

    def __init__(self, tracer: Tracer, *, pass_max_spans: int) -> None:
        self._tracer = tracer
        self._pass_max_spans = pass_max_spans
        self._announced: dict[tuple[str, int], str] = {}

    @contextmanager
    def request(self, method: str, trace: str) -> Iterator[Span]:
        """Make what is done inside part of a request, whose sender may trace it, too."""
        span = self._tracer.start_span(
            method,
            context=context_of(trace),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": method},
        )
        with _inside(span):
            yield span

    @contextmanager
    def transaction(self, number: int) -> Iterator[None]:
        """Make what is done inside one try of a transaction, the `number`th."""
        span = self._tracer.start_span("transaction", attributes={"zonecast.try": number})
        trying = _trying.set(span)
        try:
            with _inside(span):
                yield
        finally:
            _trying.reset(trying)

    def committed(self, transaction: Transaction) -> Transaction:
        """Tell what the present try has committed; return it with its trace."""
        span = _trying.get()
        if span is not None:
            span.set_attributes(
                {
                    "zonecast.tx": transaction.tx,
                    "zonecast.channel_count": len(transaction.changes),
                    "zonecast.channels": [
                        change.channel for change in transaction.changes[:CHANNELS_MAX]
                    ],
                }
            )
        # Without a try it is somebody's own session, in whatever trace they began.
        return with_trace(transaction, trace_of(span or get_current_span()))

    @contextmanager
    def publishing(self, transactions: Sequence[Transaction]) -> Iterator[list[Transaction]]:
        """Make what is done inside the publication of transactions; yield them with its trace."""
        spans: list[Span] = []
        traced = []
        for transaction in transactions:
            # All changes of a transaction come from one step.
            context = context_of(next((change.trace for change in transaction.changes), ""))
            if is_dropped(context):
                traced.append(transaction)
                continue
            span = self._tracer.start_span(
                "publish",
                context=context,
                kind=SpanKind.PRODUCER,
                attributes={
                    "zonecast.tx": transaction.tx,
                    "zonecast.channel_count": len(transaction.changes),
                    "zonecast.batch_transactions": len(transactions),
                },
            )
            spans.append(span)
            traced.append(with_trace(transaction, trace_of(span)))
        try:
            yield traced
        except BaseException as error:
            for span in spans:
                _note_failure(span, error)
            raise
        finally:
            for span in spans:
                span.end()

    @contextmanager
    def receiving(self, message: BusMessage) -> Iterator[BusMessage]:
        """Make what is done inside the receipt of a change; yield it with its trace."""
        context = context_of(message.trace)
        if is_dropped(context):
            yield message
            return
        span = self._tracer.start_span(
            "receive",
            context=context,
            kind=SpanKind.CONSUMER,
            attributes={
                "zonecast.tx": message.tx,
                "zonecast.channel": message.channel,
                "zonecast.rev": message.position.rev,
            },
        )
        trace = trace_of(span)
        if message.events is None:
            self._announce((message.channel, message.position.rev), trace)
        with _inside(span):
            yield replace(message, trace=trace)

    def _announce(self, place: tuple[str, int], trace: str) -> None:
        # Too large for the bus: what is then read from the log has no trace of its own.
        self._announced[place] = trace
        if len(self._announced) > ANNOUNCED_MAX_CHANGES:
            del self._announced[next(iter(self._announced))]

    def fanned_out(
        self,
        changes: Sequence[Change],
        pass_s: float,
        watchers: Callable[[str], int],
        deliveries: int,
    ) -> None:
        """Tell of a pass that has just ended, once for each change: never for each subscriber.

        Changes beyond the bound have no span; each span says how many the pass had.
        """
        left = self._pass_max_spans
        ended_ns = time.time_ns()
        began_ns = ended_ns - round(pass_s * 1e9)
        for change in changes:
            place = change.channel, change.rev
            context = context_of(change.trace or self._announced.pop(place, ""))
            if left == 0 or is_dropped(context):
                continue
            left -= 1
            span = self._tracer.start_span(
                "fan-out",
                context=context,
                start_time=began_ns,
                attributes={
                    "zonecast.tx": change.tx,
                    "zonecast.channel": change.channel,
                    "zonecast.rev": change.rev,
                    "zonecast.connections": watchers(change.channel),
                    "zonecast.pass_changes": len(changes),
                    "zonecast.pass_deliveries": deliveries,
                },
            )
            span.end(ended_ns)


def with_trace(transaction: Transaction, trace: str) -> Transaction:
    """Return a transaction whose changes say that they come from this step."""
    changes = tuple(replace(change, trace=trace) for change in transaction.changes)
    return replace(transaction, changes=changes)


@contextmanager
def _inside(span: Span) -> Iterator[None]:
    try:
        with _current(span):
            yield
    except BaseException as error:
        if span.is_recording():
            _note_failure(span, error)
        raise
    finally:
        if span.is_recording():
            span.end()


def _current(span: Span) -> AbstractContextManager[Span]:
    # Errors quote values, of users, too: their class is all that a span gets.
    return use_span(span, record_exception=False, set_status_on_exception=False)


def _note_failure(span: Span, error: BaseException) -> None:
    span.set_attribute("error.type", type(error).__name__)
    span.set_status(StatusCode.ERROR)
