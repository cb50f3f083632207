"""Limits: rates that a client or a node is held to, and why somebody was turned away."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from realtime.limit_settings import LimitSettings

REFUSED_COST: Final = 0.1
"""What a refused command costs of one that is done: who backs off is served again at once."""


class Refusal(Enum):
    """Why somebody was turned away, or something was not done. Labels of a metric."""

    STOPPING = "stopping"
    """The node takes nobody new, as it is about to go."""
    NODE = "node"
    """The node has all the connections that it takes."""
    ADDRESS = "address"
    """The client's address has."""
    SUBJECT = "subject"
    """The token's subject has."""
    COMMANDS = "commands"
    """A connection sends too many commands."""
    FLOOD = "flood"
    """It went on, and was cut."""
    SUBSCRIBES = "subscribes"
    """Too many subscriptions begin on the node."""
    REQUESTS = "requests"
    """A subject or address sends too many HTTP requests."""


class FloodError(Exception):
    """A connection that ignores that it is told to wait (disconnect 3509)."""


@dataclass(frozen=True, slots=True)
class Rate:
    """So many in a second, and so many at once. State is one number: until when all is paid for.

    Attributes:
        per_s: How many for long.
        burst: How many at once.
    """

    per_s: float
    burst: int

    def debt_s(self, paid_until_s: float, now_s: float, cost: float = 1.0) -> float:
        """Return by how much one more would be too early; 0 or below: it is not."""
        return max(paid_until_s, now_s) - now_s + (cost - self.burst) / self.per_s

    def pay(self, paid_until_s: float, now_s: float, cost: float = 1.0) -> float:
        """Return until when all is paid for after one more."""
        return max(paid_until_s, now_s) + cost / self.per_s


def rate_of(per_s: float, burst: int) -> Rate | None:
    """Return a rate; `None`: there is no bound."""
    return Rate(per_s, burst) if per_s else None


class Payer(Protocol):
    """A connection whose commands are counted."""

    paid_until_s: float


class Limits:
    """What the connections of a node are held to. No method awaits.

    Args:
        settings: The limits' part.
        refused: Told of everything that is refused.
        clock_s: A monotonic clock.
    """

    def __init__(
        self,
        settings: LimitSettings,
        refused: Callable[[Refusal], None],
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.refused = refused
        self._clock_s = clock_s
        self._commands = rate_of(settings.commands_per_s, settings.commands_burst)
        self._subscribes = rate_of(settings.subscribes_per_s, settings.subscribes_burst)
        self._subscribes_paid_until_s = 0.0

    def may_command(self, payer: Payer) -> bool:
        """Count a command, and tell whether it may be done.

        Raises:
            FloodError: refusals were ignored for too long.
        """
        rate = self._commands
        if rate is None:
            return True
        now_s = self._clock_s()
        if rate.debt_s(payer.paid_until_s, now_s) <= 0:
            payer.paid_until_s = rate.pay(payer.paid_until_s, now_s)
            return True
        if rate.debt_s(payer.paid_until_s, now_s) > rate.burst / rate.per_s:
            self.refused(Refusal.FLOOD)
            raise FloodError
        payer.paid_until_s = rate.pay(payer.paid_until_s, now_s, REFUSED_COST)
        self.refused(Refusal.COMMANDS)
        return False

    def may_subscribe(self, channels: int = 1) -> bool:
        """Count subscriptions that are about to begin, and tell whether they may."""
        rate = self._subscribes
        if rate is None:
            return True
        now_s = self._clock_s()
        # What is more than a burst would never fit: it waits until all is paid for.
        cost = min(channels, rate.burst)
        if rate.debt_s(self._subscribes_paid_until_s, now_s, cost) > 0:
            self.refused(Refusal.SUBSCRIBES)
            return False
        self._subscribes_paid_until_s = rate.pay(self._subscribes_paid_until_s, now_s, cost)
        return True

    def subscribes_left(self, payer: Payer, most: int) -> int:
        """Return how many subscriptions a connection may begin now, of `most`."""
        now_s = self._clock_s()
        for rate, paid_until_s in (
            (self._commands, payer.paid_until_s),
            (self._subscribes, self._subscribes_paid_until_s),
        ):
            if rate is not None:
                most = min(most, int(-rate.debt_s(paid_until_s, now_s, 0) * rate.per_s))
        return max(0, most)
