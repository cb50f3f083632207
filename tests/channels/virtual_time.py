"""An event loop whose clock jumps to the next timer: hours of waiting pass in no time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

Result = TypeVar("Result")


class NothingToWaitForError(Exception):
    """Everything waits, and there is no timer: it would be for ever."""


class _JumpingSelector:
    """Passes the time that a real one would spend waiting; there is no input."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def select(self, timeout_s: float | None) -> list[object]:
        """Let `timeout_s` pass at once."""
        if timeout_s is None:
            raise NothingToWaitForError
        self.now_s += max(0.0, timeout_s)
        return []


class VirtualTimeLoop(asyncio.BaseEventLoop):
    """Timers and callbacks only, no sockets; deterministic."""

    def __init__(self) -> None:
        super().__init__()
        self._selector = _JumpingSelector()

    def time(self) -> float:
        """Return the virtual clock, seconds."""
        return self._selector.now_s

    def _process_events(self, event_list: list[object]) -> None:
        """Do nothing: there are no events but timers."""

    def _write_to_self(self) -> None:
        """Do nothing: the loop never sleeps."""


def run_in_virtual_time(main: Coroutine[object, object, Result]) -> Result:
    """Run `main` to its end in a loop of its own."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
