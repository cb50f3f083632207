"""Watchers: what every recording client can be told to do, whatever its make."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from random import Random

from channels.positions import Position
from tests.faults.eras import Tables
from tests.faults.gate import Gate
from tests.faults.history import ClientRecorder, Closed, Recorder

ABNORMAL = 1006
SILENCE_S = 5.0
"""Nodes ping every two seconds here: who hears nothing for this long connects again."""
CONNECT_TIMEOUT_S = 3.0


class ConnectionOverError(Exception):
    """A connection ended; `code` as a WebSocket close code."""

    def __init__(self, code: int = ABNORMAL) -> None:
        super().__init__(f"closed with {code}")
        self.code = code


class Watcher(ABC):
    """A client behind a gate.

    Args:
        recorder: Writes what it receives.
        gate: Its way to the nodes.
        random: Its choices.
        wanted: The channels to watch; `None`: all zones.

    Attributes:
        record: Its log.
        wanted: As given; channels that are gone are taken out.
    """

    make = ""
    shows_frames = True
    can_change = False
    """Whether `wanted` may be changed while it runs."""

    def __init__(
        self, name: str, recorder: Recorder, gate: Gate, random: Random, wanted: set[str] | None
    ) -> None:
        self.name = name
        self.gate = gate
        self.wanted = wanted
        self.record: ClientRecorder = recorder.client(
            name, self.make, shows_frames=self.shows_frames
        )
        self.record.log.wanted = wanted
        self.random = random
        self._recorder = recorder
        self._held_since_s: float | None = None

    @property
    def positions(self) -> dict[str, Position]:
        """Where it is, by channel."""
        return self.record.positions

    def lacks(self, tables: Tables, channels: set[str]) -> set[str]:
        """Return which of the existing `channels` that it wants are not at their heads yet."""
        zones = {channel for channel in channels if channel.startswith("zone:")}
        wanted = zones if self.wanted is None else self.wanted & channels
        return {
            channel
            for channel in wanted
            if channel not in self.record.subscribed
            or self.positions.get(channel) != tables.position(channel)
        }

    def hold(self) -> None:
        """Stop reading."""
        if self._held_since_s is None:
            self._held_since_s = self._recorder.now_s()
            self.gate.hold()

    def release(self) -> None:
        """Read on."""
        if self._held_since_s is not None:
            self.gate.release()
            self._recorder.outage(self._held_since_s, f"client:{self.name}", "doesn't read")
            self._held_since_s = None

    @abstractmethod
    async def run(self) -> None:
        """Watch until cancelled."""

    @abstractmethod
    async def sleep(self) -> None:
        """Go away, and keep what is known."""

    @abstractmethod
    async def wake(self) -> None:
        """Come back from where it was."""


class OwnWatcher(Watcher):
    """A watcher that connects by itself, again and again while it is awake."""

    def __init__(
        self, name: str, recorder: Recorder, gate: Gate, random: Random, wanted: set[str] | None
    ) -> None:
        super().__init__(name, recorder, gate, random, wanted)
        self._awake = asyncio.Event()
        self._awake.set()

    async def run(self) -> None:
        """Connect and watch, with pauses in between, until cancelled."""
        while True:
            await self._awake.wait()
            code = ABNORMAL
            try:
                await self.connect()
            except ConnectionOverError as error:
                code = error.code
            except (OSError, TimeoutError):
                pass
            self.record.frame([Closed(code)])
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.random.uniform(0.02, 0.3)):
                    await asyncio.Event().wait()

    @abstractmethod
    async def connect(self) -> None:
        """Watch on one connection until it ends.

        Raises:
            ConnectionOverError: it ended, with this code.
            OSError: it ended, or was never made.
            TimeoutError: nothing was heard any more.
        """

    async def sleep(self) -> None:
        """Drop the connection, and make no new one."""
        self._awake.clear()
        self.gate.cut()

    async def wake(self) -> None:
        """Connect again."""
        self._awake.set()
