"""Tickets: what a browser's bare `EventSource` shows in the place of a token, once."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncSession

from channels.zone_grants import ZoneGrant, ZonePatterns
from db.engine import Database
from db.tickets import keep_ticket, take_ticket
from realtime.auth.principal import Principal, Scope

TICKET_BYTES: Final = 32
TICKET_MAX_CHARS: Final = 128


@dataclass(frozen=True, slots=True)
class IssuedTicket:
    """A ticket as its owner gets it.

    Attributes:
        ticket: What goes into the URL.
        expires_in_s: How long it is good.
    """

    ticket: str
    expires_in_s: float


class DatabaseTickets:
    """Issues and redeems tickets.

    They are rows: that one is good only once must hold on all nodes, which share nothing else
    that they can't do without. A ticket lets in whom its token would, no longer than that.

    Args:
        database: Where they are kept.
        life_s: How long one is good.
        max_rows: How many there may be.
        unix_s: The wall clock.
    """

    def __init__(
        self,
        database: Database,
        *,
        life_s: float,
        max_rows: int,
        unix_s: Callable[[], float],
    ) -> None:
        self._database = database
        self._life_s = life_s
        self._max_rows = max_rows
        self._unix_s = unix_s

    async def issue(self, principal: Principal) -> IssuedTicket:
        """Make a ticket. Cancel-safe.

        Raises:
            FullError: there are too many already.
            UnavailableError: the database can't be asked.
        """
        ticket = secrets.token_urlsafe(TICKET_BYTES)
        now_s = self._unix_s()
        life_s = min(self._life_s, principal.expires_at_s - now_s)

        async def work(session: AsyncSession) -> None:
            await keep_ticket(
                session,
                _digest(ticket),
                _document_of(principal),
                now_ms=round(now_s * 1000),
                until_ms=round((now_s + life_s) * 1000),
                max_rows=self._max_rows,
            )

        _ = await self._database.run_transaction(work)
        return IssuedTicket(ticket, life_s)

    async def redeem(self, ticket: str) -> Principal | None:
        """Take a ticket, which nobody can do a second time on any node; `None`: it is none.

        Raises:
            UnavailableError: the database can't be asked.
        """
        if len(ticket) > TICKET_MAX_CHARS or not ticket.isascii():
            return None

        async def work(session: AsyncSession) -> dict[str, Any] | None:
            now_ms = round(self._unix_s() * 1000)
            return await take_ticket(session, _digest(ticket), now_ms=now_ms)

        taken = (await self._database.run_transaction(work)).value
        return None if taken is None else _principal_of(taken)


def _digest(ticket: str) -> str:
    return hashlib.sha256(ticket.encode()).hexdigest()


def _document_of(principal: Principal) -> dict[str, Any]:
    return {
        "sub": principal.subject,
        "scopes": sorted(scope.value for scope in principal.scopes),
        "zones": principal.zones.granted.patterns,
        "iat": principal.issued_at_s,
        "exp": principal.expires_at_s,
        "jti": principal.token_id,
    }


def _principal_of(document: dict[str, Any]) -> Principal:
    return Principal(
        subject=document["sub"],
        scopes=frozenset(Scope(scope) for scope in document["scopes"]),
        # Without what was taken: whoever lets it in asks for that anew.
        zones=ZoneGrant(ZonePatterns.parse(document["zones"])),
        issued_at_s=document["iat"],
        expires_at_s=document["exp"],
        token_id=document["jti"],
    )
