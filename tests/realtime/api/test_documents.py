"""Bodies hold what they may and nothing else; the table is the contract."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from realtime.api import documents
from realtime.api.documents import Body


def nested(depth: int) -> dict[str, Any]:
    """Attributes nested `depth` deep."""
    value: dict[str, Any] = {}
    for _ in range(depth - 1):
        value = {"a": value}
    return value


ZONE = {"zone_id": "F1-Z1", "name": "Hall"}
USER = {"global_id": 1, "name": "Ada"}
MOVE = {"user_id": 1, "zone_id": None}

REFUSED: list[tuple[type[Body], dict[str, Any], tuple[str | int, ...]]] = [
    (documents.NewZone, {"name": "Hall"}, ("zone_id",)),
    (documents.NewZone, {**ZONE, "zone_id": ""}, ("zone_id",)),
    (documents.NewZone, {**ZONE, "zone_id": "a" * 65}, ("zone_id",)),
    (documents.NewZone, {**ZONE, "zone_id": "a/b"}, ("zone_id",)),
    (documents.NewZone, {**ZONE, "zone_id": "a\n"}, ("zone_id",)),
    (documents.NewZone, {**ZONE, "zone_id": "Zürich"}, ("zone_id",)),
    (documents.NewZone, {**ZONE, "zone_id": 7}, ("zone_id",)),
    (documents.NewZone, {**ZONE, "name": ""}, ("name",)),
    (documents.NewZone, {**ZONE, "name": "a" * 201}, ("name",)),
    (documents.NewZone, {**ZONE, "name": "a\x00"}, ("name",)),
    (documents.NewZone, {**ZONE, "name": "a\nb"}, ("name",)),
    (documents.NewZone, {**ZONE, "name": "a\x85"}, ("name",)),
    (documents.NewZone, {**ZONE, "name": None}, ("name",)),
    (documents.NewZone, {**ZONE, "nmae": "Hall"}, ("nmae",)),
    (documents.NewZone, {**ZONE, "attributes": []}, ("attributes",)),
    (documents.NewZone, {**ZONE, "attributes": None}, ("attributes",)),
    (documents.NewZone, {**ZONE, "attributes": {"a": "\x00"}}, ("attributes",)),
    (documents.NewZone, {**ZONE, "attributes": {"\x00": 1}}, ("attributes",)),
    (documents.NewZone, {**ZONE, "attributes": {"a": [{"b": "\x00"}]}}, ("attributes",)),
    (documents.NewZone, {**ZONE, "attributes": {"a": 2**53}}, ("attributes",)),
    (documents.NewZone, {**ZONE, "attributes": {"a": -(2**70)}}, ("attributes",)),
    (documents.NewZone, {**ZONE, "attributes": nested(17)}, ("attributes",)),
    (documents.NewZone, {**ZONE, "attributes": {"a": "x" * 16_384}}, ("attributes",)),
    (documents.NewUser, {**USER, "global_id": 0}, ("global_id",)),
    (documents.NewUser, {**USER, "global_id": -1}, ("global_id",)),
    (documents.NewUser, {**USER, "global_id": 2**53}, ("global_id",)),
    (documents.NewUser, {**USER, "global_id": "1"}, ("global_id",)),
    (documents.NewUser, {**USER, "global_id": 1.0}, ("global_id",)),
    (documents.NewUser, {**USER, "global_id": True}, ("global_id",)),
    (documents.NewUser, {**USER, "id": 1}, ("id",)),
    (documents.NewUsers, {"users": []}, ("users",)),
    (documents.NewUsers, {"users": [USER] * 1_001}, ("users",)),
    (documents.NewUsers, {"users": [USER, {**USER, "name": ""}]}, ("users", 1, "name")),
    (documents.NewUsers, {"users": USER}, ("users",)),
    (documents.UserPatch, {"name": None}, ("name",)),
    (documents.UserPatch, {"attributes": None}, ("attributes",)),
    (documents.UserPatch, {"version": 3}, ("version",)),
    (documents.UserPatch, {"zone_id": ""}, ("zone_id",)),
    (documents.Destination, {}, ("zone_id",)),
    (documents.Transfers, {"transfers": [MOVE, {"user_id": 1}]}, ("transfers", 1, "zone_id")),
    (documents.Transfers, {"transfers": [{"zone_id": None}]}, ("transfers", 0)),
    (documents.Transfers, {"transfers": [{**MOVE, "global_id": 1}]}, ("transfers", 0)),
    (documents.Transfers, {"transfers": []}, ("transfers",)),
    (documents.Transfers, {"transfers": [MOVE] * 1_001}, ("transfers",)),
]


@pytest.mark.parametrize(("model", "body", "loc"), REFUSED)
def test_a_bad_body_is_refused_at_its_place(
    model: type[Body], body: dict[str, Any], loc: tuple[str | int, ...]
) -> None:
    """The first error names exactly the place that is wrong."""
    with pytest.raises(ValidationError) as caught:
        model.model_validate(body)
    assert caught.value.errors()[0]["loc"] == loc


TAKEN: list[tuple[type[Body], dict[str, Any]]] = [
    (documents.NewZone, {**ZONE, "zone_id": "A.b_c-9" + "z" * 57}),
    (documents.NewZone, {**ZONE, "name": "é" * 200}),
    (documents.NewZone, {**ZONE, "attributes": nested(16)}),
    (documents.NewZone, {**ZONE, "attributes": {"a": [1.5e300, -(2**53) + 1, None, True, "é"]}}),
    (documents.NewZone, {**ZONE, "attributes": {"a": "x" * 16_376}}),
    (documents.NewUser, {**USER, "global_id": 2**53 - 1, "zone_id": None}),
    (documents.NewUsers, {"users": [USER] * 1_000}),
    (documents.Transfers, {"transfers": [MOVE, {"global_id": 9, "zone_id": "A"}, MOVE]}),
]


@pytest.mark.parametrize(("model", "body"), TAKEN)
def test_a_good_body_is_taken_up_to_the_bounds(model: type[Body], body: dict[str, Any]) -> None:
    """What lies on a bound is within it, and keeps its value."""
    assert model.model_validate(body).model_dump(exclude_unset=True) == body


def test_a_patch_has_only_the_keys_that_were_given() -> None:
    """A key left out is no change; null is one where it has a meaning."""
    assert documents.UserPatch.model_validate({"zone_id": None}).given() == {"zone_id": None}
    assert documents.UserPatch.model_validate({}).given() == {}
    assert documents.ZonePatch.model_validate({"name": "B"}).given() == {"name": "B"}
