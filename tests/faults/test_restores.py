"""A database that loses commits takes everybody with it, to exactly what it still holds.

Each way ends with the same revisions as before, and with other content: what an epoch is for.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
from sqlalchemy.engine import make_url

from channels.positions import Position, format_vector
from tests.conftest import migrate_to_head
from tests.faults.cluster import running_cluster
from tests.faults.restores import (
    BaseBackup,
    Dump,
    Failover,
    Known,
    Onlookers,
    Way,
    World,
    read_known,
)
from tests.nodes import NodeProcess, running_nodes
from tests.processes import Scratch
from tests.realtime.command_line import zonecast
from tests.realtime.event_source import event_source
from tests.realtime.plain_client import plain_client
from tests.servers import DATABASE, Binaries, Postgres, start_redis

NODES = 2
ANEW, GONE = 2502, 2000
WAYS: dict[str, Callable[[], Way]] = {
    "base backup": BaseBackup,
    "dump": Dump,
    "failover": Failover,
}


@pytest.fixture(scope="module")
async def world(
    postgres: Postgres, redis_binaries: Binaries, scratch: Scratch
) -> AsyncIterator[World]:
    """Nodes on a PostgreSQL and a Redis of their own; each test has a zone of its own."""
    server = await postgres.start_server()
    redis = await start_redis(redis_binaries, scratch)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(redis.stop)
        stack.push_async_callback(server.stop)
        await server.create_database(DATABASE)
        await migrate_to_head(server.url)
        nodes = running_cluster(scratch.new_folder("nodes"), server, redis, NODES)
        cluster = await stack.enter_async_context(nodes)
        http = [
            await stack.enter_async_context(
                httpx.AsyncClient(base_url=member.process.url, trust_env=False)
            )
            for member in cluster.members
        ]
        yield World(cluster, http)


class Story:
    """What is written into one zone: first what is kept, then what is lost, then other things.

    Attributes:
        zone_id: The zone.
        brief_id: A zone that is only in the lost history.
        user_ids: Two users who are in it from the beginning.
    """

    def __init__(self, world: World, zone_id: str, number: int) -> None:
        self.zone_id, self.brief_id = zone_id, f"{zone_id}-brief"
        self.user_ids: list[int] = []
        self._world = world
        self._number = number * 100

    async def keep(self) -> None:
        """Make the zone, and two users in it."""
        await self._world.write("POST", "/zones", {"zone_id": self.zone_id, "name": "kept"})
        for number in (1, 2):
            self.user_ids.append(await self._enter(number, "kept"))

    async def _enter(self, number: int, name: str) -> int:
        user = {"global_id": self._number + number, "name": name, "zone_id": self.zone_id}
        made = await self._world.write("POST", "/users", user)
        return int(made["id"])

    async def lose(self) -> None:
        """Write what is going to be lost, through both nodes: five revisions of the zone."""
        world, (first, second) = self._world, self.user_ids
        await world.write("PATCH", f"/users/{first}", {"name": "lost"}, node=1)
        await world.write("PATCH", f"/users/{first}", {"name": "lost again"})
        await world.write("POST", "/zones", {"zone_id": self.brief_id, "name": "brief"})
        await world.write("POST", f"/users/{second}/transfer", {"zone_id": self.brief_id})
        await self._enter(3, "lost")
        await self._enter(4, "lost")

    async def go_on(self) -> None:
        """Write other things into the same revisions, and two more."""
        world, (first, second) = self._world, self.user_ids
        for number in range(5):
            path, node = f"/users/{second}", number % NODES
            await world.write("PATCH", path, {"name": f"other {number}"}, node=node)
        await world.write("PATCH", f"/users/{first}", {"name": "other"})
        await self._enter(5, "other")


async def assert_served_right(world: World, lost: Known) -> None:
    """Check that no node serves anything of the lost history, to whom ever knows of it."""
    position, picture = await world.truth(f"zone:{lost.zone_id}")
    assert position.epoch != lost.position.epoch
    assert position.rev > lost.position.rev, "the lost revisions are there anew"
    for http in world.http:
        path = f"/zones/{lost.zone_id}/snapshot"
        answer = await http.get(
            path, params={"min": str(lost.position)}, headers={"If-None-Match": lost.state_tag}
        )
        assert answer.status_code == 200
        assert (answer.json()["epoch"], answer.json()["rev"]) == (position.epoch, position.rev)
        assert {user["id"]: user for user in answer.json()["users"]} == picture.users
        since: dict[str, str | int] = {"epoch": lost.position.epoch, "since": lost.position.rev}
        assert (await http.get(f"/zones/{lost.zone_id}/changes", params=since)).status_code == 410
        assert (await http.get(f"/zones/{lost.zone_id}-brief")).status_code == 404
    await assert_dict_is_right(world, lost)


async def assert_dict_is_right(world: World, lost: Known) -> None:
    """Check that the cached users dict becomes the tables' and stays it."""
    users = (await world.http[0].get("/users", params={"limit": 1000})).json()["users"]
    truth = {str(user["global_id"]): (user["name"], user["version"]) for user in users}

    async def is_right(http: httpx.AsyncClient) -> bool:
        answer = await http.get("/users-dict", headers={"If-None-Match": lost.dict_tag})
        if answer.status_code == 304:
            return False
        found = {key: (user["name"], user["version"]) for key, user in answer.json().items()}
        return found == truth

    for http in world.http:
        await world.until(lambda http=http: is_right(http), "the users dict of the lost history")  # type: ignore[misc]  # a default binds it
    for http in [*world.http, *world.http]:
        assert await is_right(http), "it was served once more"


async def assert_resumed_anew(world: World, lost: Known) -> None:
    """Check that who comes with a lost position gets the state, on each node, in either way."""
    channel = f"zone:{lost.zone_id}"
    position, picture = await world.truth(channel)
    for member in world.cluster.members:
        url = member.process.url
        async with plain_client(f"{url.replace('http', 'ws', 1)}/connection/websocket") as client:
            client.positions[channel] = (lost.position.epoch, lost.position.rev)
            reply = (await client.subscribe(channel, recover=True))["subscribe"]
            assert not reply.get("recovered", False)
            assert client.positions[channel] == (position.epoch, position.rev)
            assert client.zones[channel] == picture.users
        async with event_source(url, lost.zone_id, last_event_id=lost.vector) as stream:
            state = await stream.next("snapshot")
            assert (state["epoch"], state["rev"]) == (position.epoch, position.rev)
            assert {user["id"]: user for user in state["users"]} == picture.users


async def assert_all_began_anew(world: World, onlookers: list[Onlookers], lost: Known) -> None:
    """Check that who watched all the while was told to begin anew, and did."""
    channel = f"zone:{lost.zone_id}"
    position, picture = await world.truth(channel)
    for one in onlookers:
        await one.told(channel, ANEW)
        reply = await one.socket.subscribe(channel)
        assert reply["subscribe"]["epoch"] == position.epoch
        assert one.socket.zones[channel] == picture.users

        async def has_states(one: Onlookers = one) -> bool:
            return one.states[-1][0] == position.epoch

        await world.until(has_states, "the stream shows the lost history")
        assert one.states[0][0] == lost.position.epoch


@pytest.mark.parametrize("name", WAYS)
async def test_nodes_that_run_leave_a_lost_history(world: World, name: str) -> None:
    """Watchers, readers and caches end on what the database holds, with a new epoch."""
    way = WAYS[name]()
    story = Story(world, f"running-{name.replace(' ', '-')}", 1 + list(WAYS).index(name))
    await story.keep()
    await way.prepare(world.cluster.postgres)
    async with world.onlookers(story.zone_id) as onlookers:
        await story.lose()
        lost = await read_known(world, story.zone_id)
        for one in onlookers:
            await one.at(lost.position.rev)
        brief = [await one.socket.subscribe(f"zone:{story.brief_id}") for one in onlookers]
        assert all("subscribe" in reply for reply in brief)
        await way.lose(world.cluster.postgres)
        await story.go_on()
        await assert_all_began_anew(world, onlookers, lost)
        for one in onlookers:
            await one.told(f"zone:{story.brief_id}", GONE)
    await assert_served_right(world, lost)
    await assert_resumed_anew(world, lost)


@pytest.mark.parametrize("name", WAYS)
async def test_clients_come_back_to_a_database_that_lost_commits(world: World, name: str) -> None:
    """All nodes were down while it was restored: positions and tags are of the lost history."""
    way = WAYS[name]()
    story = Story(world, f"down-{name.replace(' ', '-')}", 11 + list(WAYS).index(name))
    await story.keep()
    await way.prepare(world.cluster.postgres)
    await story.lose()
    lost = await read_known(world, story.zone_id)
    await world.stop_nodes()
    await way.lose(world.cluster.postgres)
    await world.start_nodes()
    await story.go_on()
    await assert_resumed_anew(world, lost)
    await assert_served_right(world, lost)


async def test_a_lower_version_is_accepted_after_a_restore(world: World) -> None:
    """Versions tell of two states of a user which is newer only within one history."""
    way, story = BaseBackup(), Story(world, "versions", 21)
    await story.keep()
    await way.prepare(world.cluster.postgres)
    first = story.user_ids[0]
    async with world.onlookers(story.zone_id) as onlookers:
        for number in range(3):
            await world.write("PATCH", f"/users/{first}", {"name": f"lost {number}"})
        lost, _ = await world.truth(f"zone:{story.zone_id}")
        for one in onlookers:
            await one.at(lost.rev)
            assert one.socket.zones[one.channel][first]["version"] == 4
        await way.lose(world.cluster.postgres)
        await world.write("PATCH", f"/users/{first}", {"name": "restored"})
        for one in onlookers:
            await one.told(one.channel, ANEW)
            await one.socket.subscribe(one.channel)
            assert one.socket.positions[one.channel][0] != lost.epoch
            shown = one.socket.zones[one.channel][first]
            assert (shown["version"], shown["name"]) == (2, "restored")


async def test_a_dump_restored_table_by_table_is_seen_whole_at_last(world: World) -> None:
    """Nodes don't look at it before its keys are there, which come last."""
    postgres, way = world.cluster.postgres, Dump()
    story = Story(world, "by-tables", 41)
    await story.keep()
    await way.prepare(postgres)
    channel = f"zone:{story.zone_id}"
    async with world.onlookers(story.zone_id) as onlookers:
        await way.lose_up_to(postgres, "users")
        for one in onlookers:
            await one.socket.until(lambda client: bool(client.states))
            assert one.socket.states[-1]["state"] == "stale"
            assert one.socket.unsubscribed == []
        await way.restore_rest(postgres, "users")
        for one in onlookers:
            await one.told(channel, ANEW)
            await one.socket.subscribe(channel)
            assert one.socket.user_ids(channel) == set(story.user_ids)


async def test_rows_rewritten_in_place_are_mended_by_a_resync(world: World) -> None:
    """Nothing tells that SQL was written by hand, until all epochs are renewed."""
    postgres = world.cluster.postgres
    story = Story(world, "by-hand", 31)
    await story.keep()
    channel, first = f"zone:{story.zone_id}", story.user_ids[0]
    async with world.onlookers(story.zone_id) as onlookers:
        before = await read_known(world, story.zone_id)
        async with postgres.connect(DATABASE) as connection:
            await connection.execute("UPDATE users SET name = 'by hand' WHERE id = $1", first)
        assert onlookers[0].socket.zones[channel][first]["name"] == "kept"
        done = await asyncio.to_thread(zonecast, "resync", database_url=postgres.url)
        assert done[0] == 0, done
        for one in onlookers:
            await one.told(channel, ANEW)
            reply = await one.socket.subscribe(channel, recover=True)
            assert not reply["subscribe"].get("recovered", False)
            assert one.socket.zones[channel][first]["name"] == "by hand"
    position, picture = await world.truth(channel)
    assert position.epoch != before.position.epoch
    assert picture.users[first]["name"] == "by hand"
    await assert_resumed_anew(world, before)
    await assert_dict_is_right(world, before)


@pytest.fixture
async def embedded(sqlite_url: str, tmp_path: Path) -> AsyncIterator[NodeProcess]:
    """A node on a SQLite file."""
    async with running_nodes(tmp_path, 1, {"database_url": sqlite_url}) as (node,):
        yield node


async def test_a_replaced_sqlite_file_is_another_history(
    embedded: NodeProcess, sqlite_url: str, tmp_path: Path
) -> None:
    """An earlier copy was put in its place while the node was down; the client resumes."""
    file, copy = Path(make_url(sqlite_url).database or ""), tmp_path / "copy"
    node = embedded
    async with httpx.AsyncClient(base_url=node.url, trust_env=False) as http:
        ws_url = f"{node.url.replace('http', 'ws', 1)}/connection/websocket"

        async def rename(*names: str) -> None:
            for name in names:
                assert (await http.patch("/users/1", json={"name": name})).is_success

        assert (await http.post("/zones", json={"zone_id": "A", "name": "A"})).is_success
        user = {"global_id": 1, "name": "kept", "zone_id": "A"}
        assert (await http.post("/users", json=user)).is_success
        await node.stop()
        await asyncio.to_thread(shutil.copy, file, copy)
        await node.start()
        await rename("lost", "lost again")
        async with plain_client(ws_url, "zone:A") as client:
            known = client.positions["zone:A"]
        tag = (await http.get("/users-dict")).headers["etag"]
        await node.stop()
        await asyncio.to_thread(shutil.copy, copy, file)
        await node.start()
        await rename("other", "other again", "and again")
        async with plain_client(ws_url) as client:
            client.positions["zone:A"] = known
            reply = (await client.subscribe("zone:A", recover=True))["subscribe"]
            assert not reply.get("recovered", False)
            assert client.positions["zone:A"][0] != known[0]
            assert client.zones["zone:A"][1]["name"] == "and again"
        last_id = format_vector([("A", Position(*known))])
        async with event_source(node.url, "A", last_event_id=last_id) as stream:
            assert (await stream.next("snapshot"))["users"][0]["name"] == "and again"
        answer = await http.get("/users-dict", headers={"If-None-Match": tag})
        assert answer.json()["1"]["name"] == "and again"
