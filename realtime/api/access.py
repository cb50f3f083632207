"""Access: what each route of the HTTP API needs, in one table that every request is held to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from starlette.requests import Request

from realtime.auth.policy import Action

BodyZones = Callable[[Any], Iterator[str | None]]


@dataclass(frozen=True, slots=True)
class Access:
    """What a route needs.

    Zones are found in what was sent as it is, before it is validated: who may not do it learns
    nothing about how it would have to look. What is no zone id at all is left to validation.

    Attributes:
        action: What the policy is asked; `None`: any valid token will do.
        is_public: Whether nobody is asked for a token.
        path_zone: The parameter of the path that names a zone.
        query_zones: The parameters of the query that do.
        body_zones: Finds the zones that a body names.
    """

    action: Action | None = None
    is_public: bool = False
    path_zone: str = ""
    query_zones: tuple[str, ...] = ()
    body_zones: BodyZones | None = None

    def zones_before_body(self, request: Request) -> list[str | None]:
        """Find the zones that path and query name."""
        zones: list[str | None] = []
        if self.path_zone:
            zones.append(str(request.path_params[self.path_zone]))
        for name in self.query_zones:
            zones += request.query_params.getlist(name)
        if self.action is Action.DELETE_ZONE and "unassign" in request.query_params:
            # Its users would go into no zone.
            zones += [None] if request.query_params["unassign"].lower() not in _FALSE else []
        return zones


_FALSE: Final = frozenset({"0", "off", "f", "false", "n", "no"})
"""What pydantic takes for false."""


def _zone_id(body: Any, *, missing: tuple[None, ...] = (None,)) -> Iterator[str | None]:
    if not isinstance(body, dict):
        return
    if "zone_id" not in body:
        yield from missing
    elif body["zone_id"] is None or isinstance(body["zone_id"], str):
        yield body["zone_id"]


def _of_new_zone(body: Any) -> Iterator[str | None]:
    yield from _zone_id(body, missing=())


def _of_new_user(body: Any) -> Iterator[str | None]:
    yield from _zone_id(body)


def _of_changed_user(body: Any) -> Iterator[str | None]:
    yield from _zone_id(body, missing=())


def _of_new_users(body: Any) -> Iterator[str | None]:
    for row in _rows(body, "users"):
        yield from _zone_id(row)


def _of_transfers(body: Any) -> Iterator[str | None]:
    for row in _rows(body, "transfers"):
        yield from _zone_id(row, missing=())


def _rows(body: Any, name: str) -> list[Any]:
    rows = body.get(name) if isinstance(body, dict) else None
    return rows if isinstance(rows, list) else []


_PUBLIC: Final = Access(is_public=True)
_ANY_TOKEN: Final = Access()

HTTP_ACCESS: Final[Mapping[tuple[str, str], Access]] = MappingProxyType(
    {
        ("POST", "/zones"): Access(Action.CREATE_ZONE, body_zones=_of_new_zone),
        ("GET", "/zones"): Access(Action.LIST_ZONES),
        ("GET", "/zones/{zone_id}"): Access(Action.READ_ZONE, path_zone="zone_id"),
        ("PATCH", "/zones/{zone_id}"): Access(Action.UPDATE_ZONE, path_zone="zone_id"),
        ("DELETE", "/zones/{zone_id}"): Access(
            Action.DELETE_ZONE, path_zone="zone_id", query_zones=("move_to",)
        ),
        ("GET", "/zones/{zone_id}/snapshot"): Access(Action.READ_SNAPSHOT, path_zone="zone_id"),
        ("GET", "/zones/{zone_id}/digest"): Access(Action.READ_DIGEST, path_zone="zone_id"),
        ("GET", "/zones/{zone_id}/changes"): Access(Action.READ_CHANGES, path_zone="zone_id"),
        ("GET", "/zones/{zone_id}/presence"): Access(Action.READ_PRESENCE, path_zone="zone_id"),
        ("POST", "/users"): Access(Action.CREATE_USER, body_zones=_of_new_user),
        ("POST", "/users/bulk"): Access(Action.CREATE_USER, body_zones=_of_new_users),
        ("GET", "/users"): Access(Action.LIST_USERS, query_zones=("zone_id",)),
        ("GET", "/users/count"): Access(Action.COUNT_USERS),
        # Where the user is, only the database knows: the handlers of these five ask again.
        ("GET", "/users/{user_id}"): Access(Action.READ_USER),
        ("PATCH", "/users/{user_id}"): Access(Action.UPDATE_USER, body_zones=_of_changed_user),
        ("DELETE", "/users/{user_id}"): Access(Action.DELETE_USER),
        ("POST", "/users/{user_id}/transfer"): Access(
            Action.MOVE_USER, body_zones=_of_changed_user
        ),
        ("POST", "/transfers"): Access(Action.MOVE_USER, body_zones=_of_transfers),
        ("GET", "/users-dict"): Access(Action.READ_USERS_DICT),
        ("GET", "/cache/stats"): Access(Action.READ_CACHE_STATS),
        ("GET", "/healthz"): _PUBLIC,
        ("GET", "/readyz"): _PUBLIC,
        ("GET", "/metrics"): Access(Action.READ_METRICS),
        ("GET", "/openapi.json"): _ANY_TOKEN,
        ("GET", "/docs"): _ANY_TOKEN,
        ("GET", "/docs/start.js"): _ANY_TOKEN,
        ("GET", "/docs/assets/{name}"): _ANY_TOKEN,
        ("GET", "/"): _PUBLIC,
        ("GET", "/dashboard/{name}"): _PUBLIC,
        ("GET", "/clock"): _PUBLIC,
        ("GET", "/zonecast.js"): _PUBLIC,
        ("GET", "/zonecast.d.ts"): _PUBLIC,
        ("POST", "/tickets"): _ANY_TOKEN,
        ("POST", "/session"): _ANY_TOKEN,
        ("DELETE", "/session"): _PUBLIC,
        ("POST", "/admin/revoke"): Access(Action.REVOKE),
        ("GET", "/admin/connections"): Access(Action.READ_CONNECTIONS),
        ("GET", "/admin/channels"): Access(Action.READ_CONNECTIONS),
        ("POST", "/admin/disconnect"): Access(Action.DISCONNECT),
    }
)
"""The table. A route without a row can't be made: the service would not start."""


def access_of(methods: frozenset[str], path: str) -> Access:
    """Return the row of a route.

    Raises:
        LookupError: it has none, or its methods have different ones.
    """
    rows = {HTTP_ACCESS.get((method, path)) for method in methods}
    row = rows.pop() if len(rows) == 1 else None
    if row is None:
        raise LookupError(f"no row in HTTP_ACCESS for {sorted(methods)} {path}")
    return row
