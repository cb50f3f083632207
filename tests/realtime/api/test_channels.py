"""A zone's channel over HTTP: snapshots with tags, changes with long polls."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from channels.digest import digest_users

if TYPE_CHECKING:
    from realtime.connections import Connections
    from tests.realtime.api.conftest import Api, StartApi
    from tests.realtime.conftest import LiveNode


async def until(connections: Connections, count: int) -> None:
    """Wait until a node has so many connections."""
    async with asyncio.timeout(5):
        while len(connections) != count:  # noqa: ASYNC110 -- there is no event for it.
            await asyncio.sleep(0.01)


async def test_a_snapshot_is_the_zone_at_its_revision(api: Api) -> None:
    """Zone, users and digest belong to `epoch` and `rev`, which are the tag."""
    await api.make_zones("A")
    user = await api.make_user(1, "A")
    response = await api.get("/zones/A/snapshot")
    body = response.json()
    assert list(body) == ["channel", "epoch", "rev", "zone", "users", "digest"]
    assert body["channel"] == "zone:A"
    assert body["rev"] == 1
    assert body["zone"] == {"zone_id": "A", "name": "A", "attributes": {}}
    assert body["users"] == [user]
    assert body["digest"] == digest_users([(user["id"], user["version"])])
    assert response.headers["etag"] == f'"{body["epoch"]}:1"'


async def test_a_known_snapshot_is_not_sent_again(api: Api) -> None:
    """304 until the zone changes."""
    await api.make_zones("A")
    tag = (await api.get("/zones/A/snapshot")).headers["etag"]
    response = await api.get("/zones/A/snapshot", headers={"If-None-Match": tag})
    assert (response.status_code, response.content) == (304, b"")
    assert response.headers["etag"] == tag
    await api.make_user(1, "A")
    response = await api.get("/zones/A/snapshot", headers={"If-None-Match": tag})
    assert (response.status_code, response.json()["rev"]) == (200, 1)


async def test_a_writer_reads_its_own_write(api: Api) -> None:
    """With `min` from a write's answer the snapshot is never older."""
    await api.make_zones("A")
    for number in range(1, 6):
        sent = {"global_id": number, "name": "u", "zone_id": "A"}
        position = api.positions(await api.post("/users", json=sent))["zone:A"]
        body = (await api.get("/zones/A/snapshot", params={"min": position})).json()
        assert len(body["users"]) == number
        assert f"{body['epoch']}:{body['rev']}" == position


async def test_a_minimum_that_never_was_gives_the_present_state(api: Api) -> None:
    """A foreign epoch or a future revision is told by what comes instead."""
    await api.make_zones("A")
    now = (await api.get("/zones/A/snapshot")).json()
    for minimum in ("abc123:7", f"{now['epoch']}:1000"):
        assert (await api.get("/zones/A/snapshot", params={"min": minimum})).json() == now


async def test_a_snapshot_over_the_limit_points_to_the_pages(start_api: StartApi) -> None:
    """413 names the paged route, and that works."""
    async with start_api(snapshot_max_bytes=600) as (api, _):
        await api.make_zones("A")
        assert (await api.get("/zones/A/snapshot")).status_code == 200
        for number in range(1, 11):
            await api.make_user(number, "A")
        for path in ("/zones/A/snapshot", "/zones/A?include=users"):
            problem = api.problem(await api.get(path), 413, "answer-too-large")
            assert len((await api.get(problem["pages"])).json()["users"]) == 10


async def test_changes_lead_from_a_revision_to_the_next(api: Api) -> None:
    """Ascending, without a hole, each with its transaction, time and events."""
    await api.make_zones("A")
    user = await api.make_user(1, "A")
    await api.patch(f"/users/{user['id']}", json={"name": "Ada"})
    await api.delete(f"/users/{user['id']}")
    body = (await api.get("/zones/A/changes")).json()
    assert list(body) == ["channel", "epoch", "from_rev", "rev", "changes"]
    assert (body["channel"], body["from_rev"], body["rev"]) == ("zone:A", 0, 3)
    assert [change["rev"] for change in body["changes"]] == [1, 2, 3]
    assert [set(change) for change in body["changes"]] == [{"rev", "tx", "time", "events"}] * 3
    kinds = [[event["type"] for event in change["events"]] for change in body["changes"]]
    assert kinds == [["entered"], ["changed"], ["left"]]
    assert body["changes"][0]["events"][0]["user"] == user
    assert body["changes"][0]["time"] > 1_600_000_000_000


async def test_changes_come_in_pages(api: Api) -> None:
    """`rev` is where the page ends and the next one begins."""
    await api.make_zones("A")
    for number in range(1, 6):
        await api.make_user(number, "A")
    found: list[int] = []
    rev = 0
    while True:
        params: dict[str, Any] = {"since_rev": rev, "limit": 2}
        body = (await api.get("/zones/A/changes", params=params)).json()
        assert body["from_rev"] == rev
        if not body["changes"]:
            break
        found += [change["rev"] for change in body["changes"]]
        rev = body["rev"]
    assert found == [1, 2, 3, 4, 5]
    assert rev == 5


async def test_positions_without_changes_are_gone(api: Api) -> None:
    """410 tells why, and where the channel is; then the snapshot is the way."""
    await api.make_zones("A")
    now = (await api.get("/zones/A/snapshot")).json()
    foreign = await api.get("/zones/A/changes", params={"epoch": "abc123", "since_rev": 0})
    problem = api.problem(foreign, 410, "position-gone")
    assert (problem["reason"], problem["epoch"]) == ("epoch", now["epoch"])
    future = await api.get("/zones/A/changes", params={"epoch": now["epoch"], "since_rev": 99})
    problem = api.problem(future, 410, "position-gone")
    assert (problem["reason"], problem["rev"]) == ("future", 0)
    waiting = await api.get("/zones/A/changes", params={"since_rev": 99, "wait_s": 20})
    api.problem(waiting, 410, "position-gone")


async def test_a_long_poll_answers_when_something_happens(api: Api) -> None:
    """The answer is held back until there is a change, and then it has it."""
    await api.make_zones("A")
    params: dict[str, Any] = {"since_rev": 0, "wait_s": 20}
    async with asyncio.TaskGroup() as group:
        poll = group.create_task(api.get("/zones/A/changes", params=params))
        await asyncio.sleep(0.2)
        assert not poll.done()
        await api.make_user(1, "A")
    body = poll.result().json()
    assert (body["from_rev"], body["rev"]) == (0, 1)
    assert body["changes"][0]["events"][0]["type"] == "entered"


async def test_a_long_poll_ends_empty_when_nothing_happens(api: Api) -> None:
    """After `wait_s` there are no changes to tell, and the position is the same."""
    await api.make_zones("A")
    began = asyncio.get_running_loop().time()
    params: dict[str, Any] = {"since_rev": 0, "wait_s": 0.2}
    body = (await api.get("/zones/A/changes", params=params)).json()
    assert asyncio.get_running_loop().time() - began >= 0.15
    assert (body["changes"], body["rev"]) == ([], 0)


async def test_a_stop_ends_long_polls(api: Api, live_node: LiveNode) -> None:
    """A waiting request is answered at once when the node says farewell."""
    await api.make_zones("A")
    params: dict[str, Any] = {"since_rev": 0, "wait_s": 30}
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        poll = group.create_task(api.get("/zones/A/changes", params=params))
        await until(live_node.node.connections, 1)
        live_node.node.connections.farewell()
    assert poll.result().json()["changes"] == []
    assert len(live_node.node.connections) == 0


async def test_a_poller_that_leaves_is_not_counted_on(api: Api, live_node: LiveNode) -> None:
    """A client that hangs up frees its place at once, not after the wait."""
    await api.make_zones("A")
    params: dict[str, Any] = {"since_rev": 0, "wait_s": 30}
    async with asyncio.timeout(5):
        async with asyncio.TaskGroup() as group:
            poll = group.create_task(api.get("/zones/A/changes", params=params))
            await until(live_node.node.connections, 1)
            poll.cancel()
        await until(live_node.node.connections, 0)


async def test_a_full_node_takes_no_long_polls(start_api: StartApi) -> None:
    """Waiting requests count as connections; beyond the limit they are sent away."""
    async with start_api(max_connections=1) as (api, live):
        await api.make_zones("A")
        params: dict[str, Any] = {"since_rev": 0, "wait_s": 20}
        async with asyncio.TaskGroup() as group:
            poll = group.create_task(api.get("/zones/A/changes", params=params))
            await until(live.node.connections, 1)
            second = await api.get("/zones/A/changes", params=params)
            assert api.problem(second, 503, "overloaded")
            assert second.headers["retry-after"] == "1"
            await api.make_user(1, "A")
        assert poll.result().json()["rev"] == 1
