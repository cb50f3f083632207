"""The event loop's lag: how late it comes to what is due, which everybody on the node waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

INTERVAL_S: Final = 0.25
"""Between two looks: cheap enough to run always, often enough to meet what blocks for long."""


async def watch_loop_lag(noticed: Callable[[float], None], interval_s: float = INTERVAL_S) -> None:
    """Measure until cancelled how much later than asked for the loop wakes this task.

    Args:
        noticed: Told of each lag, in seconds, 0 or more.
        interval_s: Between two measurements.
    """
    loop = asyncio.get_running_loop()
    while True:
        due_s = loop.time() + interval_s
        await asyncio.sleep(interval_s)
        noticed(max(0.0, loop.time() - due_s))
