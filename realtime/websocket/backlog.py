"""The backlog: what a connection has said that can't be done yet. Most connections have none."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final

from realtime.waiting_room import WaitingRoom
from realtime.websocket.centrifuge_codec import Command

_QUEUED_MESSAGE_BYTES: Final = 512
"""What a queued message costs beside its bytes: without it empty messages would cost nothing."""


class Backlog:
    """Commands and messages in their order, behind one that waits for something.

    Attributes:
        commands: Of a message that was read; they come before `messages`.
        messages: Those that are still to be read.
        message_bytes: What they cost.
        task: Executes them; `None`: none is needed.
        turn: Held while a command is executed, so that it is one at a time.
        room: Where commands wait aside, which are in nobody's way.
        prepared: Channels that are held because `commands` will want them.
        is_prepared: Whether what `commands` will want was looked for.
    """

    __slots__ = (
        "_waker",
        "commands",
        "is_prepared",
        "message_bytes",
        "messages",
        "prepared",
        "room",
        "task",
        "turn",
    )

    def __init__(self) -> None:
        self.commands: deque[Command] = deque()
        self.messages: deque[bytes] = deque()
        self.message_bytes = 0
        self.task: asyncio.Task[None] | None = None
        self.turn = asyncio.Lock()
        self.room: WaitingRoom | None = None
        self.prepared: list[str] = []
        self.is_prepared = False
        self._waker: asyncio.Future[None] | None = None

    @property
    def is_done(self) -> bool:
        """Whether nothing waits any more."""
        return self.task is None and not self.room

    def add_message(self, message: bytes) -> None:
        """Take a message in."""
        self.messages.append(message)
        self.message_bytes += len(message) + _QUEUED_MESSAGE_BYTES

    def take_message(self) -> bytes:
        """Take the oldest message out."""
        message = self.messages.popleft()
        if not self.messages:
            self.message_bytes = 0
        return message

    def add_commands(self, commands: Sequence[Command]) -> None:
        """Take the rest of a message in."""
        self.commands.extend(commands)
        self.is_prepared = False

    async def writable(self) -> None:
        """Wait until `wake`. One waits at a time, as it is its turn. Cancel-safe."""
        self._waker = asyncio.get_running_loop().create_future()
        try:
            await self._waker
        finally:
            self._waker = None

    def wake(self) -> None:
        """Let who waits in `writable` go on."""
        if self._waker is not None and not self._waker.done():
            self._waker.set_result(None)

    def close(self) -> None:
        """Give everything up: the connection is gone."""
        self.commands.clear()
        self.messages.clear()
        if self.task is not None:
            self.task.cancel()
        if self.room is not None:
            self.room.close()
