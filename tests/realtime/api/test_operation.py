"""Health, figures, documentation and the cached dict over HTTP."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

if TYPE_CHECKING:
    from tests.realtime.api.conftest import Api
    from tests.realtime.conftest import LiveNode


async def test_a_node_lives_and_is_ready(api: Api, live_node: LiveNode) -> None:
    """Both say so, and which node it is."""
    node_id = live_node.node.node_id
    assert (await api.get("/healthz")).json() == {"status": "alive", "node": node_id}
    assert (await api.get("/readyz")).json() == {"status": "ready", "node": node_id}


async def test_a_stopping_node_lives_but_is_not_ready(api: Api, live_node: LiveNode) -> None:
    """Load balancers take it out before it goes."""
    live_node.node.connections.farewell()
    assert (await api.get("/healthz")).status_code == 200
    response = await api.get("/readyz")
    assert api.problem(response, 503, "not-ready")["reasons"] == ["the node is stopping"]


async def test_a_database_of_another_release_is_a_reason(api: Api, live_node: LiveNode) -> None:
    """Tables that were not migrated to this release are told with both revisions."""
    async with live_node.node.database.get_db() as session:
        await session.execute(text("UPDATE alembic_version SET version_num = 'older'"))
    [reason] = api.problem(await api.get("/readyz"), 503, "not-ready")["reasons"]
    assert "older" in reason


async def test_the_figures_are_in_prometheus_form(api: Api) -> None:
    """Requests, cache and process are among them, by template."""
    await api.make_zones("A")
    await api.get("/zones/A")
    await api.get("/users-dict")
    response = await api.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    name = 'zonecast_http_requests_total{method="GET",route="/zones/{zone_id}",status="200"}'
    assert f"{name} 1.0" in response.text
    assert "zonecast_cache_" in response.text
    assert "process_resident_memory_bytes" in response.text


async def test_the_dict_has_all_users_by_global_id(api: Api) -> None:
    """Cached or not, it is the same; a known one is not sent again."""
    await api.make_zones("A")
    user = await api.make_user(1001, "A")
    expected = {
        "1001": {"id": user["id"], "name": user["name"], "zone_id": "A", "version": 1},
    }
    for _ in range(2):
        response = await api.get("/users-dict")
        assert response.json() == expected
    assert (await api.get("/users-dict", params={"use_cache": "false"})).json() == expected
    headers = {"If-None-Match": response.headers["etag"]}
    known = await api.get("/users-dict", headers=headers)
    assert (known.status_code, known.content) == (304, b"")


async def test_the_dict_follows_each_write(api: Api) -> None:
    """After a write's answer the old dict is not served."""
    await api.make_zones("A", "B")
    user = await api.make_user(7, "A")
    for zone_id in ("B", "A", None, "B"):
        await api.get("/users-dict")
        await api.post(f"/users/{user['id']}/transfer", json={"zone_id": zone_id})
        assert (await api.get("/users-dict")).json()["7"]["zone_id"] == zone_id


async def test_the_cache_counts_hits_and_misses(api: Api) -> None:
    """The second read is a hit."""
    await api.make_user(1)
    await api.get("/users-dict")
    before = (await api.get("/cache/stats")).json()
    await api.get("/users-dict")
    after = (await api.get("/cache/stats")).json()
    assert after["hits"] == before["hits"] + 1
    assert after["misses"] == before["misses"]


class _References(HTMLParser):
    """Collects what a page loads or links to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name in {"src", "href"} and value]


async def test_the_documentation_needs_no_internet(api: Api) -> None:
    """All that the page refers to is served by the node, and its policy allows nothing else."""
    page = await api.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert not re.search(r"(https?:)?//", page.text)
    assert "http" not in page.headers["content-security-policy"]
    references = _References()
    references.feed(page.text)
    files = [found for found in references.found if not found.startswith("data:")]
    assert len(files) == 4
    for file in files:
        response = await api.get(f"/{file}")
        assert response.status_code == 200, file
        assert response.content
    start = (await api.get("/docs/start.js")).text
    assert "://" not in start
    assert "validatorUrl: null" in start


async def test_the_description_has_every_route_and_resolves(api: Api) -> None:
    """Each route of the API is in the OpenAPI document, and no reference leads nowhere."""
    document = (await api.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    routes = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert routes == {
        ("POST", "/zones"),
        ("GET", "/zones"),
        ("GET", "/zones/{zone_id}"),
        ("PATCH", "/zones/{zone_id}"),
        ("DELETE", "/zones/{zone_id}"),
        ("GET", "/zones/{zone_id}/snapshot"),
        ("GET", "/zones/{zone_id}/digest"),
        ("GET", "/zones/{zone_id}/changes"),
        ("GET", "/zones/{zone_id}/presence"),
        ("POST", "/users"),
        ("GET", "/users"),
        ("GET", "/users/count"),
        ("POST", "/users/bulk"),
        ("GET", "/users/{user_id}"),
        ("PATCH", "/users/{user_id}"),
        ("DELETE", "/users/{user_id}"),
        ("POST", "/users/{user_id}/transfer"),
        ("POST", "/transfers"),
        ("GET", "/users-dict"),
        ("GET", "/cache/stats"),
        ("GET", "/healthz"),
        ("GET", "/readyz"),
        ("GET", "/metrics"),
        ("GET", "/admin/connections"),
        ("GET", "/admin/channels"),
        ("POST", "/admin/disconnect"),
        ("POST", "/tickets"),
        ("POST", "/session"),
        ("DELETE", "/session"),
        ("POST", "/admin/revoke"),
    }
    schemas = document["components"]["schemas"]
    names = {ref.rsplit("/", 1)[1] for ref in _references_of(document)}
    assert names <= set(schemas)
    assert "HTTPValidationError" not in schemas
    for item in document["paths"].values():
        for operation in item.values():
            assert "application/problem+json" in operation["responses"]["default"]["content"]


async def test_the_description_says_what_each_route_needs(api: Api) -> None:
    """The scope of a token, in the header or the session's cookie; or nothing."""
    document = (await api.get("/openapi.json")).json()
    schemes = document["components"]["securitySchemes"]
    assert (schemes["token"]["type"], schemes["token"]["scheme"]) == ("http", "bearer")
    assert (schemes["session"]["in"], schemes["session"]["name"]) == ("cookie", "__Host-zonecast")
    paths = document["paths"]
    found = {
        (method, path): operation["security"]
        for path, item in paths.items()
        for method, operation in item.items()
    }
    assert found["get", "/zones"] == [{"token": ["read"]}, {"session": ["read"]}]
    assert found["post", "/transfers"] == [{"token": ["write"]}, {"session": ["write"]}]
    assert found["post", "/admin/revoke"] == [{"token": ["admin"]}, {"session": ["admin"]}]
    assert found["post", "/tickets"] == [{"token": []}, {"session": []}]
    public = {path for (_, path), needs in found.items() if not needs}
    assert public == {"/healthz", "/readyz", "/session"}


def _references_of(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [ref for member in value.values() for ref in _references_of(member)]
    if isinstance(value, list):
        return [ref for member in value for ref in _references_of(member)]
    return []


async def test_unknown_paths_are_problems(api: Api) -> None:
    """404 has the one shape everywhere."""
    for path in ("/nowhere", "/docs/nowhere.js", "/zones/A/nowhere"):
        assert api.problem(await api.get(path), 404)["type"] == "about:blank"


async def test_a_wrong_method_is_a_problem_with_the_right_ones(api: Api) -> None:
    """405 names all methods of the path."""
    response = await api.client.put("/zones/A", json={})
    api.problem(response, 405)
    assert response.headers["allow"] == "DELETE, GET, PATCH"
