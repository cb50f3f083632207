"""F2: how long a node's event loop does nothing else while it fans out.

A node that is watched runs `main` of this file in the place of the service's own: the same, plus
a timer whose delays go to a file that is shared with the measurement.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from bench.contest import saturate
from bench.crowd import CrowdError
from bench.machine import family
from bench.rows import Plan
from bench.stage import USERS, ZONE, PinnedNode, Side, Stage, our_crowd, running
from realtime.command import main as serve
from realtime.websocket_server import Server

FILE_VARIABLE: Final = "BENCH_PAUSES_FILE"
INTERVAL_S: Final = 0.005
_LONGEST: Final = struct.Struct("d")
_ROOT: Final = Path(__file__).parents[1]


class PauseFile:
    """The longest pause so far, in a file that two processes have open."""

    def __init__(self, path: str) -> None:
        with Path(path).open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _LONGEST.size)

    @property
    def longest_s(self) -> float:
        """The longest since it was last set to zero."""
        (found,) = _LONGEST.unpack_from(self._map)
        return float(found)

    @longest_s.setter
    def longest_s(self, value: float) -> None:
        _LONGEST.pack_into(self._map, 0, value)


class _WatchedServer:
    """Starts the timer when the server has started."""

    def __init__(self, file: PauseFile) -> None:
        self._file = file
        self._startup = Server.startup

    def install(self) -> None:
        watch = self._watch

        async def startup(server: Server, *arguments: Any, **named: Any) -> None:
            await self._startup(server, *arguments, **named)
            watch(time.monotonic())

        Server.startup = startup  # type: ignore[method-assign,assignment]  # on purpose, in this process only

    def _watch(self, due_s: float) -> None:
        now_s = time.monotonic()
        self._file.longest_s = max(self._file.longest_s, now_s - due_s)
        next_s = now_s + INTERVAL_S
        asyncio.get_running_loop().call_later(INTERVAL_S, self._watch, next_s)


def main() -> None:
    """Run `zonecast` with the timer."""
    _WatchedServer(PauseFile(os.environ[FILE_VARIABLE])).install()
    serve()


class _WatchedNode(PinnedNode):
    """A node that runs `main` of this file."""

    @property
    def pause_file(self) -> Path:
        return self.folder / "pauses"

    def command(self) -> list[str]:
        """Swap the program, and say where the pauses go."""
        words = super().command()
        begin = words.index("-c", len(self._prefix)) - 1
        program = f"from {__name__} import main; main()"
        variables = [f"PYTHONPATH={_ROOT}", f"{FILE_VARIABLE}={self.pause_file}"]
        return [*words[:begin], *variables, words[begin], "-c", program, *words[begin + 3 :]]


@asynccontextmanager
async def _watched(stage: Stage) -> AsyncIterator[tuple[Side, PauseFile]]:
    node = _WatchedNode(stage.new_folder("node"), stage.urls, stage.cores)
    await asyncio.to_thread(node.pause_file.write_bytes, _LONGEST.pack(0.0))
    async with running(node):
        await stage.fill(node, {ZONE: USERS})
        async with stage.publisher() as publisher:
            side = Side(family(node.pid), our_crowd(node.port), publisher)
            yield side, PauseFile(str(node.pause_file))


async def longest_pauses_ms(stage: Stage, plan: Plan, *, count: int, window: int) -> list[float]:
    """Return the longest pause of the loop in each run of a fan-out, milliseconds."""
    found = []
    for run in range(plan.runs):
        plan.say(f"pauses of the loop, run {run + 1} of {plan.runs}")
        async with _watched(stage) as (side, file):

            def begin(file: PauseFile = file) -> None:
                file.longest_s = 0.0

            try:
                await saturate(
                    stage, side, count=count, window=window, seconds=plan.seconds, begun=begin
                )
            except CrowdError as error:
                plan.say(f"pauses: this run does not count: {error}\n")
                continue
            found.append(file.longest_s * 1000)
    return found
