"""Every path of the HTTP API, asked with every kind of token."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from starlette.routing import BaseRoute, Route, WebSocketRoute

from realtime.app import build_app
from tests.realtime.auth.minter import Minter, bearer
from tests.realtime.auth.token_kinds import ELSEWHERE, HERE, VALID, invalid_tokens

ADA, EVE, NOBODY = 1, 2, 3
"""Ids of users: in HERE, in ELSEWHERE, and in no zone."""

EITHER = (403, 404)
"""403 for the zone where it goes, or 404 for who is in a zone that can't be seen."""

numbers = itertools.count(1_000)


@dataclass(frozen=True)
class Row:
    """One path, and what it needs; written down apart from the service's own table.

    Attributes:
        scope: The scope; empty: any valid token; `public`: none.
        where: `here`: the zone HERE; `all`: all zones; `granted`: any; empty: no zone.
        fine: What is answered to who may.
        hidden: What is answered to who may not for want of the zone: 404 keeps a secret.
    """

    scope: str
    where: str
    path: str
    body: Any = None
    fine: tuple[int, ...] = (200,)
    hidden: tuple[int, ...] = (403,)
    broken_path: str = ""
    broken_body: Any = None

    def needs(self) -> str:
        return f"{self.scope} {self.where}".strip()


def new_user(zone_id: str | None) -> dict[str, Any]:
    return {"global_id": next(numbers), "name": "new", "zone_id": zone_id}


BAD = "/zones/not%20an%20id"

ROWS: dict[tuple[str, str], list[Row]] = {
    ("POST", "/zones"): [
        Row("write", "here", "/zones", {"zone_id": HERE, "name": "x"}, (409,), broken_body={})
    ],
    ("GET", "/zones"): [Row("read", "granted", "/zones", broken_path="/zones?skip=x")],
    ("GET", "/zones/{zone_id}"): [
        Row("read", "here", f"/zones/{HERE}", broken_path=BAD),
        Row("read", "here", f"/zones/{HERE}?include=users"),
    ],
    ("PATCH", "/zones/{zone_id}"): [
        Row("write", "here", f"/zones/{HERE}", {"name": "x"}, broken_body={"no": 1})
    ],
    ("DELETE", "/zones/{zone_id}"): [
        # Users are in it, so that it stays.
        Row("write", "here", f"/zones/{HERE}", fine=(409,), broken_path=BAD),
        Row("write", "all", f"/zones/{HERE}?move_to=F9-Z9", fine=(404,)),
        Row("write", "all", "/zones/F9-Z8?unassign=true", fine=(404,)),
    ],
    ("GET", "/zones/{zone_id}/snapshot"): [
        Row("read", "here", f"/zones/{HERE}/snapshot", broken_path=f"{BAD}/snapshot")
    ],
    ("GET", "/zones/{zone_id}/digest"): [
        Row("read", "here", f"/zones/{HERE}/digest", broken_path=f"{BAD}/digest")
    ],
    ("GET", "/zones/{zone_id}/changes"): [
        Row("read", "here", f"/zones/{HERE}/changes", broken_path=f"{BAD}/changes?limit=x")
    ],
    ("GET", "/zones/{zone_id}/presence"): [
        Row("read", "here", f"/zones/{HERE}/presence", broken_path=f"{BAD}/presence")
    ],
    ("POST", "/users"): [
        Row("write", "here", "/users", new_user(HERE), (201, 409), broken_body={}),
        Row("write", "all", "/users", new_user(None), (201, 409)),
        Row("write", "all", "/users", {"global_id": 7, "name": "no zone"}, (201, 409)),
    ],
    ("POST", "/users/bulk"): [
        Row("write", "here", "/users/bulk", {"users": [new_user(HERE)]}, (201, 409)),
        Row("write", "all", "/users/bulk", {"users": [new_user(HERE), new_user(None)]}, (201, 409)),
        Row("write", "all", "/users/bulk", {"users": [new_user(HERE), new_user("F9")]}, (404,)),
    ],
    ("GET", "/users"): [
        Row("read", "granted", "/users", broken_path="/users?limit=x"),
        Row("read", "here", f"/users?zone_id={HERE}"),
    ],
    ("GET", "/users/count"): [Row("read", "granted", "/users/count")],
    ("GET", "/users/{user_id}"): [
        Row("read", "here", f"/users/{ADA}", hidden=(404,), broken_path="/users/x"),
        Row("read", "all", f"/users/{NOBODY}", hidden=(404,)),
    ],
    ("PATCH", "/users/{user_id}"): [
        Row(
            "write", "here", f"/users/{ADA}", {"name": "Ada"}, hidden=(404,), broken_body={"no": 1}
        ),
        Row("write", "all", f"/users/{ADA}", {"zone_id": None}, (200,), (403,)),
        Row("write", "here", f"/users/{ADA}", {"zone_id": HERE}, hidden=(403,)),
    ],
    ("DELETE", "/users/{user_id}"): [
        Row("write", "here", "/users/{new}", fine=(204,), hidden=(404,), broken_path="/users/x")
    ],
    ("POST", "/users/{user_id}/transfer"): [
        Row("write", "here", f"/users/{ADA}/transfer", {"zone_id": HERE}, broken_body={"no": 1}),
        Row("write", "all", f"/users/{EVE}/transfer", {"zone_id": HERE}, (200,), EITHER),
        Row("write", "all", f"/users/{NOBODY}/transfer", {"zone_id": HERE}, (200,), EITHER),
        Row("write", "all", f"/users/{ADA}/transfer", {"zone_id": ELSEWHERE}, hidden=EITHER),
    ],
    ("POST", "/transfers"): [
        Row(
            "write",
            "here",
            "/transfers",
            {"transfers": [{"user_id": ADA, "zone_id": HERE}]},
            broken_body={"transfers": 7},
        ),
        Row(
            "write",
            "all",
            "/transfers",
            {"transfers": [{"user_id": EVE, "zone_id": HERE}]},
            hidden=EITHER,
        ),
        Row(
            "write",
            "all",
            "/transfers",
            {"transfers": [{"user_id": ADA, "zone_id": ELSEWHERE}]},
            hidden=EITHER,
        ),
        Row("write", "all", "/transfers", {"transfers": [{"global_id": 11, "zone_id": None}]}),
    ],
    ("GET", "/users-dict"): [
        Row("read", "all", "/users-dict", broken_path="/users-dict?use_cache=x")
    ],
    ("GET", "/cache/stats"): [Row("admin", "", "/cache/stats")],
    ("GET", "/healthz"): [Row("public", "", "/healthz")],
    ("GET", "/readyz"): [Row("public", "", "/readyz")],
    ("GET", "/metrics"): [Row("admin", "", "/metrics")],
    ("GET", "/openapi.json"): [Row("", "", "/openapi.json")],
    ("GET", "/docs"): [Row("", "", "/docs")],
    ("GET", "/docs/start.js"): [Row("", "", "/docs/start.js")],
    ("GET", "/docs/assets/{name}"): [
        Row("", "", "/docs/assets/swagger-ui.css", broken_path="/docs/assets/x")
    ],
    ("GET", "/"): [Row("public", "", "/")],
    ("GET", "/dashboard/{name}"): [Row("public", "", "/dashboard/board.js")],
    ("GET", "/clock"): [Row("public", "", "/clock")],
    ("GET", "/zonecast.js"): [Row("public", "", "/zonecast.js")],
    ("GET", "/zonecast.d.ts"): [Row("public", "", "/zonecast.d.ts")],
    ("POST", "/tickets"): [Row("", "", "/tickets", fine=(201,))],
    ("POST", "/session"): [Row("", "", "/session", fine=(204,))],
    ("DELETE", "/session"): [Row("public", "", "/session", fine=(204,))],
    ("GET", "/admin/connections"): [
        Row("admin", "", "/admin/connections", broken_path="/admin/connections?limit=x")
    ],
    ("GET", "/admin/channels"): [Row("admin", "", "/admin/channels")],
    ("POST", "/admin/disconnect"): [
        Row("admin", "", "/admin/disconnect", {"id": "nobody"}, (404,), broken_body={"no": 1})
    ],
    ("POST", "/admin/revoke"): [
        Row("admin", "", "/admin/revoke", {"sub": "somebody else"}, (204,), broken_body={"no": 1})
    ],
}
"""What each path needs. One that is missing fails a test."""

STREAMS = {"/sse", "/ws", "/connection/websocket"}
"""Walked by tests of their own."""


def expected(row: Row, kind: str) -> tuple[int, ...]:
    """Say by the row alone what is answered to a valid token."""
    scope, _, _ = VALID[kind]
    grants = VALID[kind][2]
    if row.scope in {"", "public"}:
        return row.fine
    if scope != row.scope:
        return (403,)
    if row.where in {"", "granted"} or grants == f"{scope} all" or grants == row.needs():
        return row.fine
    return row.hidden


def path_of(row: Row, made: dict[str, Any]) -> str:
    return row.path.replace("{new}", str(made.get("id", ADA)))


async def ask(
    client: httpx.AsyncClient, method: str, path: str, body: Any, token: str | None
) -> httpx.Response:
    headers = {} if token is None else bearer(token)
    return await client.request(method, path, json=body, headers=headers)


def routes_of(routes: Iterable[BaseRoute]) -> Iterator[BaseRoute]:
    """Yield routes, also those of routers that were included whole."""
    for route in routes:
        router = getattr(route, "original_router", None)
        if router is None:
            yield route
        else:
            yield from routes_of(router.routes)


def test_every_route_has_a_row() -> None:
    """A path that nobody thought of is noticed."""
    from realtime.settings import Settings  # noqa: PLC0415 - not while tests are collected

    app = build_app(Settings(port=0))
    found = set()
    for route in routes_of(app.routes):
        if isinstance(route, WebSocketRoute):
            found.add(("WEBSOCKET", route.path))
        elif isinstance(route, Route):
            found |= {(method, route.path) for method in route.methods or () if method != "HEAD"}
        else:
            pytest.fail(f"a kind of route that this test doesn't know: {route}")
    apart = {(method, path) for method, path in found if path in STREAMS}
    assert found - apart == set(ROWS)


@pytest.mark.parametrize(("method", "path"), list(ROWS))
async def test_without_a_valid_token_nothing_is_told(
    prepared: httpx.AsyncClient, minter: Minter, method: str, path: str
) -> None:
    """401 that says how to do it, also to a request that is wrong in other ways."""
    for row in ROWS[method, path]:
        for kind, token in invalid_tokens(minter):
            asked = [(path_of(row, {}), row.body)]
            if row.broken_path:
                asked.append((row.broken_path, row.body))
            if row.broken_body is not None:
                asked.append((row.path, row.broken_body))
            for where, body in asked:
                answer = await ask(prepared, method, where, body, token)
                if row.scope == "public":
                    assert answer.status_code in row.fine, (kind, answer.text)
                    continue
                assert answer.status_code == 401, (kind, where, answer.text)
                assert answer.headers["content-type"] == "application/problem+json"
                assert answer.headers["www-authenticate"].startswith('Bearer realm="zonecast"')
                assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(("method", "path"), list(ROWS))
async def test_a_token_gets_what_it_grants_and_no_more(
    prepared: httpx.AsyncClient, minter: Minter, method: str, path: str
) -> None:
    """Each row with each kind of valid token."""
    root = minter.header(zones=["*"], scope="read write admin", sub="root")
    for row in ROWS[method, path]:
        for kind, (scope, zones, _) in VALID.items():
            made: dict[str, Any] = {}
            if "{new}" in row.path:
                answer = await prepared.post("/users", json=new_user(HERE), headers=root)
                made = answer.json()
            sub = "taken" if "taken" in kind else "ada"
            issued_s = int(time.time()) - 60
            token = minter.token(zones=zones, scope=scope, sub=sub, iat=issued_s)
            answer = await ask(prepared, method, path_of(row, made), row.body, token)
            assert answer.status_code in expected(row, kind), (kind, row, answer.text)
            if answer.status_code == 403:
                assert answer.headers["content-type"] == "application/problem+json"
                assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]
            # What was moved goes back to where the other rows expect it.
            for user_id, zone_id in ((ADA, HERE), (EVE, ELSEWHERE), (NOBODY, None)):
                if (method == "POST" and "transfer" in path) or method == "PATCH":
                    body = {"zone_id": zone_id}
                    url = f"/users/{user_id}/transfer"
                    assert (await prepared.post(url, json=body, headers=root)).is_success


@pytest.mark.parametrize(("method", "path"), [key for key, rows in ROWS.items() if rows[0].scope])
async def test_a_token_that_grants_nothing_learns_nothing_from_a_wrong_request(
    prepared: httpx.AsyncClient, minter: Minter, method: str, path: str
) -> None:
    """403 comes before any word about parameters or the body."""
    for row in ROWS[method, path]:
        if row.scope == "public":
            continue
        for where, body in ((row.broken_path, row.body), (row.path, row.broken_body)):
            if not where or (body is None and where == row.path):
                continue
            answer = await ask(prepared, method, where, body, minter.token(zones=[], scope=""))
            assert answer.status_code == 403, (where, answer.text)


async def test_details_of_health_are_for_admins(
    prepared: httpx.AsyncClient, minter: Minter
) -> None:
    """Everybody hears whether the node is up; which one it is and why, only admins do."""
    for path, said in (("/healthz", "alive"), ("/readyz", "ready")):
        assert (await prepared.get(path)).json() == {"status": said}
        bad = await prepared.get(path, headers=bearer("nonsense"))
        assert bad.json() == {"status": said}
        admin = await prepared.get(path, headers=minter.header(scope="admin"))
        assert set(admin.json()) == {"status", "node"}
