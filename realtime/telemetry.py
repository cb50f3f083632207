"""Telemetry: a node's traces where it has a collector for them, and nothing at all elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from fastapi import FastAPI

from channels.replica import Replica
from realtime.otel_settings import OtelSettings
from realtime.settings import SettingsError

if TYPE_CHECKING:
    from fastapi.telemetry import TelemetryConfig

    from realtime.otel.tracing import Tracing

# What imports the SDK is imported where it is used: it takes a second, and memory.

NO_TELEMETRY: Final[TelemetryConfig] = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "auto_configure": False,
}
"""FastAPI's own, which the environment can turn on, puts whole queries into spans: tickets, and
tokens."""


def check_tracing(settings: OtelSettings) -> None:
    """Find out whether traces can be made, if any are wanted.

    Raises:
        SettingsError: a variable of the SDK can't be used.
    """
    if settings.otel_endpoint:
        from realtime.otel.export import check_environment  # noqa: PLC0415

        try:
            check_environment(settings)
        except ValueError as error:
            raise SettingsError(f"a variable OTEL_... can't be used: {error}") from None


def trace_requests(app: FastAPI, settings: OtelSettings) -> None:
    """Let an application's requests be traced, if anything is; given last, to be outermost."""
    if settings.otel_endpoint:
        from realtime.otel.requests import RequestSpans  # noqa: PLC0415

        app.add_middleware(RequestSpans)


@asynccontextmanager
async def running_tracing(
    settings: OtelSettings,
    node_id: str,
    *,
    current: Callable[[str], Replica | None] = lambda _channel: None,
    watchers: Callable[[str], int] = lambda _channel: 0,
) -> AsyncIterator[Tracing | None]:
    """Make and export traces until the body ends, and yield them; `None`: there are none.

    Args:
        settings: Name the collector, if there is one, and the bounds.
        node_id: Whose they are.
        current: Returns the live replica of a channel that the node follows.
        watchers: Returns how many connections watch a channel.
    """
    if not settings.otel_endpoint:
        yield None
        return
    from realtime.otel.tracing import running  # noqa: PLC0415

    async with running(settings, node_id, current, watchers) as tracing:
        yield tracing
