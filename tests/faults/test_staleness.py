"""A database that is away: who watches is told since when, asks in vain for a bounded time only."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import httpx
import pytest

from tests.conftest import migrate_to_head
from tests.faults.gate import Target, open_gate
from tests.faults.history import Recorder, Told
from tests.faults.sdk_watchers import JavaScriptWatcher, running_javascript
from tests.nodes import NodeProcess, running_nodes
from tests.processes import Scratch
from tests.realtime.event_source import EventSource, event_source
from tests.realtime.plain_client import PlainClient, plain_client
from tests.servers import DATABASE, Postgres, PostgresServer

SETTINGS: dict[str, object] = {
    "pool_size": 4,
    "max_overflow": 0,
    "pool_timeout_s": 0.5,
    "statement_timeout_s": 2,
    "stale_after_s": 1,
    "ping_interval_s": 2,
}
BOUNDED_S = 15.0
"""Much longer than the sum of the bounds: the machine may be busy."""
PROBED_WITHIN_S = 4.0
TOLD_WITHIN_S = 10.0
POLL_S = 0.1
ZONE = "zone:A"


@dataclass
class World:
    """One node, and its PostgreSQL, which may be taken away."""

    server: PostgresServer
    process: NodeProcess
    http: httpx.AsyncClient
    user_id: int

    @property
    def ws_url(self) -> str:
        """The address of its WebSocket endpoint."""
        return f"ws://127.0.0.1:{self.process.port}/ws"

    @asynccontextmanager
    async def database_away(self, how: str) -> AsyncIterator[float]:
        """Freeze or stop the database; yields since when."""
        if how == "frozen":
            self.server.sigstop()
        else:
            await self.server.stop()
        since_s = time.time()
        try:
            yield since_s
        finally:
            self.server.sigcont()
            await self.server.start()

    async def rename(self, name: str) -> httpx.Response:
        """Write."""
        return await self.http.patch(f"/users/{self.user_id}", json={"name": name})


@pytest.fixture(scope="module")
async def world(postgres: Postgres, scratch: Scratch) -> AsyncIterator[World]:
    """A node with a zone A that has a user, and a zone B that nobody watches."""
    server = await postgres.start_server()
    try:
        await server.create_database(DATABASE)
        await migrate_to_head(server.url)
        settings = {"database_url": server.url, **SETTINGS}
        async with (
            running_nodes(scratch.new_folder("node"), 1, settings) as (process,),
            httpx.AsyncClient(base_url=process.url, timeout=60, trust_env=False) as http,
        ):
            for zone_id in "AB":
                await http.post("/zones", json={"zone_id": zone_id, "name": zone_id})
            user = {"global_id": 1, "name": "first", "zone_id": "A"}
            user_id = (await http.post("/users", json=user)).json()["id"]
            yield World(server, process, http, user_id)
    finally:
        await server.stop()


async def until_name(client: PlainClient, name: str) -> None:
    """Wait until a client shows a name; a state that is invalid it fetches anew."""
    anew = 0
    async with asyncio.timeout(TOLD_WITHIN_S):
        while not any(user["name"] == name for user in client.zones[ZONE].values()):
            if len(client.unsubscribed) > anew:
                anew = len(client.unsubscribed)
                assert client.unsubscribed[-1] == (ZONE, 2502)
                await client.subscribe(ZONE)
                continue
            frames = len(client.frames)
            await client.until(lambda client, seen=frames: len(client.frames) > seen)  # type: ignore[misc]  # bound now


async def until_event_names(source: EventSource, name: str) -> None:
    """Wait until a stream brings a name, as a change or within a state."""
    async with asyncio.timeout(TOLD_WITHIN_S):
        while f'"name": "{name}"' not in repr((await source.event()).data).replace("'", '"'):
            pass


async def status_of(source: EventSource, state: str) -> float | None:
    """Wait until a stream tells a state; return since when, in Unix seconds."""
    async with asyncio.timeout(TOLD_WITHIN_S):
        while True:
            event = await source.event()
            if event.name == "status" and event.data["state"] == state:
                since_ms = event.data["since"]
                return None if since_ms is None else since_ms / 1000


@pytest.mark.parametrize("how", ["frozen", "stopped"])
async def test_watchers_keep_what_they_have_and_are_told_since_when(world: World, how: str) -> None:
    """Over WebSocket and as an event stream: stale, live again, and then the next change."""
    async with (
        plain_client(world.ws_url) as client,
        event_source(world.process.url, "A") as source,
    ):
        await client.subscribe(ZONE)
        await status_of(source, "live")
        async with world.database_away(how) as away_s:
            async with asyncio.timeout(TOLD_WITHIN_S):
                await client.until(lambda client: bool(client.states))
            told = client.states[-1]
            assert told["state"] == "stale"
            # The last comparison before; a commit right after it could not be known any more.
            assert away_s - 3 < told["since"] / 1000 < away_s + 0.5
            assert await status_of(source, "stale") == told["since"] / 1000
            assert client.user_ids(ZONE) == {world.user_id}
            async with plain_client(world.ws_url) as late:
                assert "subscribe" in await late.subscribe(ZONE)
                await late.until(lambda late: bool(late.states))
                assert late.states[-1] == told
        async with asyncio.timeout(TOLD_WITHIN_S):
            await client.until(lambda client: client.states[-1]["state"] == "live")
        assert await status_of(source, "live") is None
        assert (await world.rename(f"after {how}")).status_code == 200
        await until_name(client, f"after {how}")
        await until_event_names(source, f"after {how}")
        assert client.closed is None


@pytest.mark.parametrize("how", ["frozen", "stopped"])
async def test_every_kind_of_request_is_answered_in_time(world: World, how: str) -> None:
    """503 with a reason and Retry-After, or what is at hand; the node never just hangs."""

    async def ask(method: str, path: str, body: object = None) -> tuple[httpx.Response, float]:
        asked_s = time.monotonic()
        answer = await world.http.request(method, path, json=body)
        return answer, time.monotonic() - asked_s

    refused = (
        ("PATCH", f"/users/{world.user_id}", {"name": "never"}),
        ("POST", "/transfers", {"transfers": [{"user_id": world.user_id, "zone_id": "B"}]}),
        ("GET", f"/users/{world.user_id}", None),
        ("GET", "/zones", None),
        ("GET", "/zones/B/snapshot", None),
        ("GET", "/zones/B/changes?since=e:0", None),
        ("GET", "/users-dict?use_cache=false", None),
        ("GET", "/sse?zone=B", None),
    )
    async with plain_client(world.ws_url) as client:
        await client.subscribe(ZONE)
        async with world.database_away(how):
            answers = await asyncio.gather(*(ask(*request) for request in refused))
            for answer, took_s in answers:
                body = answer.json()
                assert (answer.status_code, body["type"]) == (503, "/problems/unavailable")
                assert "the database cannot be asked now" in body["detail"]
                assert int(answer.headers["retry-after"]) >= 1
                assert took_s < BOUNDED_S
            async with asyncio.timeout(BOUNDED_S):
                reply = await client.subscribe("zone:B")
            assert (reply["error"]["code"], reply["error"]["temporary"]) == (100, True)
            answer, took_s = await ask("GET", "/readyz")
            assert answer.status_code == 503
            assert took_s < PROBED_WITHIN_S
            assert any("database" in reason for reason in answer.json()["reasons"])
            assert (await ask("GET", "/healthz"))[0].status_code == 200
            assert (await ask("GET", "/zones/A/snapshot"))[0].status_code == 200
        async with asyncio.timeout(TOLD_WITHIN_S):
            # A node tells in no other way.
            while not await world.process.answers():  # noqa: ASYNC110
                await asyncio.sleep(POLL_S)
        answers = await asyncio.gather(*(ask(*request) for request in refused[2:-3]))
        assert {answer.status_code for answer, _ in answers} == {200}
        assert (await world.rename(f"answered {how}")).status_code == 200
        await until_name(client, f"answered {how}")


async def test_the_javascript_sdk_hands_on_what_is_told(world: World, node: Path) -> None:
    """An application of the official SDK hears `stale` and `live` as messages of its client."""
    recorder = Recorder()
    target = Target("node", world.process.port)

    async def until_told(state: str) -> Told:
        async with asyncio.timeout(TOLD_WITHIN_S):
            while True:
                items = [item for frame in watcher.record.log.frames for item in frame.items]
                told = [item for item in items if isinstance(item, Told)]
                if told and told[-1].state == state:
                    return told[-1]
                await asyncio.sleep(POLL_S)

    async with (
        open_gate(lambda: target) as gate,
        running_javascript(node) as process,
        asyncio.TaskGroup() as tasks,
    ):
        watcher = JavaScriptWatcher("sdk", recorder, gate, Random(1), {ZONE})  # noqa: S311 - no secret
        watcher.join(process)
        running = tasks.create_task(watcher.run())
        async with asyncio.timeout(TOLD_WITHIN_S):
            # Its log can only be looked at.
            while not watcher.positions:  # noqa: ASYNC110
                await asyncio.sleep(POLL_S)
        async with world.database_away("frozen"):
            away_s = recorder.now_s()
            told = await until_told("stale")
            assert told.since_s is not None
            assert away_s - 3 < told.since_s < away_s + 0.5
        assert (await until_told("live")).since_s is None
        running.cancel()
