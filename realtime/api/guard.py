"""The guard: who sends a request, and whether they may, before anything else is looked at."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, cast

from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import Request

from channels.ports import UnavailableError
from channels.zone_grants import ZoneGrant
from db import user_crud
from db.errors import NotFoundError
from db.models import User
from realtime.api.access import Access
from realtime.auth.credentials import Source
from realtime.auth.errors import RefusedError
from realtime.auth.policy import Action
from realtime.auth.principal import Principal
from realtime.node import node_of


class Guard:
    """Holds one request to its route's row of the table.

    Args:
        request: The request.
        access: The row.
    """

    def __init__(self, request: Request, access: Access) -> None:
        self._request = request
        self._access = access
        self._node = node_of(request)
        self._zones: list[str | None] = []
        self._version = 0

    async def enter(self) -> None:
        """Find out who it is, and whether they may do it where path and query say.

        Raises:
            RefusedError: nobody is known by what was sent.
            ForbiddenError: they may not.
            UnavailableError: it can't be known now.
        """
        access = self._access
        if access.is_public or (
            access.action is Action.READ_METRICS and self._node.settings.metrics_public
        ):
            return
        gate = self._node.gate
        self._version = gate.revocations.version
        principal = await gate.authenticate(gate.credentials(self._request.scope))
        self._request.state.principal = principal
        self._zones = access.zones_before_body(self._request)
        self._require(principal)

    def check_body(self, body: Any) -> None:
        """Ask the same of the zones that the body names.

        Raises:
            ForbiddenError: they may not.
        """
        if self._access.body_zones is not None:
            self._zones += self._access.body_zones(body)
            self._require(principal_of(self._request))

    def leave(self) -> None:
        """Ask once more before what was read is shown: it may have taken a long time.

        What was written is written, and its answer goes out.

        Raises:
            RefusedError: what they came with has ended, or was taken back meanwhile.
            ForbiddenError: in part.
        """
        principal = getattr(self._request.state, "principal", None)
        if principal is None or self._request.method != "GET":
            return
        gate = self._node.gate
        gate.check_alive(principal)
        if gate.revocations.version != self._version:
            left = gate.revocations.check(principal)
            self._request.state.principal = left
            self._require(left)

    def _require(self, principal: Principal) -> None:
        if self._access.action is not None:
            self._node.gate.policy.require(principal, self._access.action, self._zones)


def principal_of(request: Request) -> Principal:
    """Return who sends a request that a guard let in."""
    return cast("Principal", request.state.principal)


def grant_of(request: Request) -> ZoneGrant:
    """Return the zones that a list may show to who asks."""
    return principal_of(request).zones


def may(request: Request, action: Action, zones: Sequence[str | None] = ()) -> bool:
    """Tell whether who sends a request, on a public path also nobody, may do something."""
    principal = getattr(request.state, "principal", None)
    return principal is not None and node_of(request).gate.policy.allows(principal, action, zones)


async def known_principal(request: Request) -> Principal | None:
    """Return who sends a request to a public path, `None` when that isn't known."""
    gate = node_of(request).gate
    try:
        credentials = gate.credentials(request.scope)
        if credentials.source is Source.NONE and not gate.is_open:
            return None  # As most do who ask here: no failure.
        return await gate.authenticate(credentials)
    except (RefusedError, UnavailableError):
        return None


def shown(request: Request, user: User) -> User:
    """Return a user that may be shown to who asks.

    Raises:
        NotFoundError: it may not; that it exists is nobody else's business.
    """
    if not may(request, Action.READ_USER, (user.zone_id,)):
        raise NotFoundError("user", user.id)
    return user


async def hold_granted(
    request: Request,
    session: AsyncSession,
    action: Action,
    users: Sequence[tuple[str, int]],
    into: Collection[str | None] = (),
    *,
    batch: bool = False,
) -> None:
    """Check that users are in zones where they may be written, and hold them there.

    Costs nothing for who may write in all zones.

    Args:
        request: Who asks.
        session: The writing transaction.
        action: What is to be done.
        users: By `("id", user_id)` or `("global_id", global_id)`.
        into: The zones where they go.
        batch: Whether they are rows of a batch, which an error names.

    Raises:
        NotFoundError: one is not there, or is where nothing may be seen.
        ForbiddenError: one is where it may be seen and not written.
    """
    principal = principal_of(request)
    policy = node_of(request).gate.policy
    if principal.zones.has_all:
        return
    zones = await user_crud.hold_users(
        session,
        user_ids=[key for kind, key in users if kind == "id"],
        global_ids=[key for kind, key in users if kind == "global_id"],
        into={zone_id for zone_id in into if zone_id is not None},
    )
    for index, user in enumerate(users):
        zone_id = zones.get(user)
        is_seen = user in zones and (
            policy.allows(principal, Action.READ_USER, (zone_id,))
            or policy.allows(principal, action, (zone_id,))
        )
        if not is_seen:
            raise NotFoundError("user", user[1], index if batch else None)
        policy.require(principal, action, (zone_id,))
