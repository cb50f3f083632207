"""Slow clients: they cost the node a bounded amount and the others nothing, and converge."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random

import httpx
import pytest

from tests.faults.crowd import (
    SMALL_BUFFER_BYTES,
    Reader,
    SseReader,
    WebSocketReader,
    text_of_client,
)
from tests.faults.gate import Gate, Target, open_gate
from tests.faults.history import Recorder
from tests.faults.sdk_watchers import JavaScriptWatcher, PythonWatcher, running_javascript
from tests.faults.watchers import Watcher
from tests.nodes import NodeProcess
from tests.realtime.raw_socket import raw_socket
from tests.realtime.wire_world import served, until

FAST, SLOW, FLOODING = 80, 20, 3
EVENT_BYTES = 16_000
LIMIT_BYTES = 65_536
KERNEL_BYTES = 300_000
"""What sockets may hold on both sides, and a frame that is being written."""
FIXED_BYTES = 60_000_000
"""What a node's memory may grow by for other reasons: its replicas, the log, fragments."""

ENDS_WITHIN_S = 50.0
"""Less than pytest's own timeout, which stops the loop or whatever task runs just then: by this
bound a test that hangs fails, and takes down what it started.
"""

SUBSCRIPTIONS = "zonecast_subscriptions"

SETTINGS: dict[str, object] = {
    "slow_buffer_max_bytes": LIMIT_BYTES,
    # Silence is tested elsewhere: here only what isn't read counts.
    "ping_interval_s": 86_400,
    "resume_max_changes": 40,
}

KINDS = pytest.mark.parametrize("kind", [WebSocketReader, SseReader], ids=["websocket", "sse"])


class Service:
    """A node with one zone and one user in it, whose changes are large."""

    def __init__(self, node: NodeProcess, http: httpx.AsyncClient) -> None:
        self.node = node
        self.port = node.port
        self._http = http
        self._url = ""

    async def fill(self) -> None:
        """Make the zone and its user."""
        (await self._http.post("/zones", json={"zone_id": "Z", "name": "Z"})).raise_for_status()
        user = {"global_id": 1, "name": "Ada", "zone_id": "Z"}
        made = (await self._http.post("/users", json=user)).raise_for_status()
        self._url = f"/users/{made.json()['id']}"

    async def write(self, count: int) -> None:
        """Change the user."""
        for number in range(count):
            body = {"attributes": {"text": f"{number:>{EVENT_BYTES}}"}}
            (await self._http.patch(self._url, json=body)).raise_for_status()

    async def closed_as_slow(self) -> int:
        """Return how many connections were cut with 3008."""
        text = (await self._http.get("/metrics")).text
        line = r'^zonecast_connections_closed_total\{.*"3008".*\} (\S+)'
        return int(sum(float(value) for value in re.findall(line, text, re.MULTILINE)))

    async def until_cut(self, count: int) -> None:
        """Wait, bounded by the test's own timeout, until so many were cut."""
        # A node tells in no other way.
        while await self.closed_as_slow() < count:  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    def rss_bytes(self) -> int:
        """Return the node's memory."""
        status = Path(f"/proc/{self.node.pid}/status").read_text(encoding="ascii")
        found = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
        assert found is not None
        return int(found[1]) * 1024

    async def memory(self) -> int:
        """Return the node's memory without blocking the loop."""
        return await asyncio.to_thread(self.rss_bytes)


@asynccontextmanager
async def serving(url: str, folder: Path, **settings: object) -> AsyncIterator[Service]:
    """Run a node on a database until the body ends."""
    chosen = {"database_url": url, **SETTINGS, **settings}
    # It looks for programs on the disk.
    node = await asyncio.to_thread(NodeProcess, folder, chosen)
    await node.start()
    try:
        async with httpx.AsyncClient(base_url=node.url, timeout=30) as http:
            service = Service(node, http)
            await service.fill()
            yield service
    finally:
        await node.stop()


@asynccontextmanager
async def watching(fast: Sequence[Reader], slow: Sequence[Reader]) -> AsyncIterator[None]:
    """Let readers watch until the body ends, for a bounded time."""
    async with asyncio.timeout(ENDS_WITHIN_S), asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(reader.run()) for reader in fast]
        running += [tasks.create_task(reader.run(slow=True)) for reader in slow]
        await until(lambda: all(reader.rev >= 0 for reader in [*fast, *slow]))
        yield
        for task in running:
            task.cancel()


@KINDS
async def test_others_miss_nothing_while_clients_do_not_read(
    kind: Callable[..., Reader], sqlite_url: str, tmp_path: Path
) -> None:
    """Everybody else has each change once and in order; who reads again gets to the same place."""
    async with serving(sqlite_url, tmp_path, slow_drain_timeout_s=60) as service:
        fast = [kind(service.port, "Z") for _ in range(FAST)]
        slow = [kind(service.port, "Z") for _ in range(SLOW)]
        async with watching(fast, slow):
            first_rev = fast[0].rev
            await service.write(5)
            before = await service.memory()
            for reader in slow:
                reader.hold()
            for reader in slow[::2]:
                # Half of them have never read anything on their connection.
                reader.cut()
            await service.write(55)
            last_rev = first_rev + 60
            await until(lambda: all(reader.rev == last_rev for reader in fast))
            assert all(reader.rev < last_rev for reader in slow)
            grown = await service.memory() - before
            assert grown < SLOW * (2 * LIMIT_BYTES + KERNEL_BYTES) + FIXED_BYTES
            for reader in slow:
                reader.release()
            await until(lambda: all(reader.rev == last_rev for reader in slow))
            assert await service.closed_as_slow() == 0
        for reader in fast:
            assert (reader.changes, reader.faults, reader.states, reader.ends) == (60, 0, 1, 0)
        for number, reader in enumerate(slow):
            assert reader.faults == 0
            assert reader.ends == (number % 2 == 0)
            # What it didn't get as changes it was given as a state.
            assert reader.changes == 60 or reader.states > 1


@KINDS
async def test_clients_that_read_in_bursts_keep_up_or_take_the_state(
    kind: Callable[..., Reader], sqlite_url: str, tmp_path: Path
) -> None:
    """Nothing is skipped silently, however often a client falls behind and reads on."""
    async with serving(sqlite_url, tmp_path, slow_drain_timeout_s=60) as service:
        fast, slow = [kind(service.port, "Z")], [kind(service.port, "Z") for _ in range(SLOW)]
        async with watching(fast, slow):
            first_rev = fast[0].rev
            for round_ in range(6):
                for number, reader in enumerate(slow):
                    if (round_ + number) % 3:
                        reader.hold()
                    else:
                        reader.release()
                await service.write(10)
            for reader in slow:
                reader.release()
            await until(lambda: all(reader.rev == first_rev + 60 for reader in [*fast, *slow]))
        for reader in slow:
            assert (reader.faults, reader.ends) == (0, 0)
            assert reader.changes == 60 or reader.anew


@KINDS
async def test_who_does_not_drain_within_the_bound_is_cut_and_comes_back(
    kind: Callable[..., Reader], sqlite_url: str, tmp_path: Path
) -> None:
    """It is aborted, not closed politely, no sooner than the bound, and then resumes."""
    bound_s = 1.0
    async with serving(sqlite_url, tmp_path, slow_drain_timeout_s=bound_s) as service:
        fast = [kind(service.port, "Z") for _ in range(5)]
        slow = [kind(service.port, "Z") for _ in range(5)]
        async with watching(fast, slow):
            first_rev = fast[0].rev
            held_s = asyncio.get_running_loop().time()
            for reader in slow:
                reader.hold()
            await service.write(40)
            await service.until_cut(len(slow))
            assert asyncio.get_running_loop().time() - held_s >= bound_s
            for reader in slow:
                reader.release()
            await until(lambda: all(reader.rev == first_rev + 40 for reader in [*fast, *slow]))
            assert await service.closed_as_slow() == len(slow)
        for reader in fast:
            assert (reader.changes, reader.faults, reader.ends) == (40, 0, 0)
        for reader in slow:
            assert (reader.faults, reader.goodbyes, reader.ends) == (0, 0, 1)


@pytest.mark.parametrize(
    "commands",
    [
        ['"history":{"channel":"zone:Z","limit":9}'],
        ['"subscribe":{"channel":"zone:Z"}', '"unsubscribe":{"channel":"zone:Z"}'],
    ],
    ids=["history", "snapshots"],
)
async def test_a_client_that_asks_without_reading_costs_a_bounded_amount(
    commands: Sequence[str], sqlite_url: str, tmp_path: Path
) -> None:
    """Ten thousand commands, whose replies would come to hundreds of megabytes and more."""
    async with serving(sqlite_url, tmp_path, slow_drain_timeout_s=2) as service:
        await service.write(12)
        before = await service.memory()
        flood = b"".join(
            text_of_client(f'{{"id":{number},{commands[number % len(commands)]}}}')
            for number in range(2, 10_002)
        )
        async with AsyncExitStack() as stack:
            for _ in range(FLOODING):
                raw = await stack.enter_async_context(
                    raw_socket(service.port, receive_buffer_bytes=SMALL_BUFFER_BYTES)
                )
                await raw.shake_hands()
                raw.write('{"id":1,"connect":{}}')
                raw.writer.write(flood)
            while await service.closed_as_slow() < FLOODING:
                assert await service.memory() - before < FIXED_BYTES
                await asyncio.sleep(0.02)


@pytest.mark.parametrize("is_cut", [False, True], ids=["in time", "too late"])
async def test_official_sdks_that_did_not_read_converge(
    node: Path, sqlite_url: str, tmp_path: Path, *, is_cut: bool
) -> None:
    """The Python and the JavaScript SDK end where the channel is, cut meanwhile or not."""
    bound_s = 1.0 if is_cut else 60.0
    async with serving(sqlite_url, tmp_path, slow_drain_timeout_s=bound_s) as service:
        recorder = Recorder()

        def choose() -> Target:
            return Target("node-1", service.port)

        async with asyncio.timeout(ENDS_WITHIN_S), AsyncExitStack() as stack:
            process = await stack.enter_async_context(running_javascript(node))
            watchers: list[Watcher] = []
            for number in range(2):
                gates: list[Gate] = [
                    await stack.enter_async_context(open_gate(choose)) for _ in range(2)
                ]
                random = Random(number)  # noqa: S311 - repeatable on purpose
                python = PythonWatcher(f"p{number}", recorder, gates[0], random, {"zone:Z"})
                script = JavaScriptWatcher(f"j{number}", recorder, gates[1], random, {"zone:Z"})
                script.join(process)
                watchers += [python, script]
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            running = [tasks.create_task(watcher.run()) for watcher in watchers]
            await until(lambda: all("zone:Z" in watcher.positions for watcher in watchers))
            last_rev = watchers[0].positions["zone:Z"].rev + 60
            for watcher in watchers:
                watcher.hold()
            await service.write(60)
            if is_cut:
                await service.until_cut(len(watchers))
            for watcher in watchers:
                watcher.release()
            await until(
                lambda: all(watcher.positions["zone:Z"].rev == last_rev for watcher in watchers)
            )
            assert await service.closed_as_slow() == (len(watchers) if is_cut else 0)
            for task in running:
                task.cancel()


async def test_what_is_buffered_for_slow_clients_is_bounded() -> None:
    """Measured on the node's side, while they read in bursts: the limit, and a catch-up."""
    event_bytes = 8_000
    async with served(slow_buffer_max_bytes=LIMIT_BYTES) as world, AsyncExitStack() as stack:
        raws = [
            await stack.enter_async_context(
                raw_socket(world.port, receive_buffer_bytes=SMALL_BUFFER_BYTES)
            )
            for _ in range(SLOW)
        ]
        for raw in raws:
            await raw.shake_hands()
            raw.write('{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"zone:A"}}')
        await until(lambda: world.node.metrics.registry.get_sample_value(SUBSCRIPTIONS) == SLOW)
        most = 0
        fell_behind = False
        for number in range(300):
            world.commit(*((user, "A") for user in range(event_bytes // 100)))
            await asyncio.sleep(0)
            fell_behind |= world.node.feed.slow_count == SLOW
            if number > 100:
                await raws[number % SLOW].reader.read(SMALL_BUFFER_BYTES)
            buffered = [wire.transport.get_write_buffer_size() for wire in world.protocols]
            most = max(most, *buffered)
        assert fell_behind
        assert most < 2 * LIMIT_BYTES + 2 * event_bytes
