"""Writes whose client goes away: at any moment, the tables and the log agree, and watchers see."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from random import Random
from typing import Any

import asyncpg
import httpx
import msgspec
import pytest
from starlette.types import ASGIApp, Message

from channels.digest import digest_users
from db.engine import Database, DatabaseConfig
from tests.db.interruption import run_cancelled_at
from tests.db.replay import assert_log_makes_tables
from tests.realtime.conftest import LiveNode, serving, settings_of_test
from tests.realtime.plain_client import PlainClient, plain_client
from tests.realtime.raw_socket import raw_socket

CUTS = 60
USERS = 5
ZONES = ("A", "B")
MAX_WAITS = 400
"""More than a write ever waits: then something went round in circles."""


@pytest.fixture
async def live(database_url: str) -> AsyncIterator[LiveNode]:
    """A node on each kind of database."""
    async with serving(settings_of_test(database_url=database_url, pool_size=3)) as live:
        yield live


async def set_up(http: httpx.AsyncClient) -> list[int]:
    """Make two zones, and users in the first; return their ids."""
    for zone in ZONES:
        assert (await http.post("/zones", json={"zone_id": zone, "name": zone})).is_success
    rows = [{"global_id": n, "name": f"u{n}", "zone_id": "A"} for n in range(1, USERS + 1)]
    answer = await http.post("/users/bulk", json={"users": rows})
    return [user["id"] for user in answer.json()["users"]]


def client_of(live: LiveNode) -> httpx.AsyncClient:
    """Open an HTTP client of a node."""
    return httpx.AsyncClient(base_url=live.url, trust_env=False)


async def assert_agreed(http: httpx.AsyncClient, watcher: PlainClient, database_url: str) -> None:
    """Insist that log, tables, answers and what a watcher knows are the same."""
    database = Database(DatabaseConfig(url=database_url))
    try:
        await assert_log_makes_tables(database)
    finally:
        await database.close()
    for zone in ZONES:
        snapshot = (await http.get(f"/zones/{zone}/snapshot")).json()
        channel = f"zone:{zone}"
        at = (snapshot["epoch"], snapshot["rev"])
        await watcher.until(lambda w, channel=channel, at=at: w.positions[channel] == at)  # type: ignore[misc] # bound now
        known = watcher.zones[channel].values()
        assert digest_users((user["id"], user["version"]) for user in known) == snapshot["digest"]


def request_of(method: str, path: str, body: Any) -> bytes:
    """Write a request as it goes over the wire."""
    text = msgspec.json.encode(body)
    head = f"{method} {path} HTTP/1.1\r\nHost: node\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(text)}\r\n\r\n".encode() + text


def some_write(random: Random, ids: list[int], number: int) -> tuple[str, str, Any]:
    """Choose a write of any kind."""
    zone = random.choice([*ZONES, None])
    user_id = random.choice(ids)
    moves = [{"user_id": one, "zone_id": random.choice(ZONES)} for one in ids]
    return random.choice(
        [
            ("POST", "/users", {"global_id": 1000 + number, "name": "new", "zone_id": zone}),
            ("PATCH", f"/users/{user_id}", {"name": f"name {number}"}),
            ("PATCH", "/zones/A", {"name": f"name {number}"}),
            ("POST", f"/users/{user_id}/transfer", {"zone_id": zone}),
            ("POST", "/transfers", {"transfers": moves}),
        ]
    )


async def test_clients_that_hang_up_at_any_moment_leave_nothing_half_done(
    live: LiveNode, database_url: str
) -> None:
    """Within the request, during the transaction, and after the commit."""
    random = Random(7)  # noqa: S311 - repeatable on purpose
    port = int(live.url.rpartition(":")[2])
    async with client_of(live) as http, plain_client(live.ws_url) as watcher:
        ids = await set_up(http)
        for zone in ZONES:
            await watcher.subscribe(f"zone:{zone}")
        before = sum(rev for _, rev in watcher.positions.values())
        for number in range(CUTS):
            data = request_of(*some_write(random, ids, number))
            async with raw_socket(port) as raw:
                cut = random.randrange(len(data)) if number % 6 == 0 else len(data)
                raw.writer.write(data[:cut])
                await raw.writer.drain()
                await asyncio.sleep(random.uniform(0, 0.03))
        # The watcher's task is one of them.
        while len(live.server.server_state.tasks) > 1:  # noqa: ASYNC110 - uvicorn has no event
            await asyncio.sleep(0.01)
        await assert_agreed(http, watcher, database_url)
        after = sum(rev for _, rev in watcher.positions.values())
        assert after - before > CUTS / 4, "hardly any of them was done"


@pytest.mark.parametrize("table", ["users", "channel_heads"])
async def test_a_client_that_hangs_up_while_its_write_waits_for_a_lock(
    postgres_url: str, table: str
) -> None:
    """For a row before it has written anything, and for a head right before its commit."""
    settings = settings_of_test(database_url=postgres_url, pool_size=3)
    dsn = postgres_url.replace("+asyncpg", "")
    async with AsyncExitStack() as stack:
        live = await stack.enter_async_context(serving(settings))
        http = await stack.enter_async_context(client_of(live))
        ids = await set_up(http)
        channels = [f"zone:{zone}" for zone in ZONES]
        watcher = await stack.enter_async_context(plain_client(live.ws_url, *channels))
        holder = await asyncpg.connect(dsn)
        port = int(live.url.rpartition(":")[2])
        for to in ("B", "A", "B"):
            body = {"transfers": [{"user_id": user_id, "zone_id": to} for user_id in ids]}
            async with holder.transaction():
                await holder.execute(f"SELECT * FROM {table} FOR UPDATE")  # noqa: S608 - ours
                async with raw_socket(port) as raw:
                    raw.writer.write(request_of("POST", "/transfers", body))
                    await until_waiting(holder)
            # Nobody waits for the answer any more; the write is done all the same, once.
            await watcher.until(lambda w, to=to: w.user_ids(f"zone:{to}") == set(ids))  # type: ignore[misc] # bound now
        await holder.close()
        await assert_agreed(http, watcher, postgres_url)


async def until_waiting(connection: asyncpg.Connection) -> None:
    """Wait until somebody waits for a lock of this database."""
    query = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    while not await connection.fetchval(query):  # noqa: ASYNC110 - the server tells in no other way
        await asyncio.sleep(0.005)


async def test_a_request_cancelled_at_every_await_is_done_or_not(
    live: LiveNode, database_url: str
) -> None:
    """Also in between: of a batch all have moved or none, and the next request is served."""
    async with client_of(live) as http, plain_client(live.ws_url) as watcher:
        ids = await set_up(http)
        for zone in ZONES:
            await watcher.subscribe(f"zone:{zone}")
        app: ASGIApp = live.server._app
        places = []
        for index in range(MAX_WAITS):
            # From the same place, over a connection that is there already.
            back = {"transfers": [{"user_id": user_id, "zone_id": "A"} for user_id in ids]}
            assert (await http.post("/transfers", json=back)).is_success
            if not await run_cancelled_at(move(app, ids, "B"), index):
                break
            places.append(await place_of(http, ids))
        else:
            pytest.fail("it never ended by itself")
        assert await place_of(http, ids) == "B"
        # Once it is being committed, it is.
        assert places == sorted(places)
        assert set(places) == {"A", "B"}
        assert places.count("A") >= 5
        await assert_agreed(http, watcher, database_url)


async def place_of(http: httpx.AsyncClient, ids: list[int]) -> str:
    """Return the zone that all users are in, which is only one."""
    (place,) = {
        user["zone_id"]
        for user in [(await http.get(f"/users/{user_id}")).json() for user_id in ids]
    }
    return str(place)


async def move(app: ASGIApp, ids: list[int], to: str) -> None:
    """Send a batch of transfers to the application, without a server in between."""
    body = msgspec.json.encode({"transfers": [{"user_id": one, "zone_id": to} for one in ids]})
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/transfers",
        "raw_path": b"/transfers",
        "query_string": b"",
        "headers": [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ],
    }
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop()

    async def send(message: Message) -> None:
        assert message.get("status", 200) == 200

    await app(scope, receive, send)
