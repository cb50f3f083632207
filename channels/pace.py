"""The pace of the fan-out: at once after a quiet time, and what follows a costly pass is joined.

A write to a socket costs about the same however many changes it carries, so a crowd that is
written to for each change by itself is served later, not earlier. The time between passes grows
with the writes of the last one, up to a window: who is alone in a zone never waits for it. A
crowd so large that its passes alone would fill the window gets a longer one, and each client that
comes meanwhile makes it longer: passes never take all of a core from those who come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

JOINED_ENOUGH: Final = 8
"""So many changes are worth a pass: joining more would save little, and costs time."""
JOINED_ENOUGH_IN_STORM: Final = 64
"""Likewise while clients come, to whom the core belongs first."""


@dataclass(frozen=True, slots=True)
class PaceConfig:
    """How often passes begin, and how long they hold the loop.

    Attributes:
        window_s: The longest time between the beginnings of passes, but for crowds that fill it;
            0: they never wait.
        window_per_write_s: That time for each write of a pass: about three times its cost, so
            that a third of a core is used. Beyond the window it is half of that, for two thirds.
        storm_window_s: The longest time between the beginnings of passes while clients come.
        storm_window_per_write_s: That time for each write of a pass, at most: a tenth of a core.
        storm_window_per_client_s: How much each client that comes adds, up to those two.
        piece_max_writes: Writes after which a pass lets others have the loop.
        piece_max_s: Likewise, the time.
    """

    window_s: float = 0.025
    window_per_write_s: float = 0.000_025
    storm_window_s: float = 0.5
    storm_window_per_write_s: float = 0.000_1
    storm_window_per_client_s: float = 0.01
    piece_max_writes: int = 1_000
    piece_max_s: float = 0.005


class Pace:
    """Calls for passes: one at a time, not before the window of the last has ended.

    Args:
        act: Begins a pass.
        config: The window.
        call_soon: Runs a function at the end of the present tick of the loop.
        call_later: Runs a function after a time.
        monotonic_s: The clock.
    """

    def __init__(
        self,
        act: Callable[[], None],
        config: PaceConfig,
        *,
        call_soon: Callable[[Callable[[], None]], object],
        call_later: Callable[[float, Callable[[], None]], asyncio.TimerHandle],
        monotonic_s: Callable[[], float],
    ) -> None:
        self._act = act
        self._config = config
        self._call_soon = call_soon
        self._call_later = call_later
        self._monotonic_s = monotonic_s
        self._began_s = 0.0
        self._writes = 0
        self._came = 0
        self._is_called = False
        self._timer: asyncio.TimerHandle | None = None

    def _wait_s(self) -> float:
        """Tell how long it is until a pass may begin; 0 or less: it may now."""
        config = self._config
        if not config.window_s:
            return 0
        quiet_s = self._writes * config.window_per_write_s
        spacing_s = min(quiet_s, max(config.window_s, quiet_s / 2))
        if self._came:
            longest_s = min(config.storm_window_s, self._writes * config.storm_window_per_write_s)
            stretched_s = spacing_s + self._came * config.storm_window_per_client_s
            spacing_s = max(spacing_s, min(stretched_s, longest_s))
        return self._began_s + spacing_s - self._monotonic_s()

    def came(self) -> None:
        """Note that a client has come, which others would like to do, too."""
        self._came += 1

    def call(self, joined: int) -> None:
        """Let a pass begin as soon as it may; `joined` changes wait for it."""
        if self._is_called:
            return
        if joined >= (JOINED_ENOUGH_IN_STORM if self._came else JOINED_ENOUGH):
            self._begin_soon()
        elif self._timer is None:
            self._begin_in_time()

    def _begin_in_time(self) -> None:
        wait_s = self._wait_s()
        if wait_s > 0:
            self._timer = self._call_later(wait_s, self._look_again)
        else:
            self._begin_soon()

    def _look_again(self) -> None:
        """Begin, unless so many have come that it is to be later."""
        self._timer = None
        if not self._is_called:
            self._begin_in_time()

    def _begin_soon(self) -> None:
        self._is_called = True
        self._call_soon(self._begin)

    def _begin(self) -> None:
        self._is_called = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._act()

    def begun(self) -> None:
        """Note that a pass begins."""
        self._began_s = self._monotonic_s()
        self._came = 0

    def ended(self, writes: int) -> None:
        """Note that a pass is over, and how many writes it took."""
        self._writes = writes
