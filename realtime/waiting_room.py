"""The waiting room: where commands of a connection wait, while its other commands go on."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from realtime.websocket.centrifuge_codec import Command


@dataclass(frozen=True, slots=True)
class Waiting:
    """A command that waits.

    Attributes:
        command: Its own copy, as it outlives the message that it came with.
        channel: Commands of one channel are executed in their order.
        asked_s: When it came (monotonic).
    """

    command: Command
    channel: str
    asked_s: float


class WaitingRoom:
    """Commands that wait for something, each channel's in their order, several channels at once.

    There is a task for each of the channels that are served at once, and none for the others.

    Args:
        tasks: Owns what runs, until `close`.
        serve: Waits and executes. Its failures are its own: nothing that it raises is handled.
        emptied: Told each time that the last command has left.
        max_concurrent: How many channels are served at once.
        max_commands: How many commands may be here.
        max_bytes: How long their parameters may be together.
    """

    def __init__(
        self,
        tasks: asyncio.TaskGroup,
        serve: Callable[[Waiting], Awaitable[None]],
        emptied: Callable[[], None],
        *,
        max_concurrent: int,
        max_commands: int,
        max_bytes: int,
    ) -> None:
        self._tasks = tasks
        self._serve = serve
        self._emptied = emptied
        self._max_concurrent = max_concurrent
        self._max_commands = max_commands
        self._max_bytes = max_bytes
        self._queues: dict[str, deque[Waiting]] = {}
        self._due: deque[str] = deque()
        self._attendants: set[asyncio.Task[None]] = set()
        self._attending = 0
        self._commands = 0
        self._bytes = 0
        self._left = asyncio.Event()

    def __contains__(self, channel: str) -> bool:
        """Tell whether commands of a channel are here; what comes next has to queue up."""
        return channel in self._queues

    def __len__(self) -> int:
        return self._commands

    @property
    def is_full(self) -> bool:
        """Whether nobody may come in."""
        return self._commands >= self._max_commands or self._bytes >= self._max_bytes

    async def has_room(self) -> None:
        """Wait until somebody may come in. Cancel-safe."""
        while self.is_full:
            self._left.clear()
            await self._left.wait()

    def add(self, waiting: Waiting) -> None:
        """Take a command in; the caller has seen that there is room. Never awaits."""
        params = waiting.command.params.copy()
        kept = replace(waiting, command=replace(waiting.command, params=params))
        self._commands += 1
        self._bytes += memoryview(params).nbytes
        queue = self._queues.get(waiting.channel)
        if queue is not None:
            queue.append(kept)
            return
        self._queues[waiting.channel] = deque([kept])
        self._due.append(waiting.channel)
        if self._attending < self._max_concurrent:
            self._attending += 1
            attendant = self._tasks.create_task(self._attend())
            self._attendants.add(attendant)
            attendant.add_done_callback(self._attendants.discard)

    async def _attend(self) -> None:
        while self._due:
            channel = self._due.popleft()
            queue = self._queues[channel]
            while queue:
                await self._serve(queue[0])
                self._commands -= 1
                self._bytes -= memoryview(queue.popleft().command.params).nbytes
                self._left.set()
            # In the same step in which its queue was seen to be empty, as is the next line.
            del self._queues[channel]
        self._attending -= 1
        if not self._commands:
            self._emptied()

    def close(self) -> None:
        """Send everybody away: the connection is gone."""
        for attendant in self._attendants:
            attendant.cancel()
