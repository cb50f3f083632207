"""The heartbeat: pings for all WebSocket connections from one timer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from random import randrange
from typing import Final, Protocol

_MIN_TICK_S: Final = 0.05
_MAX_SLOTS: Final = 100


class Patient(Protocol):
    """A connection that is asked for signs of life. Hashable by identity; never raises."""

    def ping(self) -> None:
        """Ask for a sign of life."""

    def begin_listening(self) -> None:
        """Forget the signs of life so far."""

    def check_alive(self) -> bool:
        """End the connection if there was none; `True`: too early to tell, ask again."""


class Heartbeat:
    """Pings each connection once an interval, at a random place in it, and looks for answers.

    The connections are spread over slots; each tick pings those of one slot, so that many who
    connect at once are not pinged at once. The timer runs only while there are connections.

    Args:
        ping_interval_s: Between two pings of a connection.
        pong_timeout_s: From a ping until its answer is missed, up to a tick more.
        ticked: Called at each tick and when the last connection leaves.
    """

    def __init__(
        self, *, ping_interval_s: float, pong_timeout_s: float, ticked: Callable[[], None]
    ) -> None:
        slots = max(1, min(_MAX_SLOTS, int(ping_interval_s / _MIN_TICK_S)))
        self._tick_s = ping_interval_s / slots
        self._pong_timeout_s = pong_timeout_s
        self._ticked = ticked
        self._slots: list[dict[Patient, None]] = [{} for _ in range(slots)]
        self._slot_of: dict[Patient, int] = {}
        self._awaited: deque[tuple[float, Patient]] = deque()
        self._awaited_set: set[Patient] = set()
        self._next_slot = 0
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._slot_of)

    def join(self, patient: Patient) -> None:
        """Ping a connection from now on, the first time within one interval."""
        slot = randrange(len(self._slots))  # noqa: S311 - spreads load, keeps no secret
        self._slots[slot][patient] = None
        self._slot_of[patient] = slot
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._tick_s, self._tick, loop)

    def leave(self, patient: Patient) -> None:
        """Stop pinging a connection; unknown ones are ignored."""
        slot = self._slot_of.pop(patient, None)
        if slot is not None:
            del self._slots[slot][patient]
            self._awaited_set.discard(patient)
        if not self._slot_of and self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._awaited.clear()
            self._ticked()

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(self._tick_s, self._tick, loop)
        now_s = loop.time()
        self._check(now_s)
        for patient in list(self._slots[self._next_slot]):
            patient.ping()
            # One question at a time, however long its answer may take.
            if patient not in self._awaited_set:
                self._listen(patient, now_s)
        self._next_slot = (self._next_slot + 1) % len(self._slots)
        self._ticked()

    def _listen(self, patient: Patient, now_s: float) -> None:
        patient.begin_listening()
        self._awaited_set.add(patient)
        self._awaited.append((now_s + self._pong_timeout_s, patient))

    def _check(self, now_s: float) -> None:
        while self._awaited and self._awaited[0][0] <= now_s:
            _, patient = self._awaited.popleft()
            if patient in self._awaited_set:
                self._awaited_set.discard(patient)
                if patient.check_alive():
                    # The last ping may have waited behind other bytes, or not been sent at all.
                    patient.ping()
                    self._listen(patient, now_s)
