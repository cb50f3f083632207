"""The heartbeat: pings and deadlines of all WebSocket connections from one timer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from math import ceil
from typing import Final, Protocol

_MIN_TICK_S: Final = 0.05
_MAX_TICK_S: Final = 1
_MAX_SLOTS: Final = 100


class Patient(Protocol):
    """A connection that is asked for signs of life. Hashable by identity; never raises."""

    def ping(self) -> None:
        """Ask for a sign of life."""

    def begin_listening(self) -> None:
        """Forget the signs of life so far."""

    def check_alive(self) -> bool:
        """End the connection if there was none; `True`: too early to tell, ask again."""


class Dated(Protocol):
    """What has a deadline. Hashable by identity; never raises."""

    def expired(self) -> None:
        """Learn that the deadline is over."""


class Heartbeat:
    """Pings each connection once an interval, at a random place in it, and looks for answers.

    The connections are spread over slots; each tick pings those of one slot, so that many who
    connect at once are not pinged at once. The timer runs only while there are connections.

    Deadlines lie in the wheel by the tick in which they are over, so that one costs no timer:
    it is told up to a tick late.

    Args:
        ping_interval_s: Between two pings of a connection.
        pong_timeout_s: From a ping until its answer is missed, up to a tick more.
        ticked: Called at each tick and when the last connection leaves.
    """

    def __init__(
        self, *, ping_interval_s: float, pong_timeout_s: float, ticked: Callable[[], None]
    ) -> None:
        slots = max(1, min(_MAX_SLOTS, int(ping_interval_s / _MIN_TICK_S)))
        slots = max(slots, ceil(ping_interval_s / _MAX_TICK_S))
        self._tick_s = ping_interval_s / slots
        self._pong_timeout_s = pong_timeout_s
        self._ticked = ticked
        self._slots: list[dict[Patient, None]] = [{} for _ in range(slots)]
        self._count = 0
        self._awaited: deque[tuple[float, Patient]] = deque()
        self._awaited_set: set[Patient] = set()
        self._next_slot = 0
        self._deadlines: dict[int, dict[Dated, None]] = {}
        self._expired_tick = 0
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return self._count

    def _slot_of(self, patient: Patient) -> dict[Patient, None]:
        # By identity, so that it need not be stored; hashed once more, as addresses have a stride.
        return self._slots[hash((id(patient),)) % len(self._slots)]

    def join(self, patient: Patient) -> None:
        """Ping a connection from now on, the first time within one interval."""
        self._slot_of(patient)[patient] = None
        self._count += 1
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._expired_tick = self._tick_of(loop.time())
            self._timer = loop.call_later(self._tick_s, self._tick, loop)

    def leave(self, patient: Patient) -> None:
        """Stop pinging a connection; unknown ones are ignored."""
        slot = self._slot_of(patient)
        if patient in slot:
            del slot[patient]
            self._awaited_set.discard(patient)
            self._count -= 1
        if not self._count and self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._awaited.clear()
            self._deadlines.clear()
            self._ticked()

    # Deadlines

    def _tick_of(self, moment_s: float) -> int:
        return int(moment_s / self._tick_s)

    def expect(self, dated: Dated, until_s: float) -> None:
        """Tell it when `until_s` (monotonic) is over, while any connection is here."""
        tick = max(self._tick_of(until_s), self._expired_tick + 1)
        self._deadlines.setdefault(tick, {})[dated] = None

    def forget(self, dated: Dated, until_s: float) -> None:
        """Drop a deadline, of which the moment is known; unknown ones are ignored."""
        tick = self._tick_of(until_s)
        bucket = self._deadlines.get(tick)
        if bucket is not None:
            bucket.pop(dated, None)
            if not bucket:
                del self._deadlines[tick]

    def _expire(self, now_s: float) -> None:
        last_tick = self._tick_of(now_s) - 1
        first_tick = self._expired_tick + 1
        self._expired_tick = max(self._expired_tick, last_tick)
        for tick in range(first_tick, last_tick + 1):
            for dated in self._deadlines.pop(tick, ()):
                dated.expired()

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(self._tick_s, self._tick, loop)
        now_s = loop.time()
        self._check(now_s)
        self._expire(now_s)
        for patient in tuple(self._slots[self._next_slot]):
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
