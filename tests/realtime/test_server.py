"""The serving process: a node that fails ends it, and workers are nodes that share a socket."""

from __future__ import annotations

import asyncio
import gc
import socket
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import httpx
import pytest
import uvicorn

from channels.events import User
from realtime.app import build_app
from realtime.http_protocol import KERNEL_UNSENT_BYTES, bound_kernel
from realtime.websocket_server import Server, server_config
from tests.nodes import NodeProcess, running_nodes
from tests.realtime.plain_client import PlainClient, plain_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from cache.users_dict import Stamp
    from realtime.settings import Settings
    from tests.realtime.conftest import LiveNode, StartNode


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


def test_collections_pass_over_what_a_process_begins_with_and_over_users(
    make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collection holds the loop for as long as there are objects to look at."""
    frozen: list[int] = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda *_: frozen.append(gc.get_freeze_count()))
    thresholds, callbacks = gc.get_threshold(), list(gc.callbacks)
    settings = make_settings()
    app = build_app(settings)
    try:
        Server(server_config(app, settings), app, settings).run([])
    finally:
        gc.callbacks[:] = callbacks
        gc.set_threshold(*thresholds)
        gc.unfreeze()
    assert frozen[0] > 10_000
    assert not gc.is_tracked(User(1, 1, "Ada", "A", {"badge": "7"}, 1))


def test_connections_inherit_the_bound_of_what_the_kernel_holds() -> None:
    """It is set once for all, on the socket that listens."""
    with socket.socket() as listener, socket.socket() as client:
        bound_kernel(listener)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        client.connect(listener.getsockname())
        with listener.accept()[0] as accepted:
            bound = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
    assert bound == KERNEL_UNSENT_BYTES


async def test_a_server_bounds_what_the_kernel_holds(live_node: LiveNode) -> None:
    """Whether it was given its sockets or made them itself."""
    [sock] = [sock for server in live_node.server.servers for sock in server.sockets]
    bound = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
    assert bound == KERNEL_UNSENT_BYTES


async def test_a_request_that_outlasts_the_shutdown_is_answered_and_no_fault(
    sqlite_url: str,
    start_node: StartNode,
    make_settings: Callable[..., Settings],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A body that never comes does not delay the end, nor fill the log with a trace."""
    settings = make_settings(database_url=sqlite_url, shutdown_timeout_s=0.3)
    head = b"POST /users HTTP/1.1\r\nHost: node\r\ncontent-type: application/json\r\n"
    async with start_node(settings) as live:
        port = int(live.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head + b"content-length: 100\r\n\r\n{")
        await writer.drain()
        while not live.server.server_state.tasks:  # noqa: ASYNC110 - uvicorn has no event
            await asyncio.sleep(0.005)
        live.server.should_exit = True
        answer = await reader.read()
        writer.close()
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"/problems/timeout" in answer
    assert [record for record in caplog.records if record.exc_info] == []


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
