"""Who is connected, what a node follows, and sending somebody away."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from realtime.api import admin
from tests.realtime.event_source import event_source
from tests.realtime.plain_client import plain_client

if TYPE_CHECKING:
    from tests.realtime.api.conftest import Api
    from tests.realtime.conftest import LiveNode


async def connections(api: Api, **params: Any) -> dict[str, Any]:
    """Read them."""
    response = await api.get("/admin/connections", params=params)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def test_every_route_is_marked_for_administrators() -> None:
    """A policy that goes by the tag leaves none of them out."""
    assert {route.path for route in admin.router.routes if "admin" in route.tags} == {  # type: ignore[attr-defined]  # all of them are API routes
        "/admin/connections",
        "/admin/channels",
        "/admin/disconnect",
    }


async def test_connections_of_both_transports_are_listed(api: Api, live_node: LiveNode) -> None:
    """Each with its peer, what it watches, and what waits for it."""
    await api.make_zones("A", "B")
    async with (
        plain_client(live_node.ws_url, "zone:A", "zone:B"),
        event_source(live_node.url, "A") as source,
    ):
        await source.next("snapshot")
        found = await connections(api)
        assert found["node"] == live_node.node.node_id
        assert (found["total"], found["slow"], found["stopping"]) == (2, 0, False)
        listed = {row["transport"]: row for row in found["connections"]}
        assert listed["websocket"]["channels"] == 2
        assert listed["sse"]["channels"] == 1
        for row in listed.values():
            assert row["peer"].startswith("127.0.0.1:")
            assert (row["queued_bytes"], row["slow"]) == (0, False)
        assert len((await connections(api, limit=1))["connections"]) == 1
    api.problem(await api.get("/admin/connections", params={"limit": 0}), 422)


async def test_channels_are_listed_by_their_watchers(api: Api, live_node: LiveNode) -> None:
    """With position and users, so that nodes can be compared at a glance."""
    await api.make_zones("A", "B")
    await api.make_user(1, "B")
    async with (
        plain_client(live_node.ws_url, "zone:A", "zone:B") as one,
        plain_client(live_node.ws_url, "zone:B"),
    ):
        found = (await api.get("/admin/channels")).json()
        assert found["bus"] == "live"
        assert found["stale_since_ms"] is None
        assert found["unverified_ms"] < 10_000
        assert [(row["channel"], row["watchers"], row["users"]) for row in found["channels"]] == [
            ("zone:B", 2, 1),
            ("zone:A", 1, 0),
        ]
        epoch, rev = one.positions["zone:B"]
        assert (found["channels"][0]["epoch"], found["channels"][0]["rev"]) == (epoch, rev)


@pytest.mark.parametrize(("reconnect", "code"), [(False, 3503), (True, 3011)])
async def test_a_client_is_sent_away(
    api: Api, live_node: LiveNode, *, reconnect: bool, code: int
) -> None:
    """Its code tells it whether to come back."""
    async with plain_client(live_node.ws_url) as client:
        (row,) = (await connections(api))["connections"]
        body = {"id": row["id"], "reconnect": reconnect}
        assert (await api.post("/admin/disconnect", json=body)).json()["id"] == row["id"]
        assert (await client.until_closed())[0] == code
        again = await api.post("/admin/disconnect", json=body)
        api.problem(again, 404, "not-found")


async def test_a_stream_is_sent_away(api: Api, live_node: LiveNode) -> None:
    """It ends at once."""
    await api.make_zones("A")
    async with event_source(live_node.url, "A") as source:
        await source.next("snapshot")
        (row,) = (await connections(api))["connections"]
        assert (await api.post("/admin/disconnect", json={"id": row["id"]})).status_code == 200
        # Aborted: whatever is still buffered for it is dropped, and the body is cut short.
        with pytest.raises(httpx.RemoteProtocolError):
            await source.event()


async def test_a_long_poll_is_listed_and_ended(api: Api) -> None:
    """It is answered with what there is."""
    await api.make_zones("A")
    page = (await api.get("/zones/A/snapshot")).json()
    since = {"epoch": page["epoch"], "since_rev": page["rev"], "wait_s": 30}
    async with asyncio.TaskGroup() as tasks:
        polling = tasks.create_task(api.get("/zones/A/changes", params=since))
        while not (rows := (await connections(api))["connections"]):  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.01)
        assert rows[0]["transport"] == "long_poll"
        await api.post("/admin/disconnect", json={"id": rows[0]["id"]})
    assert polling.result().json()["changes"] == []
