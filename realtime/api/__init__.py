"""The HTTP API: `add_api` gives it to an application."""

from __future__ import annotations

from realtime.api.routing import add_api

__all__ = ["add_api"]
