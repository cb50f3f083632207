"""PostgreSQL in trouble: clear answers in bounded time, no half write, and recovery."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import pytest

from tests.conftest import migrate_to_head
from tests.faults.database_trouble import (
    TERMINATE_NODES,
    failing_commits,
    free_connections_taken,
    locked,
    read_only,
)
from tests.faults.history import History
from tests.faults.ledger import check_record
from tests.faults.timeline import Eras
from tests.faults.truth import read_log, read_tables
from tests.nodes import NodeProcess, running_nodes
from tests.processes import Scratch
from tests.servers import DATABASE, Postgres, PostgresServer

LOCK_TIMEOUT_S = 2.5
SETTINGS: dict[str, object] = {
    "pool_size": 4,
    "max_overflow": 0,
    "pool_timeout_s": 0.5,
    "lock_timeout_s": LOCK_TIMEOUT_S,
    "statement_timeout_s": 4,
    "stale_after_s": 0.8,
}
BOUNDED_S = 15.0
"""Much longer than the sum of the bounds: the machine may be busy."""
RECOVERS_WITHIN_S = 10.0
RETRY_S = 0.1
UNAVAILABLE = "/problems/unavailable"
LOCKED = "/problems/locked"


@dataclass
class World:
    """One node with few connections, and its PostgreSQL.

    Attributes:
        http: Asks the node.
        users: The ids of a user in each of the zones A, B and C.
    """

    server: PostgresServer
    process: NodeProcess
    http: httpx.AsyncClient
    users: dict[str, int]
    names: itertools.count[int]

    async def rename(self, zone_id: str) -> httpx.Response:
        """Change the user of a zone."""
        body = {"name": f"name {next(self.names)}"}
        return await self.http.patch(f"/users/{self.users[zone_id]}", json=body)

    async def transfer(self, zone_id: str, to_zone_id: str) -> httpx.Response:
        """Move the user of a zone; it goes on being called by its first one."""
        body = {"zone_id": to_zone_id}
        return await self.http.post(f"/users/{self.users[zone_id]}/transfer", json=body)

    async def until_ready(self) -> None:
        """Wait, bounded, until the node says so."""
        async with asyncio.timeout(RECOVERS_WITHIN_S):
            # A node tells in no other way.
            while not await self.process.answers():  # noqa: ASYNC110
                await asyncio.sleep(RETRY_S)

    @asynccontextmanager
    async def keeping_its_record(self, *, unchanged: bool = False) -> AsyncIterator[None]:
        """Check afterwards that log and tables agree, and that the node takes many writes."""
        base = await read_tables(self.server)
        yield
        await self.until_ready()
        final = await read_tables(self.server)
        history = History(base=base, final=final, log=await read_log(self.server, base))
        assert not [fault for era in Eras(history).timelines for fault in check_record(era)]
        if unchanged:
            assert final == base
        # More than there are connections: none of them is lost.
        answers = await asyncio.gather(*(self.rename(zone_id) for zone_id in "ABC" * 4))
        assert {answer.status_code for answer in answers} == {200}


@pytest.fixture(scope="module")
async def running(postgres: Postgres, scratch: Scratch) -> AsyncIterator[World]:
    """A node whose PostgreSQL may be broken, and users to be written to."""
    server = await postgres.start_server()
    try:
        await server.create_database(DATABASE)
        await migrate_to_head(server.url)
        settings = {"database_url": server.url, **SETTINGS}
        async with (
            running_nodes(scratch.new_folder("node"), 1, settings) as (process,),
            httpx.AsyncClient(base_url=process.url, timeout=60, trust_env=False) as http,
        ):
            users = {}
            for number, zone_id in enumerate("ABC", 1):
                await http.post("/zones", json={"zone_id": zone_id, "name": zone_id})
                user = {"global_id": number, "name": "first", "zone_id": zone_id}
                users[zone_id] = (await http.post("/users", json=user)).json()["id"]
            yield World(server, process, http, users, itertools.count())
    finally:
        await server.stop()


@pytest.fixture
async def world(running: World) -> World:
    """The node, ready."""
    await running.until_ready()
    return running


def problem(answer: httpx.Response, status: int = 503) -> str:
    """Check that an answer is a problem that says so clearly; return its type."""
    body = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.status_code == body["status"] == status, body
    if status == 503:
        assert int(answer.headers["retry-after"]) >= 1
        assert len(body["detail"].split()) >= 4, body
    return str(body["type"])


async def test_terminated_connections_lose_no_half_of_a_write(world: World) -> None:
    """Each write is done or refused with 503; log and tables agree, and later writes succeed."""
    statuses: list[int] = []

    async def keep_writing(zone_id: str, is_over: asyncio.Event) -> None:
        while not is_over.is_set():
            answer = await world.rename(zone_id)
            statuses.append(answer.status_code)
            if answer.status_code != 200:
                assert problem(answer) == UNAVAILABLE

    async with world.keeping_its_record():
        is_over = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for zone_id in "AABBC":
                tasks.create_task(keep_writing(zone_id, is_over))
            for _ in range(5):
                await asyncio.sleep(0.2)
                await world.server.execute(TERMINATE_NODES)
            is_over.set()
    assert set(statuses) == {200, 503}


@pytest.mark.parametrize("sqlstate", ["40001", "40P01"])
async def test_a_commit_that_loses_a_race_is_tried_again(world: World, sqlstate: str) -> None:
    """It succeeds as soon as the database lets it; if that never happens it is a conflict."""
    async with world.keeping_its_record():
        async with failing_commits(world.server, sqlstate, times=3):
            assert (await world.rename("A")).status_code == 200
        before = await read_tables(world.server)
        async with failing_commits(world.server, sqlstate):
            assert problem(await world.transfer("A", "B"), 409) == "/problems/conflict"
        assert await read_tables(world.server) == before


@pytest.mark.parametrize(
    ("sqlstate", "status", "kind", "is_unknown"),
    [
        pytest.param("53100", 503, UNAVAILABLE, False, id="disk-full"),
        pytest.param("25006", 503, UNAVAILABLE, False, id="read-only"),
        pytest.param("55P03", 503, LOCKED, False, id="locked"),
        pytest.param("57P03", 503, UNAVAILABLE, True, id="starting-up"),
        pytest.param("XX000", 500, "about:blank", False, id="internal"),
    ],
)
async def test_a_commit_that_fails_is_told_at_once(
    world: World, sqlstate: str, status: int, kind: str, *, is_unknown: bool
) -> None:
    """It is not tried again, leaves nothing behind, and the next write succeeds."""
    async with world.keeping_its_record(unchanged=True):
        # A second try would succeed.
        async with failing_commits(world.server, sqlstate, times=1):
            answer = await world.transfer("A", "B")
        assert problem(answer, status) == kind
        # The server might also have gone after it had committed.
        assert ("not known" in answer.json().get("detail", "")) == is_unknown


async def test_a_node_without_a_free_connection_says_so_in_time(world: World) -> None:
    """Others get 503; the node stays ready, as it asks for heads on its reserved connection."""
    lock = "SELECT 1 FROM users WHERE id = $1 FOR UPDATE"
    async with (
        world.keeping_its_record(unchanged=True),
        locked(world.server, lock, world.users["A"]),
        asyncio.TaskGroup() as tasks,
    ):
        holders = [tasks.create_task(world.rename("A")) for _ in range(6)]
        (first, *_), _ = await asyncio.wait(holders, return_when=asyncio.FIRST_COMPLETED)
        assert problem(first.result()) == UNAVAILABLE
        answers = await asyncio.gather(world.rename("B"), world.http.get("/zones/C/snapshot"))
        assert [problem(answer) for answer in answers] == [UNAVAILABLE] * 2
        # For longer than what makes the picture stale, nobody else had a connection.
        await asyncio.sleep(1.1)
        assert (await world.http.get("/readyz")).status_code == 200
        assert not all(holder.done() for holder in holders)
        assert (await world.http.get("/healthz")).status_code == 200
        assert {problem(await holder) for holder in holders} == {UNAVAILABLE, LOCKED}


@pytest.mark.parametrize(
    "lock",
    [
        pytest.param("SELECT 1 FROM users WHERE global_id = 1 FOR UPDATE", id="user"),
        pytest.param("SELECT 1 FROM channel_heads WHERE channel = 'zone:A' FOR UPDATE", id="head"),
    ],
)
async def test_a_write_gives_up_rows_that_are_locked_for_long(world: World, lock: str) -> None:
    """503 within the bound, with nothing written; who needs other rows is not kept waiting."""
    async with world.keeping_its_record():
        before = await read_tables(world.server)
        async with locked(world.server, lock), asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(world.transfer("A", "B"))
            assert (await world.rename("C")).status_code == 200
            assert (await world.http.get("/zones/A/snapshot")).status_code == 200
            assert not waiting.done()
            async with asyncio.timeout(BOUNDED_S):
                assert problem(await waiting) == LOCKED
        after = await read_tables(world.server)
        changed = {key for key, user in after.users.items() if before.users[key] != user}
        assert changed == {world.users["C"]}


async def test_a_locked_table_is_no_end_of_the_node(world: World) -> None:
    """Reads that wait for a table give up, too, and go on as soon as they can."""
    async with world.keeping_its_record(unchanged=True):
        async with locked(world.server, "LOCK TABLE users IN ACCESS EXCLUSIVE MODE"):
            asked_s = time.monotonic()
            paths = ("/zones/A/snapshot", "/users-dict?use_cache=false", "/users/1")
            answers = await asyncio.gather(*(world.http.get(path) for path in paths))
            assert [problem(answer) for answer in answers] == [LOCKED] * 3
            assert time.monotonic() - asked_s < BOUNDED_S
        assert world.process.running
        assert (await world.http.get("/zones/A/snapshot")).status_code == 200


async def test_a_full_server_is_answered_for_at_once(world: World) -> None:
    """A server that takes no more connections is 503, and the node connects when it can."""
    async with (
        world.keeping_its_record(unchanged=True),
        free_connections_taken(world.server) as connections,
    ):
        await connections.take_from_nodes()
        answers = await asyncio.gather(
            world.rename("A"),
            world.http.get("/zones/B/snapshot"),
            world.http.get("/users-dict?use_cache=false"),
            world.http.get("/sse?zone=B"),
        )
        assert [problem(answer) for answer in answers] == [UNAVAILABLE] * 4
        assert problem(await world.http.get("/readyz")) == "/problems/not-ready"
        assert (await world.http.get("/healthz")).status_code == 200


async def test_a_read_only_database_serves_reads_and_takes_writes_again(world: World) -> None:
    """Connections that began read-only are replaced, not kept until they are old."""
    async with world.keeping_its_record():
        async with read_only(world.server):
            # Until all connections have been opened anew.
            reads = await asyncio.gather(*(world.http.get(f"/users/{n}") for n in (1, 2, 3)))
            assert {read.status_code for read in reads} == {200}
            assert problem(await world.rename("A")) == UNAVAILABLE
        answers = await asyncio.gather(*(world.rename(zone_id) for zone_id in "ABCABC"))
        assert {answer.status_code for answer in answers} == {200}
