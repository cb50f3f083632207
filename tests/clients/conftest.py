"""Nodes as processes, and screens of every make that watch them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from tests.clients.screens import (
    JavaScriptScreen,
    MakeScreen,
    event_stream,
    javascript,
    javascript_sdk,
    own_client,
    python_sdk,
    served_module,
)
from tests.clients.served_module import Watch, named
from tests.nodes import NodeProcess, running_nodes
from tests.realtime.auth.minter import Minter
from tests.trace_maker import FULL, make_trace

BESIDE = Path(__file__).parents[3] / "shared" / "data" / "badge_trace.csv"


@pytest.fixture
def production(postgres_url: str, redis_url: str) -> dict[str, object]:
    """Settings of nodes that share a PostgreSQL and a Redis."""
    return {"database_url": postgres_url, "redis_url": redis_url, "pool_size": 5}


@pytest.fixture
async def two_nodes(
    production: dict[str, object], tmp_path: Path
) -> AsyncIterator[list[NodeProcess]]:
    """Two nodes on PostgreSQL and Redis."""
    async with running_nodes(tmp_path, 2, production) as nodes:
        yield nodes


@pytest.fixture
async def three_nodes(
    production: dict[str, object], tmp_path: Path
) -> AsyncIterator[list[NodeProcess]]:
    """Three nodes on PostgreSQL and Redis."""
    async with running_nodes(tmp_path, 3, production) as nodes:
        yield nodes


@pytest.fixture
async def embedded_node(sqlite_url: str, tmp_path: Path) -> AsyncIterator[list[NodeProcess]]:
    """One node on SQLite."""
    async with running_nodes(tmp_path, 1, {"database_url": sqlite_url}) as nodes:
        yield nodes


BY_NODE: Final[dict[str, Callable[[Path], MakeScreen]]] = {
    "javascript": javascript_sdk,
    "javascript in protobuf": partial(javascript_sdk, encoding="protobuf"),
    "module": served_module,
    "module by sse": partial(served_module, transport="sse"),
}
"""Makes of screens that a Node runs."""
OTHERS: Final[dict[str, MakeScreen]] = {
    "python": python_sdk,
    "python in protobuf": partial(python_sdk, use_protobuf=True),
    "own": own_client,
    "sse": event_stream,
}


@pytest.fixture(params=[*BY_NODE, *OTHERS])
def make_screen(request: pytest.FixtureRequest) -> MakeScreen:
    """Make screens of one make; a test that takes this runs for each."""
    if request.param in BY_NODE:
        return BY_NODE[request.param](request.getfixturevalue("node"))
    return OTHERS[request.param]


@pytest.fixture(scope="session")
async def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trace that is replayed: what is named, what lies beside the checkout, or a made one."""
    named = os.environ.get("ZONECAST_TEST_TRACE")
    if named:
        return Path(named)
    if BESIDE.exists():
        return BESIDE
    made = tmp_path_factory.mktemp("trace") / "trace.csv"
    lines = await asyncio.to_thread(make_trace, FULL)
    made.write_text("\n".join(lines) + "\n")
    return made


@pytest.fixture
def watch(node: Path) -> Watch:
    """Watch a port with the module, until it is ready."""

    @asynccontextmanager
    async def run(port: int, zones: object, **options: object) -> AsyncIterator[JavaScriptScreen]:
        async with javascript(node, "zonecast_screen.mjs") as screen:
            url = f"http://127.0.0.1:{port}"
            screen.say({"do": "watch", "url": url, "zones": zones, **options})
            await screen.until(named("ready"))
            yield screen

    return run


@pytest.fixture(params=["websocket", "sse"])
def transport(request: pytest.FixtureRequest) -> str:
    """Both transports."""
    return str(request.param)


@pytest.fixture
async def pinging_node(sqlite_url: str, tmp_path: Path) -> AsyncIterator[NodeProcess]:
    """A node whose clients soon notice when it is silent."""
    settings = {"database_url": sqlite_url, "ping_interval_s": 1}
    async with running_nodes(tmp_path, 1, settings) as (service,):
        yield service


@pytest.fixture
async def guarded_node(sqlite_url: str, tmp_path: Path) -> AsyncIterator[NodeProcess]:
    """A node that asks for tokens."""
    settings = {"database_url": sqlite_url, "token_grace_s": 1, **Minter().settings()}
    async with running_nodes(tmp_path, 1, settings) as (service,):
        yield service
