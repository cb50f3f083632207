"""The policy: the one place that says which scope, in which zones, each action needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final

from channels.names import DIRECTORY, UNASSIGNED, zone_id_of
from realtime.auth.errors import ForbiddenError
from realtime.auth.principal import Principal, Scope


class Reach(Enum):
    """Over what an action reaches, and so which zones it needs."""

    ZONES = "zones"
    """The zones named: all of them must be granted. `None` is the users in no zone."""
    EVERYTHING = "everything"
    """All zones there are: needs the pattern `*`, with nothing taken away."""
    GRANTED = "granted"
    """As far as it is granted: who has few zones is shown few. Those named must be granted."""
    NODE = "node"
    """The node itself, no zone."""


class Action(Enum):
    """Whatever can be asked for, over any transport."""

    # Looking at one zone, or at the users in no zone.
    READ_ZONE = "read_zone"
    READ_SNAPSHOT = "read_snapshot"
    READ_DIGEST = "read_digest"
    READ_CHANGES = "read_changes"
    SUBSCRIBE = "subscribe"
    RESUME = "resume"
    READ_PRESENCE = "read_presence"
    READ_USER = "read_user"

    # Looking at many.
    LIST_ZONES = "list_zones"
    LIST_USERS = "list_users"
    COUNT_USERS = "count_users"
    READ_USERS_DICT = "read_users_dict"
    WATCH_EVERYTHING = "watch_everything"

    # Changing.
    CREATE_ZONE = "create_zone"
    UPDATE_ZONE = "update_zone"
    DELETE_ZONE = "delete_zone"
    CREATE_USER = "create_user"
    UPDATE_USER = "update_user"
    DELETE_USER = "delete_user"
    MOVE_USER = "move_user"

    # Operating.
    READ_CACHE_STATS = "read_cache_stats"
    READ_METRICS = "read_metrics"
    READ_HEALTH_DETAILS = "read_health_details"
    READ_CONNECTIONS = "read_connections"
    DISCONNECT = "disconnect"
    PRUNE = "prune"
    REVOKE = "revoke"


@dataclass(frozen=True, slots=True)
class Need:
    """What an action needs."""

    scope: Scope
    reach: Reach


_READ_ZONES: Final = Need(Scope.READ, Reach.ZONES)
_READ_GRANTED: Final = Need(Scope.READ, Reach.GRANTED)
_READ_EVERYTHING: Final = Need(Scope.READ, Reach.EVERYTHING)
_WRITE_ZONES: Final = Need(Scope.WRITE, Reach.ZONES)
_ADMIN: Final = Need(Scope.ADMIN, Reach.NODE)

NEEDS: Final[Mapping[Action, Need]] = MappingProxyType(
    {
        Action.READ_ZONE: _READ_ZONES,
        Action.READ_SNAPSHOT: _READ_ZONES,
        Action.READ_DIGEST: _READ_ZONES,
        Action.READ_CHANGES: _READ_ZONES,
        Action.SUBSCRIBE: _READ_ZONES,
        Action.RESUME: _READ_ZONES,
        Action.READ_PRESENCE: _READ_ZONES,
        Action.READ_USER: _READ_ZONES,
        Action.LIST_ZONES: _READ_GRANTED,
        Action.LIST_USERS: _READ_GRANTED,
        Action.COUNT_USERS: _READ_GRANTED,
        # One body for all, kept encoded: nobody's part can be cut out of it.
        Action.READ_USERS_DICT: _READ_EVERYTHING,
        Action.WATCH_EVERYTHING: _READ_EVERYTHING,
        Action.CREATE_ZONE: _WRITE_ZONES,
        Action.UPDATE_ZONE: _WRITE_ZONES,
        Action.DELETE_ZONE: _WRITE_ZONES,
        Action.CREATE_USER: _WRITE_ZONES,
        Action.UPDATE_USER: _WRITE_ZONES,
        Action.DELETE_USER: _WRITE_ZONES,
        # Both zones: where it is, and where it goes.
        Action.MOVE_USER: _WRITE_ZONES,
        Action.READ_CACHE_STATS: _ADMIN,
        Action.READ_METRICS: _ADMIN,
        Action.READ_HEALTH_DETAILS: _ADMIN,
        Action.READ_CONNECTIONS: _ADMIN,
        Action.DISCONNECT: _ADMIN,
        Action.PRUNE: _ADMIN,
        Action.REVOKE: _ADMIN,
    }
)
"""The table. An action without a row can't be asked for: a test walks them."""


class Policy:
    """Says what a principal may do. Pure: no method awaits, and equal questions are equal answers.

    Every path of every transport asks it, before it validates what else it was given.
    """

    def allows(
        self, principal: Principal, action: Action, zones: Iterable[str | None] = ()
    ) -> bool:
        """Tell whether a principal may do something.

        Args:
            principal: Who.
            action: What.
            zones: The zones that it is done to, of actions that reach over zones; `None` in
                it: the users in no zone. None named: whether it may be done anywhere at all.
        """
        need = NEEDS[action]
        if need.scope not in principal.scopes:
            return False
        match need.reach:
            case Reach.ZONES | Reach.GRANTED:
                grant = principal.zones
                return grant.has_all or all(grant.has(zone_id) for zone_id in zones)
            case Reach.EVERYTHING:
                return principal.zones.has_all
            case Reach.NODE:
                return True

    def allows_channel(self, principal: Principal, action: Action, channel: str) -> bool:
        """Tell whether a principal may do something on a channel, such as `zone:F1-Z1`.

        `zones`, the directory, tells of all zones and `unassigned` of users in none: both
        need `*`. Any other channel is the service's own, and nobody's.
        """
        if channel == DIRECTORY:
            return self.allows(principal, Action.WATCH_EVERYTHING)
        if channel == UNASSIGNED:
            return self.allows(principal, action, (None,))
        zone_id = zone_id_of(channel)
        return zone_id is not None and self.allows(principal, action, (zone_id,))

    def require(
        self, principal: Principal, action: Action, zones: Iterable[str | None] = ()
    ) -> None:
        """Check, as `allows`.

        Raises:
            ForbiddenError: the principal may not.
        """
        if self.allows(principal, action, zones):
            return
        need = NEEDS[action]
        if need.scope not in principal.scopes:
            detail = f"the token has no scope {need.scope.value}"
        elif need.reach is Reach.EVERYTHING:
            detail = "this needs a token for all zones: *"
        else:
            detail = "the token is not for this zone"
        raise ForbiddenError(action.value, need.scope.value, detail)
