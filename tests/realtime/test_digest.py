"""Digests on demand: over WebSocket and HTTP, of the replica and of the database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from channels.digest import digest_users
from realtime.settings import Settings
from tests.realtime.conftest import LiveNode, serving
from tests.realtime.plain_client import plain_client
from tests.realtime.wire_world import served


async def test_the_rpc_tells_digest_and_position() -> None:
    """Of a channel that is watched here, and of one that isn't."""
    async with served() as world, world.talker("zone:A") as talker:
        world.commit((1, "A"), (2, "A"))
        world.commit((3, "B"))
        await talker.line()
        for channel, rev, count, source in (
            ("zone:A", 1, 2, "replica"),
            ("zone:B", 1, 1, "database"),
        ):
            reply = await talker.ask("rpc", method="digest", data={"channel": channel})
            versions = [(user.id, user.version) for user in world.truth.users.values()]
            mine = versions[:2] if channel == "zone:A" else versions[2:]
            assert reply["rpc"] == {
                "data": {
                    "channel": channel,
                    "epoch": "e1",
                    "rev": rev,
                    "digest": digest_users(mine),
                    "count": count,
                    "source": source,
                }
            }


@pytest.mark.parametrize("channel", ["zones", "unassigned"])
async def test_every_channel_has_a_digest(channel: str) -> None:
    """It is that of the state that a subscriber gets, also after a change."""
    async with served() as world:
        world.commit((1, None))
        async with world.talker(channel) as talker:
            for change in world.truth.create_zone("N", "e1", [(2, None)]).changes:
                world.bus.bring(change)
            await talker.line()
            reply = await talker.ask("rpc", method="digest", data={"channel": channel})
            async with world.talker() as other:
                state = (await other.subscribe(channel))["data"]
    found = reply["rpc"]["data"]
    assert (found["digest"], found["rev"]) == (state["digest"], state["rev"])
    assert found["count"] == len(state.get("zones", state.get("users")))


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"method": "nothing", "data": {}}, 104),
        ({"method": ""}, 104),
        ({}, 104),
        ({"method": 7}, 107),
        ({"method": "digest"}, 107),
        ({"method": "digest", "data": {}}, 107),
        ({"method": "digest", "data": {"channel": 7}}, 107),
        ({"method": "digest", "data": "zone:A"}, 107),
        ({"method": "digest", "data": {"channel": "zone:nowhere"}}, 102),
        ({"method": "digest", "data": {"channel": "a b"}}, 102),
    ],
)
async def test_a_call_that_cannot_be_answered_is_an_error(
    params: dict[str, object], code: int
) -> None:
    """And the connection goes on."""
    async with served() as world, world.talker() as talker:
        assert (await talker.ask("rpc", **params))["error"]["code"] == code
        assert (await talker.ask("ping"))["ping"] == {}


async def test_without_the_database_an_unwatched_digest_is_a_temporary_error() -> None:
    """A watched one is the replica's, and needs no database."""
    async with served() as world, world.talker("zone:A") as talker:
        world.truth.down = True
        watched = await talker.ask("rpc", method="digest", data={"channel": "zone:A"})
        assert watched["rpc"]["data"]["source"] == "replica"
        other = await talker.ask("rpc", method="digest", data={"channel": "zone:B"})
        assert (other["error"]["code"], other["error"]["temporary"]) == (100, True)


# Over HTTP


@pytest.fixture
async def live(
    database_url: str, make_settings: Callable[..., Settings]
) -> AsyncIterator[LiveNode]:
    """A node on either database, with a user in zone A."""
    settings = make_settings(database_url=database_url, min_position_wait_s=0.2)
    async with serving(settings) as live, client_of(live) as client:
        assert (await client.post("/zones", json={"zone_id": "A", "name": "A"})).is_success
        user = {"global_id": 1, "name": "Ada", "zone_id": "A"}
        assert (await client.post("/users", json=user)).is_success
        yield live


def client_of(live: LiveNode) -> httpx.AsyncClient:
    """Return an HTTP client of a node."""
    return httpx.AsyncClient(base_url=live.url)


async def test_both_sources_agree_and_say_which_they_are(live: LiveNode) -> None:
    """Position and digest are those of the snapshot; only a replica's has a tag."""
    async with client_of(live) as client, plain_client(live.ws_url, "zone:A"):
        snapshot = (await client.get("/zones/A/snapshot")).json()
        replica = await client.get("/zones/A/digest")
        rows = await client.get("/zones/A/digest?source=database")
        expected = {name: snapshot[name] for name in ("channel", "epoch", "rev", "digest")}
        assert replica.json() == {**expected, "count": 1, "source": "replica"}
        assert rows.json() == {**expected, "count": 1, "source": "database"}
        tag = replica.headers["etag"]
        known = await client.get("/zones/A/digest", headers={"If-None-Match": tag})
        assert known.status_code == 304
        assert "etag" not in rows.headers
        whole = await client.get("/zones/A/snapshot?source=database")
        assert whole.json() == snapshot
        assert "etag" not in whole.headers


async def test_an_unwatched_zone_has_the_digest_of_its_rows(live: LiveNode) -> None:
    """There is no replica then."""
    async with client_of(live) as client:
        found = (await client.get("/zones/A/digest")).json()
    assert (found["source"], found["count"]) == ("database", 1)


async def test_rows_written_by_hand_show_in_the_database_only(
    live: LiveNode, database_url: str
) -> None:
    """What the replica holds stays; the position is the same, which is why there is no tag."""
    async with client_of(live) as client, plain_client(live.ws_url, "zone:A"):
        engine = create_async_engine(database_url)
        async with engine.begin() as connection:
            await connection.execute(text("UPDATE users SET version = 7, name = 'Eve'"))
        await engine.dispose()
        replica = (await client.get("/zones/A/digest")).json()
        rows = (await client.get("/zones/A/digest?source=database")).json()
        assert replica["rev"] == rows["rev"]
        assert replica["digest"] != rows["digest"]
        told = (await client.get("/zones/A/snapshot")).json()
        written = (await client.get("/zones/A/snapshot?source=database")).json()
    assert [side["users"][0]["name"] for side in (told, written)] == ["Ada", "Eve"]


async def test_a_digest_is_never_older_than_min(live: LiveNode) -> None:
    """The header of a write's response can be passed as it is, here and for the snapshot."""
    async with client_of(live) as client, plain_client(live.ws_url, "zone:A"):
        for number in range(2, 6):
            user = {"global_id": number, "name": "u", "zone_id": "A"}
            made = await client.post("/users", json=user)
            header = made.headers["Zonecast-Positions"]
            assert header.startswith("zone:A=")
            for path in ("digest", "snapshot"):
                found = await client.get(f"/zones/A/{path}", params={"min": header})
                assert header == f"zone:A={found.json()['epoch']}:{found.json()['rev']}"


@pytest.mark.parametrize("path", ["digest", "snapshot"])
async def test_what_the_query_may_not_hold_is_refused(live: LiveNode, path: str) -> None:
    """An unreadable `min`, another source, a zone that isn't there."""
    async with client_of(live) as client:
        for query in ("min=x", "min=", "min=abc:1,x", "source=replica", "min=" + "a" * 9_000):
            assert (await client.get(f"/zones/A/{path}?{query}")).status_code == 422, query
        for query in ("", "?source=database"):
            assert (await client.get(f"/zones/nowhere/{path}{query}")).status_code == 404


async def test_the_digest_is_documented(live: LiveNode) -> None:
    """With both parameters and its shape."""
    async with client_of(live) as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
    described = paths["/zones/{zone_id}/digest"]["get"]
    assert {one["name"] for one in described["parameters"]} == {"zone_id", "min", "source"}
    schema = described["responses"]["200"]["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/DigestDocument"}


async def test_digests_asked_for_together_are_each_of_one_state(live: LiveNode) -> None:
    """While the zone moves, count and digest always belong to the position."""
    async with client_of(live) as client, plain_client(live.ws_url, "zone:A"):
        found: dict[int, set[str]] = {}
        for number in range(2, 12):
            user = {"global_id": number, "name": "u", "zone_id": "A"}
            answers = await asyncio.gather(
                client.post("/users", json=user),
                client.get("/zones/A/digest"),
                client.get("/zones/A/digest?source=database"),
            )
            for answer in answers[1:]:
                body = answer.json()
                assert body["count"] == body["rev"]
                found.setdefault(body["rev"], set()).add(body["digest"])
    assert all(len(digests) == 1 for digests in found.values())
