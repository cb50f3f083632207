"""A scenario: clients, writers and faults on a cluster, all from one seed, and what came of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TypeVar

from tests.faults.breaker import Breaker
from tests.faults.cluster import RESUME_MAX_CHANGES, Cluster
from tests.faults.dict_readers import DictReaders
from tests.faults.eras import Head
from tests.faults.faults import FAULTS, cause, family
from tests.faults.gate import open_gate
from tests.faults.history import History, Recorder
from tests.faults.sdk_watchers import JavaScriptWatcher, PythonWatcher, running_javascript
from tests.faults.sse_watcher import SseWatcher
from tests.faults.timeline import channels_of
from tests.faults.truth import Observer, read_end, read_tables
from tests.faults.validator import validate
from tests.faults.violations import Bounds, Promise, Violation
from tests.faults.watchers import Watcher
from tests.faults.websocket_watcher import WebSocketWatcher
from tests.faults.workload import HOT, Workload

CONVERGED_WITHIN_S = 15.0
POLL_S = 0.1
TURN_S = 12.0
ZONES = tuple(f"Z{number}" for number in range(1, 9))

BOUNDS = Bounds(resume_max_changes=RESUME_MAX_CHANGES)

W = TypeVar("W", bound=Watcher)
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a scenario consists of.

    Attributes:
        seed: All choices come from it.
        duration_s: How long is written; longer when faults take longer.
        faults: In order; `None`: as many as fit, drawn from all.
        due: Of those drawn, which come first.
        websockets: Plain clients; further counts likewise.
        javascript: Clients of the JavaScript SDK, where Node is given.
        writers: Writers at once.
        pause_s: The mean pause of a writer.
        dict_readers: Readers of the users dict at once.
        patience: By what the longest faults are longer than they need to be.
    """

    seed: int
    duration_s: float
    faults: Sequence[str] | None = None
    due: frozenset[str] = frozenset()
    websockets: int = 5
    sse: int = 2
    sse_of_all: int = 1
    python: int = 2
    javascript: int = 2
    writers: int = 4
    pause_s: float = 0.08
    dict_readers: int = 2
    patience: float = 1


@dataclass(slots=True)
class Outcome:
    """What came of a scenario."""

    plan: Plan
    history: History
    violations: list[Violation]
    operations: int
    clients: int
    faults: dict[str, int] = field(default_factory=dict)


class Scenario:
    """One run of a plan on a cluster that stays up.

    Args:
        cluster: The servers, all up.
        plan: What to do.
        node: The program Node, for the JavaScript SDK.
        progress: Told in a few words what happens.
    """

    def __init__(
        self, cluster: Cluster, plan: Plan, node: Path | None, progress: Progress = lambda _: None
    ) -> None:
        self._cluster = cluster
        self._plan = plan
        self._node = node
        self._tell = progress
        self._random = Random(plan.seed)  # noqa: S311 - repeatable on purpose
        self._recorder = Recorder()
        self._watchers: list[Watcher] = []
        self._heads: dict[str, Head] = {}
        self._ending = asyncio.Event()
        self._unready: list[Violation] = []

    async def run(self) -> Outcome:
        """Run the plan, and judge what happened."""
        history = self._recorder.history
        await self._cluster.mend()
        history.base = await read_tables(self._cluster.postgres)
        workload = self._workload(history)
        async with AsyncExitStack() as stack:
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            observer = Observer(self._cluster.postgres, self._recorder, self._heads)
            watching = [
                tasks.create_task(observer.run()),
                tasks.create_task(observer.watch_itself()),
            ]
            await workload.set_up(users=max(0, 60 - len(history.base.users)))
            await self._open_watchers(stack)
            watching += [tasks.create_task(watcher.run()) for watcher in self._watchers]
            readers = self._dict_readers()
            watching.append(tasks.create_task(readers.run(self._plan.dict_readers)))
            await self._disturb(tasks, workload)
            self._tell("converging")
            await self._converge()
            self._recorder.is_over = True
            await read_end(self._cluster.postgres, history)
            for task in watching:
                task.cancel()
        violations = await asyncio.to_thread(validate, history, BOUNDS)
        violations += self._unready
        counts: dict[str, int] = {}
        for fault in history.faults:
            counts[fault.name] = counts.get(fault.name, 0) + 1
        clients = len(self._watchers)
        return Outcome(self._plan, history, violations, workload.operations, clients, counts)

    def _own_random(self) -> Random:
        return Random(self._random.random())  # noqa: S311 - repeatable on purpose

    def _workload(self, history: History) -> Workload:
        choices = self._own_random()
        workload = Workload(
            self._recorder,
            lambda: self._cluster.choose(choices, self._favourite()),
            lambda: self._cluster.choose(choices),
            self._own_random(),
            list(ZONES),
            self._plan.pause_s,
        )
        users = history.base.users
        numbers = [user["global_id"] for user in users.values()]
        workload.take_over(list(users), list(history.base.zones), max(numbers, default=0) + 1)
        return workload

    def _dict_readers(self) -> DictReaders:
        choices = Random(f"users dict {self._plan.seed}")  # noqa: S311 - repeatable on purpose
        return DictReaders(self._recorder, lambda: self._cluster.choose(choices), choices)

    def _favourite(self) -> int | None:
        """Return which node is written to; `None`: all are.

        Mostly a single one, so that the others hear of changes from it alone: by a write of
        its own a node notices what it has missed.
        """
        turn = int((self._recorder.now_s() - self._recorder.history.began_s) / TURN_S)
        index = (turn + self._plan.seed) % (len(self._cluster.members) + 1)
        return index if index < len(self._cluster.members) else None

    # Clients

    async def _open_watchers(self, stack: AsyncExitStack) -> None:
        plan = self._plan
        for number in range(plan.websockets):
            wanted = self._some_channels(self._random.randint(1, 6))
            await self._open(stack, WebSocketWatcher, f"websocket-{number}", wanted)
        for number in range(plan.sse):
            wanted = self._some_channels(self._random.randint(1, 5), only_zones=True)
            await self._open(stack, SseWatcher, f"sse-{number}", wanted)
        for number in range(plan.sse_of_all):
            await self._open(stack, SseWatcher, f"sse-all-{number}", None)
        for number in range(plan.python):
            wanted = self._some_channels(self._random.randint(1, 4))
            await self._open(stack, PythonWatcher, f"python-{number}", wanted)
        if self._node is not None and plan.javascript:
            process = await stack.enter_async_context(running_javascript(self._node))
            for number in range(plan.javascript):
                wanted = self._some_channels(self._random.randint(1, 4))
                watcher = await self._open(stack, JavaScriptWatcher, f"javascript-{number}", wanted)
                watcher.join(process)

    async def _open(
        self, stack: AsyncExitStack, kind: Callable[..., W], name: str, wanted: set[str] | None
    ) -> W:
        choices = self._own_random()
        gate = await stack.enter_async_context(open_gate(lambda: self._cluster.choose(choices)))
        watcher = kind(name, self._recorder, gate, self._own_random(), wanted)
        self._watchers.append(watcher)
        return watcher

    def _some_channels(self, count: int, *, only_zones: bool = False) -> set[str]:
        channels = {f"zone:{zone_id}" for zone_id in self._random.sample(ZONES, count)}
        if only_zones or self._random.random() < 0.7:
            channels.add(f"zone:{HOT}")
        if not only_zones and self._random.random() < 0.5:
            channels |= {"zones", "unassigned"}
        return channels

    async def _live(self, watcher: Watcher, random: Random) -> None:
        """Let a client sleep, wake, and change what it watches, until the end begins."""
        while not self._ending.is_set():
            await self._pause(random.expovariate(1 / 4) + 0.5)
            if watcher.can_change and watcher.wanted is not None and random.random() < 0.5:
                watcher.wanted ^= {f"zone:{random.choice(ZONES)}"}
                continue
            await watcher.sleep()
            await self._pause(random.expovariate(1 / 2))
            await watcher.wake()

    async def _pause(self, pause_s: float) -> None:
        """Wait, but not into the end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._ending.wait()

    # Faults

    async def _disturb(self, tasks: asyncio.TaskGroup, workload: Workload) -> None:
        """Write, live and break until the time is over and all is mended."""
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + self._plan.duration_s
        living = [
            tasks.create_task(self._live(watcher, self._own_random())) for watcher in self._watchers
        ]
        writing = tasks.create_task(workload.run(self._plan.writers))
        breaker = Breaker(
            self._cluster,
            self._watchers,
            self._recorder,
            self._own_random(),
            self._plan.patience,
        )
        random = self._own_random()
        for names in self._deck(random):
            await asyncio.sleep(random.uniform(0.5, 2))
            if self._plan.faults is None and loop.time() > ends_s - 4:
                break
            self._tell(" + ".join(names))
            async with asyncio.TaskGroup() as breaking:
                for name in names:
                    breaking.create_task(cause(name, breaker))
        await asyncio.sleep(max(1, ends_s - loop.time()))
        self._ending.set()
        writing.cancel()
        await asyncio.gather(*living, writing, return_exceptions=True)

    def _deck(self, random: Random) -> Sequence[Sequence[str]]:
        """Shuffle the faults, and let some of different families happen together."""
        if self._plan.faults is not None:
            return [[name] for name in self._plan.faults]
        names = random.sample(sorted(self._plan.due), len(self._plan.due))
        names += [name for _ in range(20) for name in random.sample(list(FAULTS), len(FAULTS))]
        deck: list[list[str]] = []
        for name in names:
            is_alone = deck and len(deck[-1]) == 1 and random.random() > 0.3
            if not deck or is_alone or family(name) in map(family, deck[-1]):
                deck.append([name])
            else:
                deck[-1].append(name)
        return deck

    # The end

    async def _converge(self) -> None:
        """Wait, bounded, until all nodes are ready and all clients are where the database is."""
        if not await self._cluster.until_ready():
            for member in self._cluster.members:
                if not await member.process.answers():
                    text = f"{member.name} is not ready: {member.process.log_tail()}"
                    self._unready.append(Violation(Promise.SERVED, text, self._recorder.now_s()))
        for watcher in self._watchers:
            watcher.release()
        try:
            async with asyncio.timeout(CONVERGED_WITHIN_S):
                while True:
                    tables = await read_tables(self._cluster.postgres)
                    channels = {*channels_of(tables)}
                    if not any(watcher.lacks(tables, channels) for watcher in self._watchers):
                        return
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            return  # The validator tells who is where.
