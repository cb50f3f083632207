"""The WebSocket of a whole node: what is written over HTTP is what watchers see."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from websockets.asyncio.client import connect

from channels.digest import digest_users
from realtime.settings import Settings
from tests.realtime.wire_world import Talker

if TYPE_CHECKING:
    from tests.realtime.conftest import LiveNode, StartNode


@contextlib.asynccontextmanager
async def talking(live: LiveNode) -> AsyncIterator[Talker]:
    """Open a connection that is connected."""
    async with connect(live.ws_url, max_size=None) as socket:
        talker = Talker(socket)
        assert "connect" in await talker.ask("connect")
        yield talker


@pytest.fixture
async def http(live_node: LiveNode) -> AsyncIterator[httpx.AsyncClient]:
    """Return a client of the node's HTTP API, with zones A, B and C made."""
    async with httpx.AsyncClient(base_url=live_node.url) as client:
        for zone_id in "ABC":
            answer = await client.post("/zones", json={"zone_id": zone_id, "name": zone_id})
            assert answer.status_code == 201
        yield client


async def create_user(http: httpx.AsyncClient, global_id: int, zone_id: str | None) -> int:
    """Create a user and return its id."""
    answer = await http.post(
        "/users", json={"global_id": global_id, "name": f"user {global_id}", "zone_id": zone_id}
    )
    assert answer.status_code == 201
    user_id: int = answer.json()["id"]
    return user_id


async def move(http: httpx.AsyncClient, *moves: tuple[int, str | None]) -> None:
    """Transfer users in one transaction."""
    body = [{"user_id": user_id, "zone_id": zone_id} for user_id, zone_id in moves]
    answer = await http.post("/transfers", json={"transfers": body})
    assert answer.status_code == 200


class Picture:
    """Zones as a client materialises them, checking the promises as it goes."""

    def __init__(self) -> None:
        self.users: dict[str, dict[int, dict[str, Any]]] = {}
        self.positions: dict[str, tuple[str, int]] = {}

    def begin(self, channel: str, result: dict[str, Any]) -> None:
        """Take the reply to a subscribe."""
        if "data" in result:
            self.users[channel] = {user["id"]: user for user in result["data"]["users"]}
        for publication in result.get("publications", []):
            self._apply(channel, publication["data"]["events"])
        self.positions[channel] = (result["epoch"], result["offset"])

    def push(self, push: dict[str, Any]) -> None:
        """Take a change, which is the next one of its channel."""
        channel = push["channel"]
        epoch, rev = self.positions[channel]
        assert push["pub"]["offset"] == rev + 1
        self.positions[channel] = (epoch, rev + 1)
        self._apply(channel, push["pub"]["data"]["events"])

    def _apply(self, channel: str, events: list[dict[str, Any]]) -> None:
        for event in events:
            if event["type"] == "left":
                del self.users[channel][event["user_id"]]
            elif event["type"] in {"entered", "changed"}:
                self.users[channel][event["user"]["id"]] = event["user"]

    def digest(self, channel: str) -> str:
        """Digest what is shown of a channel."""
        shown = self.users[channel].values()
        return digest_users((user["id"], user["version"]) for user in shown)


async def assert_equal(http: httpx.AsyncClient, picture: Picture) -> None:
    """The picture is the database's, to the version and digest."""
    for channel, users in picture.users.items():
        state = (await http.get(f"/zones/{channel.removeprefix('zone:')}/snapshot")).json()
        assert picture.positions[channel] == (state["epoch"], state["rev"])
        assert sorted(users) == [user["id"] for user in state["users"]]
        assert picture.digest(channel) == state["digest"]


async def test_a_commit_is_a_publish(live_node: LiveNode, http: httpx.AsyncClient) -> None:
    """A user moved over HTTP leaves one zone and enters the other in one message."""
    user_id = await create_user(http, 1001, "A")
    async with talking(live_node) as talker:
        state = (await talker.subscribe("zone:A"))["data"]
        assert [user["global_id"] for user in state["users"]] == [1001]
        await talker.subscribe("zone:B")
        answer = await http.post(f"/users/{user_id}/transfer", json={"zone_id": "B"})
        left, entered = (line["push"] for line in await talker.message())
        assert left["pub"]["data"]["events"] == [{"type": "left", "user_id": user_id, "version": 2}]
        assert entered["pub"]["data"]["events"] == [{"type": "entered", "user": answer.json()}]
        assert left["pub"]["data"]["tx"] == entered["pub"]["data"]["tx"]
        positions = answer.headers["zonecast-positions"]
        epoch = state["epoch"]
        assert f"zone:A={epoch}:{left['pub']['offset']}" in positions


async def test_the_directory_and_the_unassigned_are_channels_too(
    live_node: LiveNode, http: httpx.AsyncClient
) -> None:
    """Zones and users without a zone are followed like any zone."""
    async with talking(live_node) as talker:
        zones = (await talker.subscribe("zones"))["data"]["zones"]
        assert [zone["zone_id"] for zone in zones] == ["A", "B", "C"]
        assert (await talker.subscribe("unassigned"))["data"]["users"] == []
        await http.post("/zones", json={"zone_id": "D", "name": "Deck"})
        (event,) = (await talker.line())["push"]["pub"]["data"]["events"]
        assert (event["type"], event["zone"]["name"]) == ("zone_created", "Deck")
        await create_user(http, 7, None)
        push = (await talker.line())["push"]
        assert (push["channel"], push["pub"]["offset"]) == ("unassigned", 1)


async def test_pictures_stay_equal_to_the_database_under_many_writes(
    live_node: LiveNode, http: httpx.AsyncClient
) -> None:
    """Watchers who come early, late, and in the middle end with exactly what is stored."""
    ids = [await create_user(http, number, "ABC"[number % 3]) for number in range(1, 31)]
    done = asyncio.Event()

    async def follow(channels: list[str]) -> Picture:
        picture = Picture()
        async with talking(live_node) as talker:
            for channel in channels:
                await talker.say(
                    {"id": len(picture.positions) + 100, "subscribe": {"channel": channel}}
                )
                while "id" not in (line := await talker.line()):
                    picture.push(line["push"])
                picture.begin(channel, line["subscribe"])
            await done.wait()
            await talker.say({"id": 999, "ping": {}})
            while "id" not in (line := await talker.line()):
                picture.push(line["push"])
        return picture

    async def write(part: int) -> None:
        for step in range(20):
            chosen = ids[part::3][step % 10 :][:3]
            target = "ABC"[(step + part) % 3]
            await move(http, *((user_id, target) for user_id in chosen))

    async with asyncio.TaskGroup() as watchers:
        early = watchers.create_task(follow(["zone:A", "zone:B", "zone:C"]))
        async with asyncio.TaskGroup() as writers:
            for part in range(3):
                writers.create_task(write(part))
            middle = watchers.create_task(follow(["zone:B", "zone:A"]))
        late = watchers.create_task(follow(["zone:C"]))
        done.set()
    for watcher in (early, middle, late):
        await assert_equal(http, watcher.result())


async def test_who_was_away_recovers_over_a_new_connection(
    live_node: LiveNode, http: httpx.AsyncClient
) -> None:
    """Positions outlive connections: what was missed comes as changes."""
    user_id = await create_user(http, 1, "A")
    picture = Picture()
    async with talking(live_node) as talker:
        picture.begin("zone:A", await talker.subscribe("zone:A"))
    for zone_id in "BABA":
        await move(http, (user_id, zone_id))
    epoch, rev = picture.positions["zone:A"]
    async with talking(live_node) as talker:
        result = await talker.subscribe("zone:A", recover=True, epoch=epoch, offset=rev)
        assert result["recovered"] is True
        assert [publication["offset"] for publication in result["publications"]] == [2, 3, 4, 5]
        picture.begin("zone:A", result)
        await assert_equal(http, picture)


async def test_who_missed_too_much_gets_the_state(
    sqlite_url: str, start_node: StartNode, make_settings: Callable[..., Settings]
) -> None:
    """Beyond the bound on changes to resume, the state is cheaper and comes instead."""
    settings = make_settings(database_url=sqlite_url, resume_max_changes=3)
    async with (
        start_node(settings) as live,
        httpx.AsyncClient(base_url=live.url) as http,
        talking(live) as talker,
    ):
        for zone_id in "AB":
            await http.post("/zones", json={"zone_id": zone_id, "name": zone_id})
        user_id = await create_user(http, 1, "A")
        epoch = (await talker.subscribe("zone:A"))["epoch"]
        await talker.ask("unsubscribe", channel="zone:A")
        for zone_id in "BABA":
            await move(http, (user_id, zone_id))
        picture = Picture()
        result = await talker.subscribe("zone:A", recover=True, epoch=epoch, offset=1)
        assert "recovered" not in result
        picture.begin("zone:A", result)
        await assert_equal(http, picture)


async def test_history_comes_from_the_change_log(
    live_node: LiveNode, http: httpx.AsyncClient
) -> None:
    """Retained changes can be read without a subscription, forward and backward."""
    user_id = await create_user(http, 1, "A")
    for zone_id in "BABA":
        await move(http, (user_id, zone_id))
    async with talking(live_node) as talker:
        bare = (await talker.ask("history", channel="zone:A"))["history"]
        assert "publications" not in bare
        forward = (await talker.ask("history", channel="zone:A", limit=3))["history"]
        backward = (await talker.ask("history", channel="zone:A", limit=3, reverse=True))["history"]
        assert [p["offset"] for p in forward["publications"]] == [1, 2, 3]
        assert [p["offset"] for p in backward["publications"]] == [5, 4, 3]
        since = {"epoch": bare["epoch"], "offset": 4}
        rest = (await talker.ask("history", channel="zone:A", limit=9, since=since))["history"]
        assert [p["offset"] for p in rest["publications"]] == [5]


async def test_a_deleted_zone_says_so_and_ends(
    live_node: LiveNode, http: httpx.AsyncClient
) -> None:
    """Its watchers get the deletion and unsubscribe 2000; made again, it has another epoch."""
    async with talking(live_node) as talker:
        epoch = (await talker.subscribe("zone:A"))["epoch"]
        assert (await http.delete("/zones/A")).status_code == 204
        events = (await talker.line())["push"]["pub"]["data"]["events"]
        assert events[-1] == {"type": "zone_deleted", "zone_id": "A"}
        assert (await talker.line())["push"]["unsubscribe"]["code"] == 2000
        assert (await talker.ask("subscribe", channel="zone:A"))["error"]["code"] == 102
        await http.post("/zones", json={"zone_id": "A", "name": "again"})
        result = await talker.subscribe("zone:A", recover=True, epoch=epoch, offset=1)
        assert result["epoch"] != epoch
        assert result["data"]["zone"]["name"] == "again"
