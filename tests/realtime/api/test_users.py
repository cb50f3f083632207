"""Users over HTTP: made, read, changed, deleted, and refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.realtime.api.conftest import Api


async def test_a_user_is_made_and_found(api: Api) -> None:
    """201 with the user as events have it, its tag, where it is, and the positions."""
    await api.make_zones("A")
    sent = {"global_id": 1001, "name": "Ada", "zone_id": "A", "attributes": {"team": "ops"}}
    response = await api.post("/users", json=sent)
    assert response.status_code == 201
    user = response.json()
    assert user == {**sent, "id": user["id"], "version": 1}
    assert response.headers["etag"] == '"1"'
    assert response.headers["location"] == f"/users/{user['id']}"
    assert set(api.positions(response)) == {"zone:A"}
    assert (await api.get(response.headers["location"])).json() == user


async def test_a_user_in_no_zone_is_unassigned(api: Api) -> None:
    """Zone and attributes are optional."""
    response = await api.post("/users", json={"global_id": 5, "name": "Bob"})
    assert response.json()["zone_id"] is None
    assert response.json()["attributes"] == {}
    assert set(api.positions(response)) == {"unassigned"}


async def test_users_are_listed_filtered_and_counted(api: Api) -> None:
    """All by id, those of a zone, the one with a global id; pages; the count."""
    await api.make_zones("A", "B")
    users = [await api.make_user(9, "A"), await api.make_user(8, "B"), await api.make_user(7, "A")]
    assert (await api.get("/users")).json() == {"users": users}
    assert (await api.get("/users?zone_id=A")).json() == {"users": [users[0], users[2]]}
    assert (await api.get("/users?global_id=8")).json() == {"users": [users[1]]}
    assert (await api.get("/users?global_id=8&zone_id=A")).json() == {"users": []}
    assert (await api.get("/users?skip=1&limit=1")).json() == {"users": [users[1]]}
    assert (await api.get("/users?zone_id=nowhere")).json() == {"users": []}
    assert (await api.get("/users/count")).json() == {"count": 3}


async def test_a_patch_moves_renames_and_unassigns(api: Api) -> None:
    """Each write raises the version and tells the channels that it changed."""
    await api.make_zones("A", "B")
    user = await api.make_user(1, "A")
    path = f"/users/{user['id']}"
    response = await api.patch(path, json={"name": "Ada", "zone_id": "B"})
    assert response.json() == {**user, "name": "Ada", "zone_id": "B", "version": 2}
    assert response.headers["etag"] == '"2"'
    assert set(api.positions(response)) == {"zone:A", "zone:B"}
    response = await api.patch(path, json={"zone_id": None})
    assert response.json()["zone_id"] is None
    assert set(api.positions(response)) == {"zone:B", "unassigned"}
    response = await api.patch(path, json={})
    assert (response.json()["version"], api.positions(response)) == (3, {})


async def test_a_deleted_user_is_gone(api: Api) -> None:
    """204 with the position of the zone that it left."""
    await api.make_zones("A")
    user = await api.make_user(1, "A")
    response = await api.delete(f"/users/{user['id']}")
    assert (response.status_code, response.content) == (204, b"")
    assert set(api.positions(response)) == {"zone:A"}
    api.problem(await api.get(f"/users/{user['id']}"), 404, "not-found")


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ('"1"', 200),
        ('"7", "1"', 200),
        ("*", 200),
        ('"2"', 412),
        ('W/"1"', 412),
        ('"x"', 412),
        ('""', 412),
        ("1", 400),
        ('"1', 400),
    ],
)
async def test_a_write_holds_to_if_match(api: Api, header: str, status: int) -> None:
    """Only at the version named; what is not written well is refused, not ignored."""
    user = await api.make_user(1)
    path, headers = f"/users/{user['id']}", {"If-Match": header}
    response = await api.patch(path, json={"name": "Ada"}, headers=headers)
    if status == 200:
        assert response.json()["version"] == 2
        assert (await api.delete(path, headers={"If-Match": '"2"'})).status_code == 204
    else:
        api.problem(response, status)
        api.problem(await api.delete(path, headers=headers), status)
        assert (await api.get(path)).json() == user


async def test_of_two_writers_with_the_same_version_one_wins(api: Api) -> None:
    """The second is told which version there is now."""
    user = await api.make_user(1)
    path, headers = f"/users/{user['id']}", {"If-Match": '"1"'}
    assert (await api.patch(path, json={"name": "B"}, headers=headers)).status_code == 200
    problem = api.problem(await api.patch(path, json={"name": "C"}, headers=headers), 412)
    assert problem["type"] == "/problems/version-mismatch"
    assert problem["actual"] == 2


async def test_a_known_version_is_not_sent_again(api: Api) -> None:
    """304 with the tag and without a body, until the user changes."""
    user = await api.make_user(1)
    path, headers = f"/users/{user['id']}", {"If-None-Match": '"1"'}
    response = await api.get(path, headers=headers)
    assert (response.status_code, response.content) == (304, b"")
    assert response.headers["etag"] == '"1"'
    await api.patch(path, json={"name": "B"})
    assert (await api.get(path, headers=headers)).status_code == 200


async def test_ids_out_of_range_are_invalid(api: Api, subtests: pytest.Subtests) -> None:
    """422 on each route that names a user; the database is not asked."""
    for user_id in ("0", "-1", "9007199254740992", "9" * 30, "9" * 5_000, "x", "1.5", "1e3"):
        path = f"/users/{user_id}"
        for response in (
            await api.get(path),
            await api.patch(path, json={"name": "A"}),
            await api.delete(path),
            await api.post(f"{path}/transfer", json={"zone_id": None}),
        ):
            with subtests.test(user_id=user_id[:30], method=response.request.method):
                problem = api.problem(response, 422, "invalid")
                assert problem["errors"][0]["loc"] == ["path", "user_id"]


async def test_an_unknown_user_is_not_found(api: Api) -> None:
    """404 on each route that names a user, with the key."""
    path = "/users/9007199254740991"
    for response in (
        await api.get(path),
        await api.patch(path, json={"name": "A"}),
        await api.patch(path, json={"name": "A"}, headers={"If-Match": '"1"'}),
        await api.delete(path),
        await api.post(f"{path}/transfer", json={"zone_id": None}),
    ):
        problem = api.problem(response, 404, "not-found")
        assert (problem["kind"], problem["key"]) == ("user", 2**53 - 1)


async def test_a_user_cannot_be_made_twice_or_nowhere(api: Api) -> None:
    """A taken global id is 409, an unknown zone 404; nothing is left of either."""
    await api.make_user(1)
    problem = api.problem(await api.post("/users", json={"global_id": 1, "name": "B"}), 409)
    assert (problem["kind"], problem["key"]) == ("user", 1)
    sent = {"global_id": 2, "name": "B", "zone_id": "nowhere"}
    problem = api.problem(await api.post("/users", json=sent), 404, "not-found")
    assert (problem["kind"], problem["key"]) == ("zone", "nowhere")
    assert (await api.get("/users/count")).json() == {"count": 1}


async def test_a_bulk_makes_all_in_order_and_in_one_transaction(api: Api) -> None:
    """201 with the users in the order given; each channel moves by one revision."""
    await api.make_zones("A")
    rows = [{"global_id": 900 - n, "name": f"u{n}", "zone_id": "A"} for n in range(200)]
    response = await api.post("/users/bulk", json={"users": rows})
    assert response.status_code == 201
    users = response.json()["users"]
    assert [user["global_id"] for user in users] == [row["global_id"] for row in rows]
    assert [user["id"] for user in users] == sorted(user["id"] for user in users)
    assert api.positions(response)["zone:A"].endswith(":1")


BAD_ROWS: list[tuple[dict[str, Any], int]] = [
    ({"global_id": 0, "name": "B"}, 422),
    ({"global_id": 2, "name": ""}, 422),
    ({"global_id": 2, "name": "B", "zone": "A"}, 422),
    ({"global_id": 1, "name": "B"}, 409),
    ({"global_id": 50, "name": "B"}, 409),
    ({"global_id": 2, "name": "B", "zone_id": "nowhere"}, 404),
]


async def test_a_bulk_with_one_bad_row_makes_none(api: Api, subtests: pytest.Subtests) -> None:
    """The problem has the row's index, counted from 0."""
    await api.make_user(1)
    for row, status in BAD_ROWS:
        with subtests.test(row=row):
            rows = [{"global_id": 50, "name": "A"}, {"global_id": 51, "name": "A"}, row]
            response = await api.post("/users/bulk", json={"users": rows})
            assert api.problem(response, status)["index"] == 2
            assert (await api.get("/users/count")).json() == {"count": 1}


async def test_a_body_over_the_limit_is_refused_on_the_wire(api: Api) -> None:
    """413 reaches the client though it is still sending, and the connection serves on."""
    content = b'{"users": [' + b" " * 3_000_000 + b"]}"
    headers = {"content-type": "application/json"}
    for _ in range(2):
        response = await api.post("/users/bulk", content=content, headers=headers)
        api.problem(response, 413, "body-too-large")
    assert (await api.get("/users/count")).json() == {"count": 0}
