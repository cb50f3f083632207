"""All faults, by the names that reports use, and which are never caused at the same time."""

from __future__ import annotations

from tests.faults import (
    client_faults,
    log_faults,
    node_faults,
    postgres_faults,
    redis_faults,
    restore_faults,
)
from tests.faults.breaker import Breaker, FaultOf
from tests.faults.history import Fault

FAMILIES: tuple[dict[str, FaultOf], ...] = (
    redis_faults.FAULTS,
    node_faults.FAULTS,
    {**postgres_faults.FAULTS, **restore_faults.FAULTS, **log_faults.FAULTS},
    client_faults.FAULTS,
)
"""Faults of one of these families are never caused at the same time."""

FAULTS: dict[str, FaultOf] = {name: fault for faults in FAMILIES for name, fault in faults.items()}


async def cause(name: str, breaker: Breaker) -> None:
    """Cause the fault of this name, mend it, and note when it was."""
    from_s = breaker.recorder.now_s()
    await FAULTS[name](breaker)
    breaker.recorder.history.faults.append(Fault(name, from_s, breaker.recorder.now_s()))


def family(name: str) -> int:
    """Return which family a fault belongs to."""
    return next(index for index, faults in enumerate(FAMILIES) if name in faults)
