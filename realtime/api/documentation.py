"""The API's documentation as a page that works without internet: Swagger UI from a package."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

import fastapi_offline
from fastapi import APIRouter, FastAPI, Request, Response
from starlette.responses import FileResponse

from realtime.api.access import HTTP_ACCESS, Access
from realtime.api.answers import json_response
from realtime.api.routes import PROBLEM_SCHEMA, BoundedRoute
from realtime.auth.policy import NEEDS
from realtime.node import node_of

ASSETS: Final = Path(fastapi_offline.__file__).parent / "static"
"""Where a package has the files of Swagger UI; nothing else of it is used."""

_PAGE: Final = b"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Zonecast HTTP API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/assets/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<noscript>The same as a document: <a href="openapi.json">openapi.json</a></noscript>
<script src="docs/assets/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START: Final = b"""SwaggerUIBundle({
  dom_id: "#swagger-ui",
  url: "openapi.json",
  deepLinking: true,
  presets: [SwaggerUIBundle.presets.apis],
  validatorUrl: null,
});
"""
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"
)

_OWN: Final = MappingProxyType(
    {
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
)
"""Of the page and its parts: nothing is guessed, told or given to pages elsewhere."""

router = APIRouter(route_class=BoundedRoute, include_in_schema=False)


@router.get("/openapi.json")
async def read_description(request: Request) -> Response:
    """The API as an OpenAPI document, made once."""
    node = node_of(request)
    return json_response(describe(request.app, node.settings.session_cookie))


def describe(app: FastAPI, cookie_name: str = "__Host-zonecast") -> dict[str, Any]:
    """Describe the API, with what FastAPI can't know of it.

    The shape of problems is no model, and what a route needs stands in the table of access. A
    node without a key asks for none of it, which no description can say.

    Args:
        app: The application.
        cookie_name: That of the browser's session.
    """
    document = app.openapi()
    components = document["components"]
    components["schemas"]["Problem"] = PROBLEM_SCHEMA
    components["securitySchemes"] = {
        "token": {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": "where a key is set; its roles here are the words of its `scope`",
        },
        "session": {
            "type": "apiKey",
            "in": "cookie",
            "name": cookie_name,
            "description": "the same token, kept by `POST /session`",
        },
    }
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            operation["security"] = _security(HTTP_ACCESS[method.upper(), path])
    return document


def _security(access: Access) -> list[dict[str, list[str]]]:
    if access.is_public:
        return []
    roles = [] if access.action is None else [NEEDS[access.action].scope.value]
    return [{"token": roles}, {"session": roles}]


@router.get("/docs")
async def read_page() -> Response:
    """The page; its policy lets the browser ask nobody but this service."""
    headers = {
        **_OWN,
        "Content-Security-Policy": _POLICY,
        "Cross-Origin-Opener-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
        "X-Frame-Options": "DENY",
    }
    return Response(_PAGE, media_type="text/html; charset=utf-8", headers=headers)


@router.get("/docs/start.js")
async def read_start() -> Response:
    """What starts Swagger UI, in a file of its own, for a policy without inline scripts."""
    return Response(_START, media_type="text/javascript; charset=utf-8", headers=_OWN)


@router.get("/docs/assets/{name}")
async def read_asset(name: Literal["swagger-ui.css", "swagger-ui-bundle.js"]) -> Response:
    """One of Swagger UI's files; there are no others to be had."""
    # Named here, as guessing a type reads the system's tables of types.
    media_type = "text/css" if name.endswith(".css") else "text/javascript"
    headers = {**_OWN, "Cache-Control": "public, max-age=3600"}
    return FileResponse(ASSETS / name, media_type=media_type, headers=headers)
