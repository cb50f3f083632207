"""Garbage: collections look only at what is new, so that each holds the loop for a moment."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Final

LONG_S: Final = 0.01
"""What has survived a full collection that took longer is not looked at again."""
FREEZES_MAX: Final = 100
"""So often: then everything is looked at once, as some of it may have become garbage."""
YOUNG_COLLECTIONS: Final = (700, 10, 2)
"""Full collections come early, when there is little to look at. Python's own begin when there are
some 77,000 objects, which 7,000 connections are made of."""


class GarbageCollection:
    """The collector of this process, kept from what it need not look at again and again.

    Sessions are freed when their connections end, without it. Only what is part of a cycle when
    it is frozen, as requests under way are, waits until everything is looked at.

    Args:
        long_s: As `LONG_S`.
        freezes_max: As `FREEZES_MAX`.
        clock_s: Measures collections.
    """

    def __init__(
        self,
        long_s: float = LONG_S,
        freezes_max: int = FREEZES_MAX,
        clock_s: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._long_s = long_s
        self._freezes_max = freezes_max
        self._clock_s = clock_s
        self._freezes = 0
        self._began_s = 0.0

    def begin(self) -> None:
        """Leave alone what is there now, and watch full collections from now on."""
        gc.collect()
        gc.freeze()
        # It remembers how much it has looked at, and waits for a quarter of that.
        gc.collect()
        gc.set_threshold(*YOUNG_COLLECTIONS)
        gc.callbacks.append(self.note)

    def note(self, phase: str, info: dict[str, int]) -> None:
        """Learn from Python that a collection begins, or is over."""
        if info["generation"] != 2:
            return
        if phase == "start":
            self._began_s = self._clock_s()
        elif self._clock_s() - self._began_s > self._long_s:
            self._freezes += 1
            if self._freezes > self._freezes_max:
                self._freezes = 0
                gc.unfreeze()
            else:
                gc.freeze()
