"""Health: what a node knows of its bus from the heartbeats that it sends to itself."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable

from channels.ports import BusState


class BusHealth:
    """The state of a bus, decided by heartbeats; does no I/O itself.

    The bus is live once a heartbeat that was sent after the latest failure came back: then
    this node's publications go out and its subscriptions come in.

    Attributes:
        state: How the bus is.
        times_live: How often it became live.
    """

    def __init__(
        self,
        *,
        interval_s: float,
        deaf_after_s: float,
        clock_s: Callable[[], float],
        on_change: Callable[[BusState, str], None],
    ) -> None:
        """Start as down.

        Args:
            interval_s: How often heartbeats are sent.
            deaf_after_s: How long after a heartbeat was heard the next one may be missing.
            clock_s: A monotonic clock.
            on_change: Told of each new state with a reason for the log; must not raise.
        """
        self._interval_s = interval_s
        self._deaf_after_s = deaf_after_s
        self._clock_s = clock_s
        self._on_change = on_change
        # A node that was restarted under the same name must not take the old one's
        # heartbeats for its own.
        self._token = secrets.token_hex(8)
        self._sent = 0
        self._heard = 0
        self._must_exceed = 0
        self._heard_at_s = 0.0
        self._unanswered_since_s: float | None = None
        self._live = asyncio.Event()
        self.state = BusState.DOWN
        # That a bus was never there is told, too, once.
        self._is_known = False
        self.times_live = 0

    def connected(self) -> None:
        """Note a new connection: only heartbeats sent from now on count."""
        self._must_exceed = self._sent
        self._heard_at_s = self._clock_s()
        self._unanswered_since_s = None

    def next_heartbeat(self) -> bytes:
        """Return the payload of the heartbeat that is about to be sent."""
        self._sent += 1
        if self._unanswered_since_s is None:
            self._unanswered_since_s = self._clock_s()
        return f"{self._token}:{self._sent}".encode("ascii")

    def hear(self, payload: bytes) -> None:
        """Take what came over the node's own channel; ignores what isn't its heartbeat."""
        token, _, number = payload.partition(b":")
        if token != self._token.encode("ascii") or not number.isdigit():
            return
        self._heard = max(self._heard, int(number))
        self._heard_at_s = self._clock_s()
        self._unanswered_since_s = None if self._heard >= self._sent else self._heard_at_s
        if self._heard > self._must_exceed:
            self._become(BusState.LIVE, "heard its own heartbeat")

    def fail(self, state: BusState, reason: str) -> None:
        """Note that the bus is down or deaf until a heartbeat sent after this is heard."""
        self._must_exceed = self._sent
        self._become(state, reason)

    def deaf_in_s(self) -> float:
        """Return the seconds until the node counts as deaf; zero or less: it does."""
        now_s = self._clock_s()
        if self._unanswered_since_s is None:
            return self._deaf_after_s
        # A process that was itself stopped for a while sent no heartbeats meanwhile: the
        # silence counts from one interval before the one that is missing.
        silent_since_s = max(self._heard_at_s, self._unanswered_since_s - self._interval_s)
        return silent_since_s + self._deaf_after_s - now_s

    async def wait_live(self) -> None:
        """Wait until the bus is live. Cancel-safe, unbounded."""
        await self._live.wait()

    def _become(self, state: BusState, reason: str) -> None:
        if state is self.state and self._is_known:
            return
        self._is_known = True
        self.state = state
        if state is BusState.LIVE:
            self.times_live += 1
            self._live.set()
        else:
            self._live.clear()
        self._on_change(state, reason)
