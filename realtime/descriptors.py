"""File descriptors: each connection takes one, and a process may open only so many."""

from __future__ import annotations

import errno
import socket
import sys
from typing import Final

import structlog

from realtime.settings import Settings

_OTHERS: Final = 100
"""What a node opens besides: files, the bus, the cache, HTTP requests."""
_CALM_LOOKS: Final = 5
"""So many looks have to find free descriptors before a shortage counts as over."""


def raise_limit() -> int | None:
    """Allow this process as many descriptors as it may allow itself; return how many.

    Returns:
        `None` where there is no limit.
    """
    if sys.platform == "win32":
        return None
    import resource  # noqa: PLC0415 - only there

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return None if hard == resource.RLIM_INFINITY else hard


def room_for_connections(settings: Settings, limit: int | None) -> int:
    """Return how many clients a node can take: as many as it is set to, or has descriptors for.

    One too many is then refused with an answer, while there are descriptors to give it.
    """
    if limit is None:
        return settings.max_connections
    room = max(1, limit - settings.pool_size - settings.max_overflow - _OTHERS)
    if room >= settings.max_connections:
        return settings.max_connections
    log = structlog.stdlib.get_logger("zonecast.node")
    # The default is more than many machines allow, and than most need.
    tell = log.warning if "max_connections" in settings.model_fields_set else log.info
    tell(
        "fewer connections than max_connections, for want of file descriptors (ulimit -n)",
        limit=limit,
        max_connections=settings.max_connections,
        connections=room,
    )
    return room


class DescriptorWatch:
    """Says in the log when there are no descriptors left, and when there are again.

    The event loop says nothing of connections that it can't accept.
    """

    def __init__(self) -> None:
        self._log = structlog.stdlib.get_logger("zonecast.node")
        self._calm_looks: int | None = None

    def look(self) -> None:
        """Find out whether another socket can be opened. Never awaits or raises."""
        try:
            socket.socket().close()
        except OSError as error:
            if self._calm_looks is None:
                reason = errno.errorcode.get(error.errno or 0, "unknown")
                self._log.error("no file descriptors left: nobody can connect", reason=reason)
            self._calm_looks = 0
            return
        if self._calm_looks is not None:
            self._calm_looks += 1
            if self._calm_looks >= _CALM_LOOKS:
                self._calm_looks = None
                self._log.warning("file descriptors are free again")
