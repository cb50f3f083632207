"""The users dict answered at once: the same as by its route, and never from an old copy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.realtime.api.conftest import StartApi

COMPARED = ("content-type", "content-length", "cache-control", "etag")


@pytest.mark.parametrize("is_conditional", [False, True])
async def test_what_is_ready_is_answered_as_by_the_route(
    start_api: StartApi, *, is_conditional: bool
) -> None:
    """A query sends a request by the route, where all that is not ready is answered."""
    async with start_api() as (api, live):
        await api.make_zones("A")
        await api.post("/users", json={"global_id": 7, "name": "Ada", "zone_id": "A"})
        etag = (await api.get("/users-dict")).headers["etag"]
        headers = {"If-None-Match": etag} if is_conditional else {}
        hits = live.node.cache.get_stats().near.hits
        ready = await api.get("/users-dict", headers=headers)
        routed = await api.get("/users-dict?use_cache=true", headers=headers)
        assert live.node.cache.get_stats().near.hits == hits + 2
        assert ready.status_code == routed.status_code == (304 if is_conditional else 200)
        assert ready.content == routed.content
        for name in COMPARED:
            assert ready.headers.get(name) == routed.headers.get(name), name
        counted = (await api.get("/metrics")).text
        line = f'route="/users-dict",status="{ready.status_code}"'
        assert any(line in text for text in counted.splitlines())


async def test_a_write_is_in_what_is_answered_next(start_api: StartApi) -> None:
    """Also to who brings the tag of the copy before."""
    async with start_api() as (api, _live):
        await api.make_zones("A", "B")
        made = await api.post("/users", json={"global_id": 7, "name": "Ada", "zone_id": "A"})
        for zone_id in "BAB":
            before = await api.get("/users-dict")
            await api.post(f"/users/{made.json()['id']}/transfer", json={"zone_id": zone_id})
            known = {"If-None-Match": before.headers["etag"]}
            after = await api.get("/users-dict", headers=known)
            assert after.status_code == 200
            assert after.json()["7"]["zone_id"] == zone_id


@pytest.mark.parametrize("value", ['W/"x", {}', "*", "{}, {}"])
async def test_other_lists_of_tags_are_read_as_ever(start_api: StartApi, value: str) -> None:
    """The copy's own tag is what most clients send; all else is read by the rules."""
    async with start_api() as (api, _live):
        etag = (await api.get("/users-dict")).headers["etag"]
        known = {"If-None-Match": value.replace("{}", etag)}
        assert (await api.get("/users-dict", headers=known)).status_code == 304
        broken = await api.get("/users-dict", headers={"If-None-Match": "no tag"})
        assert broken.status_code == 400
