"""Zones over HTTP: made, read, changed, deleted, and refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.realtime.api.conftest import Api


async def test_a_zone_is_made_and_found(api: Api) -> None:
    """201 with the zone, where it is, and the directory's position."""
    zone = {"zone_id": "F1-Z1", "name": "Hall", "attributes": {"floor": 1, "tags": ["a", None]}}
    response = await api.post("/zones", json=zone)
    assert response.status_code == 201
    assert response.json() == zone
    assert response.headers["location"] == "/zones/F1-Z1"
    assert set(api.positions(response)) == {"zones"}
    assert (await api.get("/zones/F1-Z1")).json() == zone


async def test_attributes_are_optional_and_empty_then(api: Api) -> None:
    """The two other keys are enough."""
    response = await api.post("/zones", json={"zone_id": "A", "name": "A"})
    assert response.json() == {"zone_id": "A", "name": "A", "attributes": {}}


async def test_a_zone_id_that_is_taken_is_a_conflict(api: Api) -> None:
    """409 names the key, and the first zone stays as it was."""
    await api.make_zones("A")
    response = await api.post("/zones", json={"zone_id": "A", "name": "other"})
    problem = api.problem(response, 409, "duplicate")
    assert (problem["kind"], problem["key"]) == ("zone", "A")
    assert (await api.get("/zones/A")).json()["name"] == "A"


async def test_zones_are_listed_by_id_in_pages(api: Api) -> None:
    """`skip` and `limit` cut the ordered list."""
    await api.make_zones("C", "A", "B")
    ids = [zone["zone_id"] for zone in (await api.get("/zones")).json()["zones"]]
    assert ids == ["A", "B", "C"]
    page = (await api.get("/zones", params={"skip": 1, "limit": 1})).json()["zones"]
    assert [zone["zone_id"] for zone in page] == ["B"]
    assert (await api.get("/zones", params={"skip": 9})).json() == {"zones": []}


async def test_a_zone_comes_with_its_users_when_asked(api: Api) -> None:
    """`include=users` adds them by id; without it there is no such key."""
    await api.make_zones("A", "B")
    first, second = await api.make_user(1, "A"), await api.make_user(2, "A")
    await api.make_user(3, "B")
    zone = (await api.get("/zones/A", params={"include": "users"})).json()
    assert zone["users"] == [first, second]
    assert "users" not in (await api.get("/zones/A")).json()


async def test_a_patch_changes_what_it_names(api: Api) -> None:
    """Keys left out stay; attributes are replaced whole."""
    await api.post("/zones", json={"zone_id": "A", "name": "A", "attributes": {"x": 1}})
    response = await api.patch("/zones/A", json={"name": "Hall"})
    assert response.json() == {"zone_id": "A", "name": "Hall", "attributes": {"x": 1}}
    assert set(api.positions(response)) == {"zone:A", "zones"}
    response = await api.patch("/zones/A", json={"attributes": {"y": 2}})
    assert response.json()["attributes"] == {"y": 2}


async def test_a_patch_that_changes_nothing_moves_no_position(api: Api) -> None:
    """No change, no revision."""
    await api.make_zones("A")
    for body in ({}, {"name": "A"}):
        response = await api.patch("/zones/A", json=body)
        assert response.status_code == 200
        assert api.positions(response) == {}


async def test_an_empty_zone_is_deleted(api: Api) -> None:
    """204, and then it is not there."""
    await api.make_zones("A")
    response = await api.delete("/zones/A")
    assert (response.status_code, response.content) == (204, b"")
    assert set(api.positions(response)) == {"zone:A", "zones"}
    api.problem(await api.get("/zones/A"), 404, "not-found")


async def test_an_occupied_zone_stays_until_its_users_have_somewhere_to_go(api: Api) -> None:
    """409 with the number of users; `move_to` and `unassign` tell where they go."""
    await api.make_zones("A", "B")
    user = await api.make_user(1, "A")
    problem = api.problem(await api.delete("/zones/A"), 409, "zone-occupied")
    assert (problem["zone_id"], problem["users"]) == ("A", 1)

    response = await api.delete("/zones/A", params={"move_to": "B"})
    assert response.status_code == 204
    assert set(api.positions(response)) == {"zone:A", "zone:B", "zones"}
    assert (await api.get(f"/users/{user['id']}")).json()["zone_id"] == "B"

    response = await api.delete("/zones/B", params={"unassign": "true"})
    assert response.status_code == 204
    assert set(api.positions(response)) == {"zone:B", "zones", "unassigned"}
    assert (await api.get(f"/users/{user['id']}")).json()["zone_id"] is None


UNKNOWN: list[tuple[str, str, dict[str, Any] | None]] = [
    ("GET", "/zones/nowhere", None),
    ("GET", "/zones/nowhere?include=users", None),
    ("PATCH", "/zones/nowhere", {"name": "A"}),
    ("DELETE", "/zones/nowhere", None),
    ("DELETE", "/zones/A?move_to=nowhere", None),
    ("GET", "/zones/nowhere/snapshot", None),
    ("GET", "/zones/nowhere/changes", None),
]


async def test_an_unknown_zone_is_not_found(api: Api, subtests: pytest.Subtests) -> None:
    """Wherever a zone is named, one that isn't there is 404."""
    await api.make_zones("A")
    await api.make_user(1, "A")
    for method, path, body in UNKNOWN:
        with subtests.test(method=method, path=path):
            api.problem(await api.client.request(method, path, json=body), 404, "not-found")
    assert (await api.get("/zones/A")).status_code == 200


OUT_OF_BOUNDS = [
    "/zones/" + "a" * 65,
    "/zones/a%20b",
    "/zones/a%00",
    "/zones/Z%C3%BCrich",
    "/zones/A?include=badges",
    "/zones?limit=0",
    "/zones?limit=1001",
    "/zones?limit=x",
    "/zones?skip=-1",
    "/zones?skip=99999999999999999999",
    "/zones/A/snapshot?min=x",
    "/zones/A/snapshot?min=ab:9999999999999999",
    "/zones/A/changes?since_rev=-1",
    "/zones/A/changes?since_rev=9007199254740992",
    "/zones/A/changes?epoch=%22",
    "/zones/A/changes?limit=0",
    "/zones/A/changes?wait_s=nan",
    "/zones/A/changes?wait_s=-1",
    "/zones/A/changes?wait_s=inf",
]


async def test_paths_and_queries_out_of_bounds_are_invalid(
    api: Api, subtests: pytest.Subtests
) -> None:
    """422 lists the place; the database is not asked."""
    await api.make_zones("A")
    for path in OUT_OF_BOUNDS:
        with subtests.test(path=path):
            assert api.problem(await api.get(path), 422, "invalid")["detail"]


async def test_a_deletion_that_contradicts_itself_is_invalid(
    api: Api, subtests: pytest.Subtests
) -> None:
    """Nothing is deleted."""
    await api.make_zones("A", "B")
    for query in ("move_to=B&unassign=true", "move_to=A", "move_to=a%20b", "unassign=perhaps"):
        with subtests.test(query=query):
            api.problem(await api.delete(f"/zones/A?{query}"), 422, "invalid")
    assert (await api.get("/zones/A")).status_code == 200


async def test_a_condition_that_zones_cannot_meet_is_not_ignored(api: Api) -> None:
    """Zones have no version: `If-Match` would promise what is not kept."""
    await api.make_zones("A")
    headers = {"If-Match": '"1"'}
    api.problem(await api.delete("/zones/A", headers=headers), 412)
    api.problem(await api.patch("/zones/A", json={"name": "B"}, headers=headers), 412)
    assert (await api.delete("/zones/A", headers={"If-Match": "*"})).status_code == 204
