"""The replay: moves of a recorded trace, made again in a running service, and their delay."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final

from channels.positions import Position
from realtime.client import Changed, Token, Watch, WatchedZone, WatchError, watch
from realtime.roster import Roster
from realtime.service_api import ServiceApi, ServiceError
from realtime.trace import MalformedLine, Reading, Trace

BATCH_MAX_ROWS: Final = 1_000
LINES_PER_READ: Final = 64
GIVE_UP_AFTER_S: Final = 60.0
ARRIVE_TIMEOUT_S: Final = 15.0
COMPARE_MAX_TRIES: Final = 5
DELAY_MAX_MS: Final = 60_000
LISTED_LINES: Final = 10


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """How a trace is replayed.

    Attributes:
        url: The service, `http://host:port`.
        speed: How many seconds of the trace go by in a second; 0: as fast as possible.
        batch_window_s: Seconds of the trace that are moved in one transaction; 0: each
            reading by itself.
        strict: Stop before anything is written when a line is malformed.
        token: What the service asks for.
    """

    url: str
    speed: float = 1.0
    batch_window_s: float = 0.0
    strict: bool = False
    token: Token | None = field(default=None, repr=False)


@dataclass(slots=True)
class DelayCounts:
    """Delays in whole milliseconds, counted: bounded however many there are."""

    counts: dict[int, int] = field(default_factory=dict)
    total: int = 0

    def add(self, delay_ms: int) -> None:
        """Count a delay; clocks that differ can't make it negative."""
        delay_ms = min(max(0, delay_ms), DELAY_MAX_MS)
        self.counts[delay_ms] = self.counts.get(delay_ms, 0) + 1
        self.total += 1

    def percentile(self, percent: float) -> int | None:
        """Return the delay that `percent` of all don't exceed, `None` when there are none."""
        seen = 0
        for delay_ms in sorted(self.counts):
            seen += self.counts[delay_ms]
            if seen * 100 >= percent * self.total:
                return delay_ms
        return None


@dataclass(slots=True)
class ReplayReport:
    """What a replay has done so far.

    Attributes:
        readings: Lines that were sent.
        moves: Those that took a badge to another zone.
        transactions: Batches that were committed.
        skipped: Malformed lines.
        seconds: How long it took.
        delays: From each change's record in the database to its arrival here.
        equal_zones: Zones whose picture here equals the database at the end.
        unequal_zones: Those that differ, or could not be compared.
        unwatched: Why the zones could not be watched.
    """

    readings: int = 0
    moves: int = 0
    transactions: int = 0
    skipped: int = 0
    seconds: float = 0.0
    delays: DelayCounts = field(default_factory=DelayCounts)
    equal_zones: int = 0
    unequal_zones: list[str] = field(default_factory=list)
    unwatched: str | None = None

    @property
    def rate(self) -> float:
        """Readings a second."""
        return self.readings / self.seconds if self.seconds else 0.0


class Replay:
    """Replays one trace.

    Args:
        path: The CSV file.
        options: How.
        warn: Told of each malformed line.
        progressed: Called after each batch with the report and the part of the file done, 0
            to 1.

    Attributes:
        report: What was done, also when the replay fails in the middle.
    """

    def __init__(
        self,
        path: Path,
        options: ReplayOptions,
        *,
        warn: Callable[[str], None],
        progressed: Callable[[ReplayReport, float], None],
    ) -> None:
        self._path = path
        self._options = options
        self._warn = warn
        self._progressed = progressed
        self._made_zones: set[str] = set()
        self._positions: dict[str, Position] = {}
        self.report = ReplayReport()

    async def run(self) -> ReplayReport:
        """Replay the whole trace and compare the watched zones with the database.

        Cancelled, what was committed stays.

        Raises:
            ServiceError: the file can't be read, the service can't be reached or refuses, or,
                with `strict`, a line is malformed.
        """
        trace = await self._open()
        options = self._options
        async with ServiceApi(options.url, GIVE_UP_AFTER_S, options.token) as api:
            roster = Roster(api)
            await roster.load()
            try:
                async with (
                    watch(options.url, token=options.token, wait=False) as zones,
                    asyncio.TaskGroup() as tasks,
                ):
                    watching = tasks.create_task(self._measure(zones))
                    await self._send_all(trace, api, roster, zones)
                    if self.report.unwatched is None:
                        await self._compare(api, zones)
                    watching.cancel()
            except ExceptionGroup as group:
                raise group.exceptions[0] from None
        return self.report

    async def _send_all(self, trace: Trace, api: ServiceApi, roster: Roster, zones: Watch) -> None:
        began_s = time.monotonic()
        async with contextlib.aclosing(self._batches(trace)) as batches:
            async for batch in batches:
                await self._send(batch, api, roster, zones)
                self.report.seconds = time.monotonic() - began_s
                self._progressed(self.report, trace.read_bytes / max(1, trace.size_bytes))

    async def _open(self) -> Trace:
        try:
            if self._options.strict:
                await asyncio.to_thread(self._check)
            return await asyncio.to_thread(Trace, self._path)
        except OSError as error:
            raise ServiceError(f"cannot read {self._path}: {error.strerror}") from error

    def _check(self) -> None:
        malformed = [item for item in Trace(self._path) if isinstance(item, MalformedLine)]
        for line in malformed[:LISTED_LINES]:
            self._warn(str(line))
        if malformed:
            self.report.skipped = len(malformed)
            raise ServiceError(f"{len(malformed)} malformed lines; nothing was written")

    async def _measure(self, zones: Watch) -> None:
        """Count each transaction's delay, by the clocks of the service and of this machine.

        What was missed while the connection was lost counts with its whole delay.
        """
        try:
            async for update in zones:
                if isinstance(update, Changed):
                    self.report.delays.add(time.time_ns() // 1_000_000 - update.time_ms)
        except WatchError as error:
            # The moves matter more than their measurement.
            self.report.unwatched = str(error)

    async def _readings(self, trace: Trace) -> AsyncIterator[Reading]:
        """Yield the readings, reporting what is none."""
        items = iter(trace)
        while block := await asyncio.to_thread(lambda: list(islice(items, LINES_PER_READ))):
            for item in block:
                if isinstance(item, Reading):
                    yield item
                    continue
                self.report.skipped += 1
                self._warn(str(item))

    async def _batches(self, trace: Trace) -> AsyncGenerator[list[Reading], None]:
        """Yield readings that belong into one transaction, when they are due."""
        began_s = time.monotonic()
        batch: list[Reading] = []
        first_s: float | None = None
        async for reading in self._readings(trace):
            if first_s is None:
                first_s = reading.time_s
            if batch and not self._belongs(reading, batch):
                await self._wait_until_due(began_s, batch[-1].time_s - first_s)
                yield batch
                batch = []
            batch.append(reading)
        if batch and first_s is not None:
            await self._wait_until_due(began_s, batch[-1].time_s - first_s)
            yield batch

    def _belongs(self, reading: Reading, batch: list[Reading]) -> bool:
        elapsed_s = reading.time_s - batch[0].time_s
        return 0 <= elapsed_s < self._options.batch_window_s and len(batch) < BATCH_MAX_ROWS

    async def _wait_until_due(self, began_s: float, trace_s: float) -> None:
        if self._options.speed:
            due_s = began_s + trace_s / self._options.speed
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))

    async def _send(
        self, batch: list[Reading], api: ServiceApi, roster: Roster, zones: Watch
    ) -> None:
        """Make what is missing, then move everybody of the batch in one transaction."""
        for zone_id in dict.fromkeys(reading.zone_id for reading in batch):
            if zone_id not in self._made_zones:
                await api.make_zone(zone_id)
                self._made_zones.add(zone_id)
                zones.add(zone_id)
        await roster.enrol(reading.badge for reading in batch)
        self._positions |= await api.transfer(batch, roster.user_ids)
        self.report.transactions += 1
        self.report.readings += len(batch)
        for reading in batch:
            if roster.zone_ids.get(reading.badge) != reading.zone_id:
                roster.zone_ids[reading.badge] = reading.zone_id
                self.report.moves += 1

    async def _compare(self, api: ServiceApi, zones: Watch) -> None:
        """Wait until everything has arrived, and compare each zone with the database."""
        arrivals = {
            zone_id: position for zone_id, position in self._positions.items() if zone_id in zones
        }
        try:
            await zones.wait_for(arrivals, ARRIVE_TIMEOUT_S)
            for zone_id, zone in zones.items():
                if await self._is_equal(api, zones, zone):
                    self.report.equal_zones += 1
                else:
                    self.report.unequal_zones.append(zone_id)
        except WatchError as error:
            self.report.unwatched = str(error)

    async def _is_equal(self, api: ServiceApi, zones: Watch, zone: WatchedZone) -> bool:
        # Others may write meanwhile: only digests at the same position can be compared.
        for _ in range(COMPARE_MAX_TRIES):
            with contextlib.suppress(ServiceError):
                position, digest = await api.read_digest(zone.zone_id)
                await zones.wait_for({zone.zone_id: position}, ARRIVE_TIMEOUT_S)
                if zone.position == position:
                    return zone.digest() == digest
        return False
