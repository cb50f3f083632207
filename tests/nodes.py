"""Nodes as real processes: `zonecast serve`, started, asked whether it is ready, and stopped."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from tests.processes import ServerProcess, wait_exit
from tests.secrets_in_output import secrets_in

ROOT = Path(__file__).parents[1]
ANSWER_TIMEOUT_S = 2.0
PLAIN = "realtime.command"
ARMED = "tests.faults.failpoints"


class NodeProcess(ServerProcess):
    """One `zonecast serve` on a port of its own.

    Args:
        folder: Its working directory and log.
        settings: `ZONECAST_*` variables, named without the prefix, in lower case.
        failpoint: As the attribute.

    Attributes:
        failpoint: Which of `tests.faults.failpoints` its next start is armed with; empty: none.
    """

    # It is ready only once Redis is there, which may be out for most of a minute.
    start_timeout_s = 90.0

    def __init__(self, folder: Path, settings: Mapping[str, object], failpoint: str = "") -> None:
        super().__init__(folder)
        self.failpoint = failpoint
        quick = {"log_level": "warning", "shutdown_timeout_s": 5}
        self._settings = {**quick, **settings}
        env = shutil.which("env")
        assert env is not None
        self._env = env

    @property
    def url(self) -> str:
        """The address of its HTTP API."""
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        """Run the command line, with the settings in the environment."""
        variables = [f"ZONECAST_{name.upper()}={value}" for name, value in self._settings.items()]
        if self.failpoint:
            variables += [f"PYTHONPATH={ROOT}", f"ZONECAST_TEST_FAILPOINT={self.failpoint}"]
        program = f"from {ARMED if self.failpoint else PLAIN} import main; main()"
        serve = [sys.executable, "-c", program, "serve", "--port", str(self.port)]
        return [self._env, *variables, *serve]

    async def answers(self) -> bool:
        """Tell whether `/readyz` says 200."""
        return (await self.get("/readyz")).startswith("HTTP/1.1 200")

    async def stop(self) -> None:
        """Stop it; whatever it printed holds no secret."""
        await super().stop()
        found = secrets_in(self.log_tail(10_000_000))
        assert not found, found[0][:300]

    async def wait_exit(self) -> int:
        """Wait until the process has ended by itself; return its exit code. Bounded."""
        assert self._process is not None
        return await wait_exit(self._process)

    async def get(self, path: str) -> str:
        """Return the raw answer to a request, empty when there was none in time."""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                try:
                    request = f"GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n"
                    writer.write(request.encode())
                    return (await reader.read()).decode()
                finally:
                    writer.close()
        return ""


@asynccontextmanager
async def running_nodes(
    folder: Path, count: int, settings: Mapping[str, object]
) -> AsyncIterator[list[NodeProcess]]:
    """Run nodes with the same settings, all at once; stop them in order at the end.

    Each node's log is in `<folder>/node-<n>/server.log`.
    """
    nodes = []
    for number in range(1, count + 1):
        place = folder / f"node-{number}"
        place.mkdir()
        nodes.append(NodeProcess(place, settings))
    async with AsyncExitStack() as stack:
        for node in nodes:
            stack.push_async_callback(node.stop)
        await asyncio.gather(*(node.start() for node in nodes))
        yield nodes
