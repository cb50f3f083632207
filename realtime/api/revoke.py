"""Revocation over HTTP: tokens are taken back, on all nodes."""

from __future__ import annotations

from typing import Annotated

import structlog
from fastapi import Request, Response
from pydantic import AfterValidator, Field, StringConstraints, model_validator
from sqlalchemy.ext.asyncio import AsyncSession

from channels.events import Revoked
from channels.feed import unix_ms
from channels.zone_grants import ZonePatterns
from db.revocations import revoke
from realtime.api.documents import Body
from realtime.api.guard import principal_of
from realtime.api.problems import Kind, ProblemError
from realtime.api.routes import new_router
from realtime.auth.claims import MAX_PATTERNS, SUBJECT_MAX_CHARS, TOKEN_ID_MAX_CHARS
from realtime.node import node_of

router = new_router("admin")


def _is_pattern(text: str) -> str:
    ZonePatterns.parse((text,))
    return text


Pattern = Annotated[str, AfterValidator(_is_pattern)]


class Revocation(Body):
    """What is taken back: the tokens of a subject, all or for some zones, or one token."""

    sub: Annotated[str | None, StringConstraints(min_length=1, max_length=SUBJECT_MAX_CHARS)] = None
    jti: Annotated[str | None, StringConstraints(min_length=1, max_length=TOKEN_ID_MAX_CHARS)] = (
        None
    )
    zones: Annotated[list[Pattern], Field(min_length=1, max_length=MAX_PATTERNS)] | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Revocation:
        if (self.sub is None) == (self.jti is None):
            msg = "must have either sub or jti"
            raise ValueError(msg)
        if self.zones is not None and self.sub is None:
            msg = "zones go with sub"
            raise ValueError(msg)
        return self


@router.post("/admin/revoke", status_code=204)
async def revoke_tokens(request: Request, body: Revocation) -> Response:
    """Take back tokens that were issued until now, on all nodes, for good.

    This node knows at once, the others within two seconds, whether the bus lives or not.
    Tokens of the subject that are issued later are good; the same again is the same.
    """
    node = node_of(request)
    if node.gate.is_open:
        raise ProblemError(Kind.NOT_FOUND, "no tokens are used here: there is none to take back")
    now_ms = unix_ms()
    revoked = Revoked(
        sub=body.sub,
        jti=body.jti,
        zones=None if body.zones is None else tuple(sorted(set(body.zones))),
        at_ms=now_ms,
        until_ms=now_ms
        + round((node.settings.token_max_life_s + 2 * node.settings.jwt_leeway_s) * 1000),
    )

    async def work(session: AsyncSession) -> None:
        await revoke(session, revoked, max_rows=node.settings.revocations_max)

    committed = await node.database.run_transaction(work)
    node.gate.revocations.take(revoked)
    log = structlog.stdlib.get_logger("zonecast.auth")
    log.info(
        "revoked",
        sub=body.sub,
        jti=body.jti,
        zones=body.zones,
        by=principal_of(request).subject,
        tx=committed.tx,
    )
    return Response(status_code=204, headers={"Cache-Control": "no-store"})
