"""Pages: where browsers find the module `zonecast.js`."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request, Response

from realtime.api.routes import BoundedRoute
from realtime.web.assets import ASSETS

router = APIRouter(route_class=BoundedRoute, include_in_schema=False)

# Code without data, of no use to who wants to read it: pages of all origins may import it.
_SHARED: Final = {
    "Access-Control-Allow-Origin": "*",
    "Cross-Origin-Resource-Policy": "cross-origin",
}


@router.get("/zonecast.js")
async def read_module(request: Request) -> Response:
    """The module for pages."""
    return ASSETS["zonecast.js"].answer(request, _SHARED)


@router.get("/zonecast.d.ts")
async def read_types(request: Request) -> Response:
    """Its types."""
    return ASSETS["zonecast.d.ts"].answer(request, _SHARED)
