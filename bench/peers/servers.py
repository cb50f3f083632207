"""Peers as processes: each is given lines, and sends each to all of its subscribers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from bench.crowd import CrowdPlan
from bench.load.programs import compiled
from bench.machine import MissingError, family
from bench.publishers import line_publisher, post_publisher
from bench.stage import Ground, Side, running
from tests.processes import ServerProcess, free_port

HERE: Final = Path(__file__).parent
PACKAGES: Final = HERE / "node_modules"
NCHAN_MODULES: Final = (
    Path("/usr/lib/nginx/modules/ngx_nchan_module.so"),
    Path("/usr/share/nginx/modules/ngx_nchan_module.so"),
)
NGINX: Final = "/usr/sbin/nginx"
PATH: Final = "/sub"
STREAM_PATH: Final = "/stream"
PUBLISH_PATH: Final = "/pub"
_ACCOUNT: Final = "user root;" if os.geteuid() == 0 else ""

NCHAN_CONFIG: Final = """\
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log crit;
worker_rlimit_nofile 40000; {account} load_module {module};
events {{ worker_connections 20000; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  keepalive_requests 100000000; nchan_max_reserved_memory 256M;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location = /pub {{
      nchan_publisher http; nchan_channel_id bench; nchan_message_buffer_length 512;
    }}
    location = /sub {{
      nchan_subscriber websocket eventsource; nchan_channel_id bench;
      nchan_subscriber_first_message newest;
    }}
  }}
}}
"""


class PeerProcess(ServerProcess):
    """A peer that runs as one command.

    Args:
        folder: Its working folder and log.
        command: Makes the command from the ports.

    Attributes:
        input_port: Where it takes lines.
    """

    def __init__(self, folder: Path, command: Callable[[int, int], Sequence[str]]) -> None:
        super().__init__(folder)
        self.input_port = free_port()
        self._command = command

    def command(self) -> list[str]:
        """Return the command."""
        return list(self._command(self.port, self.input_port))

    async def answers(self) -> bool:
        """Tell whether it accepts connections."""
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.close()
            return True
        return False


def _sockets(port: int) -> CrowdPlan:
    return CrowdPlan(port, PATH)


def _engine_sockets(port: int) -> CrowdPlan:
    # Packets of socket.io: `40` asks for the main namespace, and is the beginning of its answer.
    path = "/socket.io/?EIO=4&transport=websocket"
    return CrowdPlan(port, path, sends=("40",), ready="40{")


def _streams(port: int) -> CrowdPlan:
    return CrowdPlan(port, STREAM_PATH, is_sse=True)


@asynccontextmanager
async def _fed_by_lines(
    ground: Ground, command: Callable[[int, int], Sequence[str]], plan: Callable[[int], CrowdPlan]
) -> AsyncIterator[Side]:
    prefix = ground.cores.prefix
    peer = PeerProcess(
        ground.new_folder("peer"), lambda port, lines: [*prefix, *command(port, lines)]
    )
    async with running(peer), line_publisher(peer.input_port) as publisher:
        yield Side(family(peer.pid), plan(peer.port), publisher)


@asynccontextmanager
async def limit(ground: Ground) -> AsyncIterator[Side]:
    """Run what the kernel lets a fan-out have: our own C program without any promise."""
    program = str(await asyncio.to_thread(compiled, "limit", ground.folder))
    async with _fed_by_lines(
        ground, lambda port, lines: [program, "-p", str(port), "-i", str(lines)], _sockets
    ) as side:
        yield side


def _node_program(package: str, script: str) -> Callable[[int, int], Sequence[str]]:
    node = shutil.which("node")
    if node is None or not (PACKAGES / package).is_dir():
        raise MissingError(
            f"peer {package}: install Node and npm, then `python3 dev.py bench` installs the rest"
        )
    return lambda *ports: [node, str(HERE / script), *map(str, ports)]


@asynccontextmanager
async def node_ws(ground: Ground) -> AsyncIterator[Side]:
    """Run Node with the package `ws`: its documented broadcast.

    Raises:
        MissingError: Node or the package is not here.
    """
    async with _fed_by_lines(ground, _node_program("ws", "broadcast.mjs"), _sockets) as side:
        yield side


@asynccontextmanager
async def socket_io(ground: Ground) -> AsyncIterator[Side]:
    """Run Node with socket.io, WebSocket only.

    Raises:
        MissingError: Node or the package is not here.
    """
    command = _node_program("socket.io", "socket_io.mjs")
    async with _fed_by_lines(ground, command, _engine_sockets) as side:
        yield side


@asynccontextmanager
async def websockets_broadcast(ground: Ground) -> AsyncIterator[Side]:
    """Run the package `websockets`: its own broadcast, on uvloop, compression off."""
    script = str(HERE / "broadcast.py")
    async with _fed_by_lines(
        ground, lambda *ports: [sys.executable, script, *map(str, ports)], _sockets
    ) as side:
        yield side


@asynccontextmanager
async def naive(ground: Ground, *, is_sse: bool = False) -> AsyncIterator[Side]:
    """Run what one writes first: uvicorn, Starlette, a set of clients, and a loop of awaits."""
    script = str(HERE / "naive.py")
    async with _fed_by_lines(
        ground,
        lambda *ports: [sys.executable, script, *map(str, ports)],
        _streams if is_sse else _sockets,
    ) as side:
        yield side


@asynccontextmanager
async def nchan(ground: Ground, *, is_sse: bool = False) -> AsyncIterator[Side]:
    """Run nginx with nchan, messages in memory.

    Raises:
        MissingError: it is not here.
    """
    module = next((path for path in NCHAN_MODULES if path.exists()), None)
    nginx = shutil.which("nginx") or shutil.which(NGINX)
    if nginx is None or module is None:
        raise MissingError("peer nchan: install it (apt-get install libnginx-mod-nchan)")
    folder = ground.new_folder("nchan")
    config = folder / "nginx.conf"
    prefix = ground.cores.prefix

    def command(port: int, _: int) -> list[str]:
        text = NCHAN_CONFIG.format(folder=folder, port=port, module=module, account=_ACCOUNT)
        config.write_text(text, encoding="utf-8")
        return [*prefix, nginx, "-p", str(folder), "-c", str(config), "-e", f"{folder}/error.log"]

    peer = PeerProcess(folder, command)
    async with running(peer), post_publisher(peer.port, PUBLISH_PATH) as publisher:
        plan = CrowdPlan(peer.port, PATH, is_sse=is_sse)
        # The worker, which does the work, is there only after the port: one answer proves it.
        await publisher.publish(1)
        yield Side(family(peer.pid), plan, publisher)
