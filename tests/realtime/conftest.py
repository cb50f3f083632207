"""A real node in the test's own loop: uvicorn on a loopback port, SQLite or PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from realtime.app import build_app
from realtime.server import listening_socket
from realtime.settings import Settings
from realtime.websocket_server import Server, server_config
from tests.realtime.encodings import ENCODINGS, Encoding, Spoken

if TYPE_CHECKING:
    from realtime.node import Node


@pytest.fixture(params=ENCODINGS, ids=lambda encoding: encoding.name)
def each_encoding(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Encoding:
    """Let the clients of a test speak each encoding of the protocol, one after the other."""
    encoding: Encoding = request.param
    monkeypatch.setattr(Spoken, "now", encoding)
    return encoding


@dataclass(frozen=True)
class LiveNode:
    """A node that serves.

    Attributes:
        url: Where its HTTP API is, without a slash at the end.
        ws_url: Its WebSocket.
        node: What it runs.
        server: The server, for tests that stop it.
    """

    url: str
    ws_url: str
    node: Node
    server: Server

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rpartition(":")[2])


StartNode = Callable[[Settings], AbstractAsyncContextManager[LiveNode]]


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[LiveNode]:
    """Serve with these settings in the present loop until the body ends."""
    app = build_app(settings)
    server = Server(server_config(app, settings), app, settings)
    with listening_socket(settings) as listener:
        port = listener.getsockname()[1]
        async with run_server(server, listener):
            url = f"http://127.0.0.1:{port}"
            ws_url = f"ws://127.0.0.1:{port}/connection/websocket"
            yield LiveNode(url, ws_url, app.state.node, server)


@asynccontextmanager
async def run_server(server: Server, listener: socket.socket) -> AsyncIterator[None]:
    """Run a server in the present loop until the body ends."""
    async with asyncio.TaskGroup() as tasks:
        # Not `serve`: the test runner keeps its signals.
        running = tasks.create_task(server._serve([listener]))
        while not server.started and not running.done():  # noqa: ASYNC110 - uvicorn has no event
            await asyncio.sleep(0.005)
        assert server.started, "the server did not start"
        try:
            yield
        finally:
            # Awaited here: a failed body would make the group cancel it in mid-shutdown.
            server.should_exit = True
            await running


def settings_of_test(**given: object) -> Settings:
    """Make settings from nothing but what is given: a free port, and quick bounds."""
    for name in [name for name in os.environ if name.startswith("ZONECAST_")]:
        if not name.startswith("ZONECAST_TEST_") and name != "ZONECAST_REQUIRE_ALL":
            del os.environ[name]
    quick: dict[str, object] = {"port": 0, "shutdown_timeout_s": 3, "follow_linger_s": 0.2}
    return Settings(**{**quick, **given})  # type: ignore[arg-type]  # validated by pydantic


@pytest.fixture
def start_node() -> StartNode:
    """Return what starts a node: `async with start_node(settings) as live`."""
    return serving


@pytest.fixture
def make_settings() -> Callable[..., Settings]:
    """Return what makes settings for tests."""
    return settings_of_test


@pytest.fixture
async def live_node(sqlite_url: str) -> AsyncIterator[LiveNode]:
    """Serve an embedded node on a fresh SQLite file."""
    async with serving(settings_of_test(database_url=sqlite_url)) as live:
        yield live
