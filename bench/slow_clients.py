"""Slow clients: what 200 of 1,000 that don't read cost the node and the others."""

from __future__ import annotations

import asyncio
import re
import statistics
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvloop

from bench.machine import rss_bytes
from db.migrate import upgrade
from tests.faults.crowd import Reader, SseReader, WebSocketReader
from tests.nodes import NodeProcess

CLIENTS = 1_000
SLOW = 200
EVENT_BYTES = 16_000
WRITES_PER_S = 12.0
ALL_READ_S = 20.0
SOME_DO_NOT_S = 24.0
STOPPED_S = 11.0
CONNECT_S = 2.0
DRAIN_TIMEOUT_S = 14.0
BURST_S = 0.03
APART_S = 0.03
CONVERGE_S = 30.0
SAMPLE_S = 0.1
SETTINGS = {
    "slow_drain_timeout_s": DRAIN_TIMEOUT_S,
    # Silence is measured elsewhere: here only what isn't read counts.
    "ping_interval_s": 86_400,
}


@dataclass
class Figures:
    """What came of one run; memory in bytes, delays in seconds."""

    transport: str
    idle_bytes: int = 0
    all_read_bytes: int = 0
    some_do_not_bytes: int = 0
    before_s: list[float] = field(default_factory=list)
    beside_s: list[float] = field(default_factory=list)
    cut: int = 0
    cut_of: tuple[str, ...] = ()
    converged: int = 0
    faults: int = 0
    writes: int = 0

    @property
    def slow_bytes(self) -> float:
        """What each slow client costs beyond one that reads."""
        return (self.some_do_not_bytes - self.all_read_bytes) / SLOW


class _Run:
    """A node, its clients and a writer."""

    def __init__(self, node: NodeProcess, kind: Callable[..., Reader], figures: Figures) -> None:
        self._node = node
        self._figures = figures
        self._sent_s = [0.0]
        self._delays_s: list[float] | None = None
        self._rev = 0
        self._peak_bytes = 0
        self._is_over = asyncio.Event()
        fast = [kind(node.port, "Z", self._delivered) for _ in range(CLIENTS - SLOW)]
        self.fast: Sequence[Reader] = fast
        slow = [kind(node.port, "Z") for _ in range(SLOW)]
        self.never, self.stopped, self.bursting = slow[0::3], slow[1::3], slow[2::3]
        self.slow: Sequence[Reader] = slow

    def _delivered(self, rev: int) -> None:
        if self._delays_s is not None:
            self._delays_s.append(asyncio.get_running_loop().time() - self._sent_s[rev])

    async def play(self) -> None:
        """Measure while all read, while some don't, and until all are up to date."""
        figures = self._figures
        async with asyncio.TaskGroup() as tasks, httpx.AsyncClient(base_url=self._node.url) as http:
            url = await self._fill(http)
            running = [
                tasks.create_task(reader.run(slow=reader in self.slow))
                for reader in (*self.fast, *self.slow)
            ]
            await self._until(lambda: all(reader.rev >= 0 for reader in self._all()))
            self._rev = self.fast[0].rev
            self._sent_s.extend([0.0] * self._rev)
            figures.idle_bytes = self._rss_bytes()
            running.append(tasks.create_task(self._sample()))
            tasks.create_task(self._write(http, url))
            await asyncio.sleep(1)
            self._peak_bytes, self._delays_s = 0, figures.before_s
            await asyncio.sleep(ALL_READ_S)
            figures.all_read_bytes, self._peak_bytes = self._peak_bytes, 0
            self._delays_s = None
            await self._stop_reading()
            figures.some_do_not_bytes = self._peak_bytes
            self._delays_s = None
            self._is_over.set()
            await self._converge()
            figures.cut = await self._closed_as_slow(http)
            # Who never reads was first cut by us.
            figures.cut_of = (
                _share(reader.ends > 1 for reader in self.never),
                _share(reader.ends > 0 for reader in self.stopped),
                _share(reader.ends > 0 for reader in self.bursting),
            )
            figures.faults = sum(reader.faults for reader in self._all())
            figures.writes = self._rev
            for task in running:
                task.cancel()

    def _all(self) -> Sequence[Reader]:
        return [*self.fast, *self.slow]

    async def _fill(self, http: httpx.AsyncClient) -> str:
        (await http.post("/zones", json={"zone_id": "Z", "name": "Z"})).raise_for_status()
        user = {"global_id": 1, "name": "Ada", "zone_id": "Z"}
        made = (await http.post("/users", json=user)).raise_for_status()
        return f"/users/{made.json()['id']}"

    async def _write(self, http: httpx.AsyncClient, url: str) -> None:
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        while not self._is_over.is_set():
            self._sent_s.append(loop.time())
            text = f"{self._rev:>{EVENT_BYTES}}"
            (await http.patch(url, json={"attributes": {"text": text}})).raise_for_status()
            self._rev += 1
            due_s = max(due_s + 1 / WRITES_PER_S, loop.time())
            await asyncio.sleep(due_s - loop.time())

    async def _stop_reading(self) -> None:
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + SOME_DO_NOT_S
        for reader in self.slow:
            reader.hold()
        for reader in self.never:
            # These have read nothing on their connection at all.
            reader.cut()
        async with asyncio.TaskGroup() as tasks:
            bursts = tasks.create_task(self._burst())
            # To connect again isn't to be slow.
            await asyncio.sleep(CONNECT_S)
            self._delays_s = self._figures.beside_s
            await asyncio.sleep(STOPPED_S - CONNECT_S)
            for reader in self.stopped:
                reader.release()
                await asyncio.sleep(APART_S)
            await asyncio.sleep(ends_s - loop.time())
            bursts.cancel()

    async def _burst(self) -> None:
        while True:
            for reader in self.bursting:
                reader.release()
                await asyncio.sleep(BURST_S)
                reader.hold()

    async def _converge(self) -> None:
        for reader in self.slow:
            reader.release()
        try:
            await self._until(lambda: all(reader.rev == self._rev for reader in self._all()))
        except TimeoutError:
            print(f"{sum(r.rev != self._rev for r in self._all())} clients are not up to date")
        self._figures.converged = sum(reader.rev == self._rev for reader in self.slow)

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(CONVERGE_S):
            # Of a thousand clients any may be the last one.
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(SAMPLE_S)

    # The node's figures

    async def _sample(self) -> None:
        while True:
            self._peak_bytes = max(self._peak_bytes, self._rss_bytes())
            await asyncio.sleep(SAMPLE_S)

    def _rss_bytes(self) -> int:
        return rss_bytes([self._node.pid])

    async def _closed_as_slow(self, http: httpx.AsyncClient) -> int:
        line = r'^zonecast_connections_closed_total\{.*"3008".*\} (\S+)'
        text = (await http.get("/metrics")).text
        return int(sum(float(value) for value in re.findall(line, text, re.MULTILINE)))


@asynccontextmanager
async def _running_node() -> AsyncIterator[NodeProcess]:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite+aiosqlite:///{folder}/bench.db"
        await upgrade(url)
        node = NodeProcess(Path(folder), {"database_url": url, **SETTINGS})
        await node.start()
        try:
            yield node
        finally:
            await node.stop()


async def _measure(transport: str, kind: Callable[..., Reader]) -> Figures:
    figures = Figures(transport)
    async with _running_node() as node:
        await _Run(node, kind, figures).play()
    return figures


def _share(answers: Iterable[bool]) -> str:
    all_answers = list(answers)
    return f"{sum(all_answers)}/{len(all_answers)}"


def _percentiles_ms(delays_s: Sequence[float]) -> tuple[float, float]:
    cuts = statistics.quantiles(delays_s, n=100)
    return cuts[49] * 1000, cuts[98] * 1000


def _print_table(runs: Sequence[Figures]) -> None:
    def row(what: str, *values: str) -> None:
        print(f"| {what:62} | " + " | ".join(f"{value:>17}" for value in values) + " |")

    def both(delays_s: Sequence[float]) -> str:
        return " / ".join(f"{delay_ms:.0f}" for delay_ms in _percentiles_ms(delays_s))

    def ratios(run: Figures) -> str:
        pairs = zip(_percentiles_ms(run.beside_s), _percentiles_ms(run.before_s), strict=True)
        return " / ".join(f"{beside / before:.2f}" for beside, before in pairs)

    row(f"{CLIENTS:,} clients, {SLOW} of them slow", *(run.transport for run in runs))
    row("---", *("---:" for _ in runs))
    row("changes written, of 16 kB each", *(str(run.writes) for run in runs))
    row("node's memory, connected and idle, MB", *(f"{run.idle_bytes / 1e6:.0f}" for run in runs))
    row("peak while all read, MB", *(f"{run.all_read_bytes / 1e6:.0f}" for run in runs))
    row("peak while 200 are slow, MB", *(f"{run.some_do_not_bytes / 1e6:.0f}" for run in runs))
    row("for each slow client, kB", *(f"{run.slow_bytes / 1e3:.0f}" for run in runs))
    row("delivery while all read, p50 / p99, ms", *(both(run.before_s) for run in runs))
    row("delivery to the others while 200 are slow", *(both(run.beside_s) for run in runs))
    row("ratio", *(ratios(run) for run in runs))
    row(f"cut with 3008, after {DRAIN_TIMEOUT_S:.0f} s", *(str(run.cut) for run in runs))
    for number, group in enumerate(("never read", f"stopped for {STOPPED_S:.0f} s", "in bursts")):
        row(f"cut of those that read so: {group}", *(run.cut_of[number] for run in runs))
    row("up to date after all read again", *(f"{run.converged} of {SLOW}" for run in runs))
    row("changes missing, doubled or out of order", *(str(run.faults) for run in runs))
    print()


def slow_clients() -> dict[str, Any]:
    """Measure a node with and without slow clients, in one run for each transport."""
    runs = [
        uvloop.run(_measure("WebSocket", WebSocketReader)),
        uvloop.run(_measure("SSE", SseReader)),
    ]
    _print_table(runs)
    beside_ms, before_ms = (
        _percentiles_ms(delays_s)[1] for delays_s in (runs[0].beside_s, runs[0].before_s)
    )
    return {
        "what": "ms p99 to 800 of 1,000 on WebSockets, 200 don't read",
        "value": beside_ms,
        "unit": "milliseconds from the request to the delivery, 99th percentile",
        "peer": "the same clients in the same run while all read",
        "peer_value": before_ms,
        "ratio": beside_ms / before_ms,
        "runs": 1,
        "slow_client_bytes": {run.transport: round(run.slow_bytes) for run in runs},
        "cut": {run.transport: run.cut for run in runs},
        "converged": {run.transport: run.converged for run in runs},
    }
