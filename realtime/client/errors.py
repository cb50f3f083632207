"""What can go wrong for good; whatever can get better by itself is tried again instead.

WatchError               the service can't be watched
 ├── ZoneRefusedError    a zone named at the beginning isn't there, or isn't granted
 └── TokenRefusedError   the token isn't good, and no other is to be had
"""

from __future__ import annotations


class WatchError(Exception):
    """The service can't be watched; the message is one line, without secrets."""


class ZoneRefusedError(WatchError):
    """A zone that was named at the beginning is refused.

    Attributes:
        zone_id: Which zone.
        code: The protocol's error: 102 unknown channel, 103 permission denied, 106 too large.
    """

    def __init__(self, zone_id: str, code: int, message: str) -> None:
        super().__init__(f"zone {zone_id}: {message}")
        self.zone_id = zone_id
        self.code = code


class TokenRefusedError(WatchError):
    """The service doesn't take the token.

    Attributes:
        code: The protocol's error or close code, or the HTTP status of the handshake.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"the token is refused: {message}")
        self.code = code


class ConnectionLostError(Exception):
    """One connection can't be used any more; another may. Never leaves this package."""


class LostChangesError(ConnectionLostError):
    """A change is missing between what the client has and what came, or the state is wrong."""
