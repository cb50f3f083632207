"""Every error of the HTTP API is a problem document, whatever raised it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import structlog
from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from channels.feed import UnknownChannelError
from channels.ports import UnavailableError
from db.errors import (
    ConflictError,
    DuplicateError,
    FullError,
    InvalidValueError,
    NotFoundError,
    OutcomeUnknownError,
    RowsLockedError,
    VersionMismatchError,
    ZoneOccupiedError,
)
from realtime.api.access import Access
from realtime.api.boundary import Boundary
from realtime.api.documents import NewUsers, NewZone
from realtime.api.problems import (
    MAX_LISTED_ERRORS,
    TRANSLATIONS,
    Kind,
    ProblemError,
    add_problem_handlers,
)
from realtime.api.routes import BoundedRoute, new_router
from realtime.metrics import Metrics
from realtime.settings import Settings

ERRORS: dict[str, tuple[Exception, int, dict[str, Any]]] = {
    "user": (NotFoundError("user", 7, 3), 404, {"kind": "user", "key": 7, "index": 3}),
    "channel": (UnknownChannelError("zone:A"), 404, {"channel": "zone:A"}),
    "duplicate": (DuplicateError("user", 7), 409, {"kind": "user", "key": 7}),
    "full": (FullError("tickets", 9), 503, {"kind": "tickets", "maximum": 9}),
    "occupied": (ZoneOccupiedError("A", 2), 409, {"zone_id": "A", "users": 2}),
    "mismatch": (VersionMismatchError(1, 2), 412, {"expected": 1, "actual": 2}),
    "conflict": (ConflictError("deadlock"), 409, {"reason": "deadlock"}),
    "value": (
        InvalidValueError("name", "too long"),
        422,
        {"errors": [{"loc": ["body", "name"], "msg": "too long"}]},
    ),
    "away": (UnavailableError("database", "hunter2 refused"), 503, {"what": "database"}),
    "locked": (RowsLockedError(), 503, {"what": "database", "type": "/problems/locked"}),
    "unknown": (OutcomeUnknownError("database", "hunter2"), 503, {"what": "database"}),
    "own": (ProblemError(Kind.POSITION_GONE, "gone", {"reason": "future"}), 410, {}),
    "status": (HTTPException(418), 418, {}),
    "bug": (ZeroDivisionError("hunter2"), 500, {}),
}


class OpenRoute(BoundedRoute):
    """A route of tests: nobody is asked who they are."""

    access = staticmethod(lambda methods, path: Access(is_public=True))


@pytest.fixture
def app() -> FastAPI:
    """An application of a few routes within the boundary, with bodies of up to 2,000 bytes."""
    app = FastAPI(docs_url=None, redoc_url=None)
    settings = Settings(max_body_bytes=2_000)
    connections = SimpleNamespace(stopping=False)
    app.state.node = SimpleNamespace(
        settings=settings, metrics=Metrics(), connections=connections, quota=None
    )
    router = new_router("test", OpenRoute)

    @router.get("/errors/{name}")
    async def fail(name: str) -> None:
        raise ERRORS[name][0]

    @router.post("/zones")
    async def take_zone(zone: NewZone) -> dict[str, str]:
        return {"zone_id": zone.zone_id}

    @router.patch("/zones")
    async def change_zone() -> dict[str, str]:
        return {}

    @router.post("/users")
    async def take_users(users: NewUsers) -> dict[str, int]:
        return {"count": len(users.users)}

    @router.get("/slow")
    async def wait(request: Request) -> None:
        await request.app.state.never.wait()

    app.state.never = asyncio.Event()
    app.include_router(router)
    methods = {r.path: sorted(r.methods or ()) for r in router.routes if isinstance(r, APIRoute)}
    methods["/zones"] = ["PATCH", "POST"]
    add_problem_handlers(app, methods)
    app.add_middleware(Boundary)
    return app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application, without a server between."""
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@pytest.fixture
def impatient(app: FastAPI) -> None:
    """Let the application give requests up soon."""
    app.state.node.settings = Settings(request_timeout_s=0.05)


def check_problem(response: httpx.Response, status: int) -> dict[str, Any]:
    """Check the shape that all problems have, and return the document."""
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert body["title"]
    assert body["type"] == "about:blank" or body["type"].startswith("/problems/")
    return body


@pytest.mark.parametrize("name", ERRORS)
async def test_each_error_becomes_its_problem(client: httpx.AsyncClient, name: str) -> None:
    """Status and members are those of the table; reasons and tracebacks stay inside."""
    _, status, fields = ERRORS[name]
    with structlog.testing.capture_logs() as logged:
        response = await client.get(f"/errors/{name}")
    body = check_problem(response, status)
    assert fields.items() <= body.items()
    assert None not in body.values()
    assert "hunter2" not in response.text
    assert ("retry-after" in response.headers) == (status == 503)
    levels = [line["log_level"] for line in logged]
    assert levels == {500: ["error"], 503: ["warning"]}.get(status, [])


def test_the_table_is_tested_whole() -> None:
    """Each error that has a translation is tried above."""
    assert set(TRANSLATIONS) <= {type(error) for error, _, _ in ERRORS.values()}


async def test_an_unknown_route_is_a_problem(client: httpx.AsyncClient) -> None:
    """404 comes from the router, in the same shape."""
    body = check_problem(await client.get("/nowhere"), 404)
    assert body["type"] == "about:blank"


async def test_a_wrong_method_names_all_that_are_right(client: httpx.AsyncClient) -> None:
    """405 lists the methods of all routes of the path, not only of the first one."""
    response = await client.delete("/zones")
    check_problem(response, 405)
    assert response.headers["allow"] == "PATCH, POST"


@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        (b"{", "application/json", 400),
        (b"", "application/json", 400),
        (b"\xff", "application/json", 400),
        (b'{"zone_id": "A", "name": NaN}', "application/json", 400),
        (b'{"zone_id": "A", "name": "\\ud800"}', "application/json", 400),
        (b"[" * 1_900, "application/json", 400),
        (b"1" * 1_900, "application/json", 422),
        (b"{} {}", "application/json", 400),
        (b"[]", "application/json", 422),
        (b"null", "application/json", 422),
        (b'"zone"', "application/json", 422),
        (b"zone_id=A", "application/x-www-form-urlencoded", 415),
        (b"{}", "text/plain", 415),
        (b"{}", "", 415),
        (b"{}", "application/jsonp", 415),
        (b'{"zone_id":"A","name":"B"}', "application/json; charset=utf-8", 200),
        (b'{"zone_id":"A","name":"B"}', "application/merge-patch+json", 200),
        (b'{"zone_id":"A","name":"B"}' + b" " * 1_974, "application/json", 200),
        (b'{"zone_id":"A","name":"B"}' + b" " * 1_975, "application/json", 413),
    ],
)
async def test_a_body_that_cannot_be_taken_says_why(
    client: httpx.AsyncClient, content: bytes, content_type: str, status: int
) -> None:
    """Unparsable is 400, too large 413, of another type 415, invalid 422."""
    response = await client.post("/zones", content=content, headers={"content-type": content_type})
    if status == 200:
        assert response.json() == {"zone_id": "A"}
    else:
        check_problem(response, status)


async def test_a_compressed_body_is_refused(client: httpx.AsyncClient) -> None:
    """What would have to be unpacked could be of any size."""
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    check_problem(await client.post("/zones", content=b"\x1f\x8b", headers=headers), 415)


async def test_a_streamed_body_is_refused_at_the_limit(client: httpx.AsyncClient) -> None:
    """Without a declared length the limit is found while reading: not all of it is read."""
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 500
            yield b" " * 500

    headers = {"content-type": "application/json"}
    response = await client.post("/zones", content=endless(), headers=headers)
    assert check_problem(response, 413)["max_body_bytes"] == 2_000
    assert read <= 3_000


@pytest.mark.usefixtures("impatient")
async def test_a_body_that_does_not_arrive_is_given_up(client: httpx.AsyncClient) -> None:
    """A client that sends half a body is answered after the bound."""

    async def half() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    headers = {"content-type": "application/json"}
    check_problem(await client.post("/zones", content=half(), headers=headers), 408)


@pytest.mark.usefixtures("impatient")
async def test_a_handler_that_hangs_is_given_up(client: httpx.AsyncClient) -> None:
    """A request ends within the bound, with a hint when to ask again."""
    response = await client.get("/slow")
    check_problem(response, 503)
    assert response.headers["retry-after"] == "1"


async def test_an_invalid_body_lists_its_places(client: httpx.AsyncClient) -> None:
    """Each place and what is wrong there, without the values that were sent."""
    users = [{"global_id": 1, "name": "Ada"}, {"global_id": -5, "name": "", "hunter2x": 1}]
    response = await client.post("/users", json={"users": users})
    body = check_problem(response, 422)
    places = {tuple(error["loc"]) for error in body["errors"]}
    row = ("body", "users", 1)
    assert places == {(*row, "global_id"), (*row, "name"), (*row, "hunter2x")}
    assert body["index"] == 1
    assert all(set(error) == {"loc", "msg"} and error["msg"] for error in body["errors"])
    assert "-5" not in response.text


async def test_the_list_of_places_is_bounded(client: httpx.AsyncClient) -> None:
    """A thousand bad rows don't make an answer larger than the request."""
    response = await client.post("/users", json={"users": [{}] * 600})
    body = check_problem(response, 422)
    assert len(body["errors"]) == MAX_LISTED_ERRORS
    assert "1199 more" in body["detail"]


async def test_requests_are_counted_by_template_status_and_method(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    """Paths of the client's making don't become figures of their own."""
    with structlog.testing.capture_logs():
        for path in ("/errors/user", "/errors/bug", "/nowhere/1", "/nowhere/2"):
            await client.get(path)
    value = app.state.node.metrics.registry.get_sample_value
    name = "zonecast_http_requests_total"
    template = {"route": "/errors/{name}", "method": "GET"}
    assert value(name, {**template, "status": "404"}) == 1
    assert value(name, {**template, "status": "500"}) == 1
    assert value(name, {"route": "unmatched", "method": "GET", "status": "404"}) == 2
    assert value("zonecast_http_request_seconds_count", template) == 2
