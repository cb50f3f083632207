"""Streams behind nginx, which by default speaks HTTP/1.0 to the node, and HTTP/1.1 on request."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.balancers import find_nginx
from tests.processes import Scratch, ServerProcess
from tests.realtime.event_source import EventSource, StreamEndedError, event_source
from tests.realtime.sse_world import SseWorld, served_sse
from tests.realtime.stuck_reader import only_stream
from tests.realtime.test_sse_stream import zones_of

CONFIG = """\
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log crit;
{account}
events {{ worker_connections 64; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://127.0.0.1:{node_port}; {version} }}
    location = /up {{ return 204; }}
  }}
}}
"""
VERSIONS = {"1.0": "proxy_http_version 1.0;", "1.1": "proxy_http_version 1.1;"}


class Nginx(ServerProcess):
    """A proxy in front of a node."""

    def __init__(self, program: str, folder: Path, node_port: int, version: str) -> None:
        super().__init__(folder)
        self._program = program
        config = CONFIG.format(
            folder=folder,
            port=self.port,
            node_port=node_port,
            version=version,
            account="user root;" if os.geteuid() == 0 else "",
        )
        (folder / "nginx.conf").write_text(config, encoding="utf-8")

    def command(self) -> list[str]:
        """Run it in its folder, in the foreground."""
        log = f"{self.folder}/error.log"
        conf = f"{self.folder}/nginx.conf"
        return [self._program, "-p", str(self.folder), "-c", conf, "-e", log]

    async def answers(self) -> bool:
        """Tell whether its worker answers."""
        async with httpx.AsyncClient(trust_env=False) as client:
            try:
                answer = await client.get(f"http://127.0.0.1:{self.port}/up")
            except httpx.HTTPError:
                return False
            return answer.status_code == httpx.codes.NO_CONTENT


@dataclass
class Proxied:
    """A node behind a proxy."""

    world: SseWorld
    url: str


@pytest.fixture(params=[*VERSIONS.values()], ids=[*VERSIONS])
async def proxied(request: pytest.FixtureRequest, scratch: Scratch) -> AsyncIterator[Proxied]:
    """A node behind nginx, with a client of each version of HTTP."""
    found = find_nginx()
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(served_sse())
        nginx = Nginx(found, scratch.new_folder("nginx"), world.port, request.param)
        await nginx.start()
        stack.push_async_callback(nginx.stop)
        yield Proxied(world, f"http://127.0.0.1:{nginx.port}")


async def begun(source: EventSource) -> None:
    """Read how a stream of one zone begins."""
    assert await source.next("status") == {"state": "live", "since": None}
    await source.next("snapshot")


async def test_events_pass_at_once_and_the_end_is_an_end(proxied: Proxied) -> None:
    """Nothing waits in the proxy, and the client learns that the stream was ended in order."""
    world = proxied.world
    async with event_source(proxied.url, "A") as source:
        await begun(source)
        for rev in (1, 2, 3):
            world.commit((1, "A" if rev % 2 else None))
            assert zones_of(await source.next("changes")) == {"A": rev}
        only_stream(world).farewell()
        with pytest.raises(StreamEndedError):
            await source.event()
        assert source.last_id == "A=e1:3"
    async with event_source(proxied.url, "A", last_event_id="A=e1:2") as source:
        assert zones_of(await source.next("changes")) == {"A": 3}


async def test_a_client_that_leaves_is_noticed(proxied: Proxied) -> None:
    """The proxy closes its connection then."""
    async with event_source(proxied.url, "A") as source:
        await begun(source)
    await proxied.world.until_alone()
    assert await proxied.world.metric("subscriptions") == 0
