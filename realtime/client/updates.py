"""What a watch tells: a state, a change, the end of a zone, and how good the picture is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from channels.changes import Change
from channels.events import User, Zone
from channels.names import zone_id_of
from channels.positions import Position

State = Literal["connecting", "catching_up", "live", "stale"]
Reason = Literal["first", "renewed", "behind"]


@dataclass(frozen=True, slots=True)
class ZoneState:
    """A zone as it was at exactly one position; it stays so while the watch goes on.

    Attributes:
        zone_id: Which zone.
        position: Where it was.
        zone: Its name and attributes.
        users: Who was in it, by id.
    """

    zone_id: str
    position: Position
    zone: Zone | None
    users: Mapping[int, User] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Replaced:
    """States that replace what was known of these zones.

    Attributes:
        zones: The states, all from one moment of the watch.
        reason: `first`: nothing was known; `renewed`: the missed changes were too many or no
            longer retained, or the service's history is another; `behind`: the changes were
            not taken in time, and are summed up in these states.
    """

    zones: tuple[ZoneState, ...]
    reason: Reason

    @property
    def zone_ids(self) -> tuple[str, ...]:
        """Which zones look different now."""
        return tuple(state.zone_id for state in self.zones)


@dataclass(frozen=True, slots=True)
class Changed:
    """One transaction, whole: all that it did to the watched zones.

    Attributes:
        parts: Its effect on each zone, with its events.
    """

    parts: tuple[Change, ...]

    @property
    def tx(self) -> str:
        """The transaction's id."""
        return self.parts[0].tx

    @property
    def time_ms(self) -> int:
        """When it was recorded, Unix milliseconds by the clock of the service."""
        return self.parts[0].time_ms

    @property
    def zone_ids(self) -> tuple[str, ...]:
        """Which zones look different now."""
        return tuple(zone_id_of(part.channel) or "" for part in self.parts)


@dataclass(frozen=True, slots=True)
class Gone:
    """A zone is not watched any more.

    Attributes:
        zone_id: Which zone.
        code: 2000 or 102: it was deleted, or never was; 2001 or 103: the token doesn't grant it
            any more, or never did; 106: it is larger than the service sends in one piece.
        reason: In words.
    """

    zone_id: str
    code: int
    reason: str

    @property
    def zone_ids(self) -> tuple[str, ...]:
        """Which zone looks different now."""
        return (self.zone_id,)


@dataclass(frozen=True, slots=True)
class Status:
    """How good the picture is.

    Attributes:
        state: `connecting`: there is no connection, and what is shown is as old as `since_ms`;
            `catching_up`: connected, and some zones are still awaited; `live`; `stale`: connected
            to a node that can't ask its database.
        since_ms: Since when it may be old, Unix milliseconds; `None` while it is live, or has
            never been.
    """

    state: State
    since_ms: int | None = None

    @property
    def zone_ids(self) -> tuple[str, ...]:
        """No zone looks different."""
        return ()


Update = Replaced | Changed | Gone | Status
