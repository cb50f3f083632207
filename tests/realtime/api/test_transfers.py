"""Transfers over HTTP: one transaction, in order, all or nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

    from tests.realtime.api.conftest import Api


async def test_a_user_is_moved_and_unassigned(api: Api) -> None:
    """The answer is the user, with its tag and the positions of both zones."""
    await api.make_zones("A", "B")
    user = await api.make_user(1, "A")
    path = f"/users/{user['id']}/transfer"
    response = await api.post(path, json={"zone_id": "B"})
    assert response.status_code == 200
    assert response.json() == {**user, "zone_id": "B", "version": 2}
    assert response.headers["etag"] == '"2"'
    assert set(api.positions(response)) == {"zone:A", "zone:B"}
    response = await api.post(path, json={"zone_id": None})
    assert response.json()["zone_id"] is None
    assert set(api.positions(response)) == {"zone:B", "unassigned"}


async def test_a_move_to_where_the_user_is_changes_nothing(api: Api) -> None:
    """No error, no version, no position."""
    await api.make_zones("A")
    user = await api.make_user(1, "A")
    response = await api.post(f"/users/{user['id']}/transfer", json={"zone_id": "A"})
    assert (response.status_code, response.json()) == (200, user)
    assert api.positions(response) == {}


async def test_moves_of_one_request_are_one_transaction(api: Api) -> None:
    """Each channel moves by one revision; users are named by either id, and may come twice."""
    await api.make_zones("A", "B", "C")
    first, second = await api.make_user(1, "A"), await api.make_user(2, "A")
    moves = [
        {"user_id": first["id"], "zone_id": "B"},
        {"global_id": 2, "zone_id": "B"},
        {"global_id": 1, "zone_id": "C"},
        {"user_id": second["id"], "zone_id": "B"},
    ]
    response = await api.post("/transfers", json={"transfers": moves})
    assert response.status_code == 200
    users = response.json()["users"]
    assert {user["id"]: user["zone_id"] for user in users} == {first["id"]: "C", second["id"]: "B"}
    positions = api.positions(response)
    assert positions["zone:A"].endswith(":3")
    assert positions["zone:B"].endswith(":1")
    assert positions["zone:C"].endswith(":1")


BAD_MOVES: list[tuple[dict[str, Any], int]] = [
    ({"user_id": 9_999, "zone_id": "B"}, 404),
    ({"global_id": 9_999, "zone_id": "B"}, 404),
    ({"global_id": 1, "zone_id": "nowhere"}, 404),
    ({"user_id": 0, "zone_id": "B"}, 422),
    ({"global_id": 2**53, "zone_id": "B"}, 422),
    ({"global_id": 1}, 422),
    ({"zone_id": "B"}, 422),
    ({"global_id": 1, "user_id": 1, "zone_id": "B"}, 422),
    ({"global_id": 1, "zone_id": "a b"}, 422),
    ({"global_id": 1, "zone_id": "B", "when": "now"}, 422),
]


async def test_one_bad_row_refuses_all(api: Api, subtests: pytest.Subtests) -> None:
    """The problem has the row's index, and nobody has moved."""
    await api.make_zones("A", "B")
    user = await api.make_user(1, "A")
    for move, status in BAD_MOVES:
        with subtests.test(move=move):
            moves = [{"global_id": 1, "zone_id": "B"}, move]
            response = await api.post("/transfers", json={"transfers": moves})
            assert api.problem(response, status)["index"] == 1
            assert (await api.get(f"/users/{user['id']}")).json() == user


async def test_many_positions_come_in_short_header_lines(api: Api) -> None:
    """Clients refuse header lines of some KB, so many channels take several lines."""
    zone_ids = [f"{'z' * 60}{number}" for number in range(40)]
    await api.make_zones(*zone_ids)
    rows = [{"global_id": n, "name": "u", "zone_id": z} for n, z in enumerate(zone_ids, 1)]
    response = await api.post("/users/bulk", json={"users": rows})
    lines = response.headers.get_list("zonecast-positions")
    assert len(api.positions(response)) == 40
    assert len(lines) == 2
    assert max(map(len, lines)) < 4_096
