"""Routing of the HTTP API: all its routers, given to an application."""

from __future__ import annotations

from collections import defaultdict

from fastapi import FastAPI
from fastapi.routing import APIRoute

from realtime.api import (
    admin,
    channels,
    documentation,
    entries,
    health,
    plain_transfers,
    presence,
    problems,
    revoke,
    transfers,
    users,
    users_dict,
    zones,
)
from realtime.api.boundary import Boundary
from realtime.api.cors import Cors
from realtime.web import pages

ROUTERS = (
    zones.router,
    channels.router,
    presence.router,
    users.router,
    transfers.router,
    users_dict.router,
    health.router,
    entries.router,
    admin.router,
    revoke.router,
    documentation.router,
    pages.router,
)


def add_api(app: FastAPI) -> None:
    """Give an application the HTTP API: its routes, its problems, its boundary.

    The application has to be made without routes of its own for the documentation (`docs_url`,
    `redoc_url` and `openapi_url` are `None`), and its node has to be at `app.state.node` as long
    as requests are served.
    """
    methods_of: defaultdict[str, set[str]] = defaultdict(set)
    for router in ROUTERS:
        app.include_router(router)
        for route in router.routes:
            if isinstance(route, APIRoute):
                methods_of[route.path].update(route.methods or ())
    problems.add_problem_handlers(app, {path: sorted(m) for path, m in methods_of.items()})
    # The last one added is the outermost.
    app.add_middleware(plain_transfers.PlainTransfers)
    app.add_middleware(Boundary, at_once={("GET", "/users-dict"): users_dict.NearAnswers()})
    # Around it, so that pages can read its problems, too.
    app.add_middleware(Cors)
