"""Pages: where browsers find the dashboard, and the module `zonecast.js`."""

from __future__ import annotations

import time
from types import MappingProxyType
from typing import Final

from fastapi import APIRouter, Request, Response

from realtime.api.answers import json_response
from realtime.api.problems import Kind, ProblemError
from realtime.api.routes import BoundedRoute
from realtime.web.assets import ASSETS, CONTENT_POLICY

router = APIRouter(route_class=BoundedRoute, include_in_schema=False)

# Code without data, of no use to who wants to read it: pages of all origins may import it.
_SHARED: Final = {
    "Access-Control-Allow-Origin": "*",
    "Cross-Origin-Resource-Policy": "cross-origin",
}

_OWN: Final = MappingProxyType(
    {"Referrer-Policy": "no-referrer", "Cross-Origin-Resource-Policy": "same-origin"}
)


@router.get("/")
async def read_dashboard(request: Request) -> Response:
    """The dashboard: a page without data, which asks for it as any client does."""
    headers = {
        **_OWN,
        "Content-Security-Policy": CONTENT_POLICY,
        "Cross-Origin-Opener-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
        "X-Frame-Options": "DENY",
    }
    return ASSETS["index.html"].answer(request, headers)


@router.get("/dashboard/{name}")
async def read_part(request: Request, name: str) -> Response:
    """One of its files; there are no others to be had."""
    if name not in ASSETS or name.startswith(("index.", "zonecast.")):
        raise ProblemError(Kind.NOT_FOUND, "no such file")
    return ASSETS[name].answer(request, _OWN)


@router.get("/clock")
async def read_clock() -> Response:
    """What time this node has, so that a page can tell how old what it shows is."""
    return json_response({"unix_ms": time.time() * 1000})


@router.get("/zonecast.js")
async def read_module(request: Request) -> Response:
    """The module for pages."""
    return ASSETS["zonecast.js"].answer(request, _SHARED)


@router.get("/zonecast.d.ts")
async def read_types(request: Request) -> Response:
    """Its types."""
    return ASSETS["zonecast.d.ts"].answer(request, _SHARED)
