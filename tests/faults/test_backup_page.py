"""The page on backup and restore: every block of it is run, with a node that is watched."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import httpx
import pytest

from tests.nodes import NodeProcess, running_nodes
from tests.processes import Account, spawn, wait_exit
from tests.realtime.event_source import EventSource, event_source
from tests.servers import PostgresServer, RedisServer

PAGE = Path(__file__).parents[2] / "docs" / "operations" / "backup.md"
BLOCK = re.compile(r"^( *)```sh (\S+)\n(.*?)^ *```$", flags=re.MULTILINE | re.DOTALL)
AS_OPERATOR = {"migrate", "verify", "resync"}
"""Blocks that are run beside the service; the others are run as the server's account."""
BLOCKS = {
    name: "\n".join(line.removeprefix(indent) for line in body.splitlines())
    for indent, name, body in BLOCK.findall(PAGE.read_text())
}


class Operator:
    """Runs blocks of the page, each once."""

    def __init__(self, postgres: PostgresServer, redis: RedisServer, node_url: str) -> None:
        self.left = set(BLOCKS)
        self._postgres = postgres
        self._account = Account.unprivileged()
        programs = [postgres._binaries.folder, Path(sys.executable).parent]
        self._env: Mapping[str, str] = {
            "PATH": ":".join([*map(str, programs), os.environ["PATH"]]),
            "LC_ALL": "C",
            "PGHOST": "127.0.0.1",
            "PGPORT": str(postgres.port),
            "PGUSER": "zonecast",
            "DATA": str(postgres.data),
            "BACKUPS": str(postgres.folder),
            "NODE_URL": node_url,
            "ZONECAST_DATABASE_URL": postgres.url,
            "ZONECAST_REDIS_URL": redis.url,
            "ZONECAST_POOL_SIZE": "5",
        }

    async def run(self, name: str) -> None:
        """Run a block; it has to succeed."""
        self.left.discard(name)
        shell = ["/bin/bash", "-euo", "pipefail", "-c", BLOCKS[name]]
        log = self._postgres.folder / f"{name}.log"
        account = None if name in AS_OPERATOR else self._account
        process = spawn(
            shell, log=log, folder=self._postgres.folder, account=account, env=self._env
        )
        code = await wait_exit(process, timeout_s=60)
        said = await asyncio.to_thread(log.read_text)
        server_log = self._postgres.data / "restored.log"
        if await asyncio.to_thread(server_log.exists):
            said += await asyncio.to_thread(server_log.read_text)
        assert code == 0, f"{name}: {said}"


async def users_of(source: EventSource) -> list[str]:
    """Wait until a stream is sent a zone whole, and return who is in it."""
    while True:
        event = await source.event()
        if event.name == "snapshot":
            return sorted(user["name"] for user in event.data["users"])


async def add(http: httpx.AsyncClient, global_id: int, name: str) -> None:
    """Make a user, again for as long as the database is away."""
    body = {"global_id": global_id, "name": name, "zone_id": "A"}
    # Bounded by the test; nothing but the answer tells that the database is back.
    while (answer := await http.post("/users", json=body)).status_code == 503:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    assert answer.status_code == 201, answer.text


@pytest.fixture
async def node(
    own_postgres: PostgresServer, redis_server: RedisServer, tmp_path: Path
) -> AsyncIterator[NodeProcess]:
    """A node on a server that also starts by its own files alone, as `pg_ctl` starts it."""
    place = own_postgres.folder
    await own_postgres.execute(f"ALTER SYSTEM SET unix_socket_directories = '{place}'")
    settings = {"database_url": own_postgres.url, "redis_url": redis_server.url, "pool_size": 5}
    async with running_nodes(tmp_path, 1, settings) as (started,):
        yield started


@pytest.fixture
async def http(node: NodeProcess) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the node."""
    async with httpx.AsyncClient(base_url=node.url, trust_env=False, timeout=20) as client:
        yield client


@pytest.fixture
async def source(node: NodeProcess, http: httpx.AsyncClient) -> AsyncIterator[EventSource]:
    """An event stream of a zone in which Ada is."""
    assert (await http.post("/zones", json={"zone_id": "A", "name": "A"})).status_code == 201
    await add(http, 1, "Ada")
    async with event_source(node.url, "A") as stream:
        yield stream


@pytest.mark.timeout(240)
async def test_every_step_of_the_page_does_what_it_says(
    own_postgres: PostgresServer,
    redis_server: RedisServer,
    node: NodeProcess,
    http: httpx.AsyncClient,
    source: EventSource,
) -> None:
    """What was committed after the backup is gone for everybody, and from every screen."""
    operator = Operator(own_postgres, redis_server, node.url)
    assert await users_of(source) == ["Ada"]
    await operator.run("dump")
    await operator.run("base")
    await add(http, 2, "Lost")
    await operator.run("restore-dump")
    assert await users_of(source) == ["Ada"]
    for name in ("migrate", "verify", "drop-lost"):
        await operator.run(name)
    await add(http, 3, "Lost again")
    await operator.run("stop-server")
    await operator.run("put-back")
    await operator.run("start-server")
    try:
        assert await users_of(source) == ["Ada"]
        await operator.run("verify")
        await operator.run("resync")
        assert await users_of(source) == ["Ada"]
    finally:
        await operator.run("stop-server")
    assert operator.left == set()
