"""The crowd: thousands of subscribers in one C program, as the measurements see them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.load.programs import compiled

READY_TIMEOUT_S: Final = 240.0
DONE_TIMEOUT_S: Final = 30.0
_LINE_MAX_BYTES: Final = 65_536


class CrowdError(Exception):
    """The crowd gave up: a connection was lost or refused, or a delivery never came."""


@dataclass(frozen=True, slots=True)
class CrowdPlan:
    """How subscribers subscribe; see `bench/load/crowd.c`.

    Attributes:
        port: On loopback.
        path: What they ask for.
        is_sse: Server-sent events, else WebSocket.
        sends: What they send, one text a step.
        other: In the place of the last text, for every second one.
        ready: In the line with which a subscriber is ready; empty: the handshake.
        at_once: The most that are not ready at once.
        stalled: How many stop reading when counting begins.
    """

    port: int
    path: str
    is_sse: bool = False
    sends: Sequence[str] = ()
    other: str = ""
    ready: str = ""
    at_once: int = 256
    stalled: int = 0

    def arguments(self, count: int) -> list[str]:
        """Return the program's arguments for so many subscribers."""
        words = ["-p", str(self.port), "-n", str(count), "-u", self.path]
        words += ["-k", "sse" if self.is_sse else "ws", "-c", str(self.at_once)]
        words += ["-x", str(self.stalled)]
        for text in self.sends:
            words += ["-s", text]
        for option, text in (("-a", self.other), ("-r", self.ready)):
            if text:
                words += [option, text]
        return words


class Crowd:
    """A running crowd.

    Attributes:
        readiness: What it said when all were ready.
        done: How many deliveries everybody has had since `begin`.
        done_ns: When that was reported, `CLOCK_MONOTONIC`.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        output: asyncio.StreamReader,
        orders: asyncio.StreamWriter,
    ) -> None:
        self._process = process
        self._output = output
        self._input = orders
        self.readiness: dict[str, Any] = {}
        self.done = 0
        self.done_ns = 0

    async def wait_ready(self) -> None:
        """Wait until all subscribers are ready. Raises `CrowdError`; bounded."""
        self.readiness = json.loads(await self._until("ready", READY_TIMEOUT_S))

    async def begin(self) -> None:
        """Count from now on; nothing may be under way. Raises `CrowdError`."""
        self._input.write(b"begin\n")
        await self._until("begun", DONE_TIMEOUT_S)
        self.done = 0

    async def wait_done(self, count: int) -> None:
        """Wait until everybody has had `count` deliveries since `begin`. Raises `CrowdError`."""
        try:
            async with asyncio.timeout(DONE_TIMEOUT_S):
                while self.done < count:
                    await self._next()
        except TimeoutError:
            what = f"{self.done} of {count} deliveries reached everybody"
            raise CrowdError(f"{what} in {DONE_TIMEOUT_S:.0f} s") from None

    async def report(self) -> dict[str, Any]:
        """Return what was counted since `begin`. Raises `CrowdError`."""
        self._input.write(b"report\n")
        found: dict[str, Any] = json.loads(await self._until("report", DONE_TIMEOUT_S))
        return found

    async def close(self) -> None:
        """End it; its connections are reset."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def _until(self, word: str, timeout_s: float) -> str:
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    found, rest = await self._next()
                    if found == word:
                        return rest
        except TimeoutError:
            raise CrowdError(f"the crowd did not say `{word}` in {timeout_s:.0f} s") from None

    async def _next(self) -> tuple[str, str]:
        line = (await self._output.readline()).decode()
        word, _, rest = line.strip().partition(" ")
        if word == "failed" or not line:
            raise CrowdError(rest or "the crowd ended")
        if word == "done":
            count, _, when_ns = rest.partition(" ")
            self.done, self.done_ns = int(count), int(when_ns)
        return word, rest


@asynccontextmanager
async def gathered(folder: Path, plan: CrowdPlan, count: int) -> AsyncIterator[Crowd]:
    """Run a crowd; its subscribers are ready inside the block.

    Args:
        folder: Where the program is or will be compiled.
        plan: How they subscribe.
        count: How many.

    Raises:
        CrowdError: they could not subscribe.
        MissingError: the program could not be compiled.
    """
    async with gathering(folder, plan, count) as crowd:
        await crowd.wait_ready()
        yield crowd


@asynccontextmanager
async def gathering(folder: Path, plan: CrowdPlan, count: int) -> AsyncIterator[Crowd]:
    """Run a crowd whose subscribers are coming. Raises as `gathered`."""
    program = await asyncio.to_thread(compiled, "crowd", folder)
    process = await asyncio.create_subprocess_exec(
        program,
        *plan.arguments(count),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_LINE_MAX_BYTES,
    )
    if process.stdout is None or process.stdin is None:
        raise CrowdError("the crowd has no pipes")
    crowd = Crowd(process, process.stdout, process.stdin)
    try:
        yield crowd
    finally:
        await crowd.close()
