"""The serving process: a node that fails ends it, and workers are nodes that share a socket."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.nodes import NodeProcess, running_nodes
from tests.realtime.plain_client import PlainClient, plain_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from cache.users_dict import Stamp
    from tests.realtime.conftest import LiveNode


async def test_a_node_whose_background_work_fails_ends_its_server(
    live_node: LiveNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of ours must not leave a process that serves a picture which stands still."""

    async def fail(_stamp: Stamp) -> None:
        raise RuntimeError

    async with plain_client(live_node.ws_url) as client:
        monkeypatch.setattr(live_node.node.cache, "verify", fail)
        code, _ = await client.until_closed()
    assert code == 3001
    assert live_node.server.has_failed


@pytest.fixture
async def two_workers(
    postgres_url: str, redis_url: str, tmp_path: Path
) -> AsyncIterator[NodeProcess]:
    """Serve with two workers behind one address."""
    settings = {
        "database_url": postgres_url,
        "redis_url": redis_url,
        "workers": 2,
        "pool_size": 5,
    }
    async with running_nodes(tmp_path, 1, settings) as (node,):
        yield node


async def test_workers_serve_one_address_and_hear_each_other(two_workers: NodeProcess) -> None:
    """What is written through one worker is seen by the watchers of all."""
    node = two_workers
    async with AsyncExitStack() as stack:
        ws_url = f"ws://127.0.0.1:{node.port}/ws"
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=node.url))
        for zone in ("A", "B"):
            await http.post("/zones", json={"zone_id": zone, "name": zone})
        user = {"global_id": 1, "name": "Ada", "zone_id": "A"}
        user_id = (await http.post("/users", json=user)).json()["id"]
        watchers: dict[str, PlainClient] = {}
        # The kernel deals connections out: some are enough to meet both workers.
        for _ in range(200):
            watcher = await stack.enter_async_context(plain_client(ws_url, "zone:B"))
            worker = watcher.frames[0][0]["connect"]["data"]["node"]
            watchers[worker] = watcher
            if len(watchers) == 2:
                break
        assert len(watchers) == 2
        await http.post(f"/users/{user_id}/transfer", json={"zone_id": "B"})
        for watcher in watchers.values():
            await watcher.until(lambda w: w.user_ids("zone:B") == {user_id})
