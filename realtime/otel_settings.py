"""Settings of traces: where they go, and what waits for whom meanwhile."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final
from urllib.parse import urlsplit

from pydantic import field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from realtime.setting_bounds import Count, Positive

NEEDED: Final = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
"""What the extra `otel` installs. The API alone comes with FastAPI, and does nothing."""


class OtelSettings(BaseSettings):
    """The traces' part of the configuration of a node."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)

    otel_endpoint: str = ""
    """Collector of OpenTelemetry traces by OTLP over HTTP, as `http://localhost:4318`; needs the \
extra `otel`. Empty: nothing is traced, whatever `OTEL_*` says."""
    otel_queue_max_spans: Count = 4_096
    """Spans that wait for the collector; beyond, the oldest are dropped, and the log says so."""
    otel_pass_max_spans: Count = 100
    """Fan-out spans of one pass over a crowd; what else it wrote has none, as they take time from \
the node's one thread."""
    otel_export_timeout_s: Positive = 5
    """Longest try to hand spans to the collector; then they are dropped, and the log says so."""
    otel_flush_timeout_s: Positive = 2
    """Longest wait, when the node stops, for the collector to take what is left."""

    @field_validator("otel_endpoint")
    @classmethod
    def _collector_can_be_reached(cls, value: str) -> str:
        if not value:
            return value
        try:
            url = urlsplit(value)
            usable = url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0
        except ValueError:
            usable = False
        if not usable or url.username is not None or url.query or url.fragment:
            msg = (
                "must be an http:// or https:// URL without user and query; "
                "keys go into OTEL_EXPORTER_OTLP_HEADERS"
            )
            raise ValueError(msg)
        if not all(is_installed(name) for name in NEEDED):
            msg = "needs the extra otel: pip install 'zonecast[otel]'"
            raise ValueError(msg)
        return value.rstrip("/")


def is_installed(module: str) -> bool:
    """Tell whether a module is there, importing nothing but the packages around it."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
