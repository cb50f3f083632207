"""The request quota: how many HTTP requests one asker may send, and what it is told of that."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import ceil, floor
from typing import Final

from starlette.types import Scope

from realtime.auth.gate import Gate
from realtime.connections import place_of
from realtime.limits import Rate

NAME: Final = '"requests"'
MAX_ASKERS: Final = 10_000
"""How many are counted in this process; beyond, who asked longest ago is forgotten."""

Share = Callable[[str], Awaitable[tuple[bool, float] | None]]
"""Counts for all nodes, as `cache.shared_quota.SharedQuota.take` does."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How an asker stands after a request.

    Attributes:
        is_allowed: Whether the request may be done.
        left: How many more may be sent at once.
        whole_in_s: When as many as ever may be.
        next_in_s: When one more may be.
    """

    is_allowed: bool
    left: int
    whole_in_s: int
    next_in_s: int


class RequestQuota:
    """Counts the requests of askers, with other nodes where Redis is, else in this process.

    Args:
        rate: What each asker is held to.
        share: Counts with the other nodes; `None`: there are none.
        clock_s: A monotonic clock.
    """

    def __init__(
        self, rate: Rate, share: Share | None, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate
        self._share = share
        self._clock_s = clock_s
        self._paid_until_s: OrderedDict[str, float] = OrderedDict()
        window_s = max(1, ceil(rate.burst / rate.per_s))
        self._policy = f"{NAME};q={rate.burst};w={window_s}".encode()

    async def take(self, asker: str) -> Standing:
        """Count a request; without Redis, as far as this node knows. Cancel-safe."""
        found = None if self._share is None else await self._share(asker)
        is_allowed, ahead_s = self._take_here(asker) if found is None else found
        rate = self._rate
        left = max(0, floor(rate.burst - ahead_s * rate.per_s + 0.001))
        next_in_s = max(0.0, ahead_s + (1 - rate.burst) / rate.per_s)
        return Standing(is_allowed, left, ceil(ahead_s), max(1, ceil(next_in_s)))

    def _take_here(self, asker: str) -> tuple[bool, float]:
        now_s = self._clock_s()
        paid_until_s = self._paid_until_s.pop(asker, 0.0)
        is_allowed = self._rate.debt_s(paid_until_s, now_s) <= 0
        if is_allowed:
            paid_until_s = self._rate.pay(paid_until_s, now_s)
        self._paid_until_s[asker] = paid_until_s
        if len(self._paid_until_s) > MAX_ASKERS:
            self._paid_until_s.popitem(last=False)
        return is_allowed, max(0.0, paid_until_s - now_s)

    def headers(self, standing: Standing) -> list[tuple[bytes, bytes]]:
        """Return what answers say of it (draft-ietf-httpapi-ratelimit-headers)."""
        told = f"{NAME};r={standing.left};t={standing.whole_in_s}".encode()
        return [(b"ratelimit-policy", self._policy), (b"ratelimit", told)]


def asker_of(gate: Gate, scope: Scope) -> str:
    """Return whose requests count together: those of a token's subject, else of an address."""
    subject = gate.subject_now(scope)
    if subject:
        return f"sub:{subject}"
    client = scope.get("client")
    return f"at:{place_of(f'{client[0]}:{client[1]}')}" if client else "at:"
