"""Entries over HTTP: tickets and the browser's session, for who can't send a header."""

from __future__ import annotations

import time
from typing import Final

from fastapi import Request, Response
from pydantic import BaseModel

from realtime.api.answers import json_response
from realtime.api.guard import principal_of
from realtime.api.problems import Kind, ProblemError
from realtime.api.routes import new_router
from realtime.auth.credentials import Source
from realtime.auth.errors import Reason, RefusedError
from realtime.node import node_of

COOKIE_MAX_BYTES: Final = 3_900
"""Browsers drop larger cookies (4,096 with name and attributes), and say so nowhere."""

router = new_router("entries")


class TicketDocument(BaseModel):
    """A ticket, good once, for `?ticket=` in the URL of an event stream or a WebSocket."""

    ticket: str
    expires_in: float


@router.post("/tickets", status_code=201, response_model=TicketDocument)
async def create_ticket(request: Request) -> Response:
    """Make a ticket that lets in once whom the token lets in, in the next seconds."""
    node = node_of(request)
    _refuse_open(node.gate.is_open)
    issued = await node.tickets.issue(principal_of(request))
    return json_response({"ticket": issued.ticket, "expires_in": issued.expires_in_s}, 201)


@router.post("/session", status_code=204)
async def create_session(request: Request) -> Response:
    """Keep the token in a cookie that scripts can't read, until it ends.

    For pages of the service's own site: other sites' pages don't make browsers send it.
    """
    node = node_of(request)
    _refuse_open(node.gate.is_open)
    credentials = node.gate.credentials(request.scope)
    if credentials.source is not Source.HEADER:
        raise RefusedError(Reason.MISSING, "send the token as in Authorization: Bearer TOKEN")
    if len(credentials.text) > COOKIE_MAX_BYTES:
        detail = f"a cookie has no room for a token over {COOKIE_MAX_BYTES} bytes"
        raise ProblemError(Kind.INVALID, detail)
    left_s = principal_of(request).expires_at_s - time.time()
    return _with_cookie(request, credentials.text, max(0, int(left_s)))


@router.delete("/session", status_code=204)
async def delete_session(request: Request) -> Response:
    """Forget the cookie. The token itself stays good: `POST /admin/revoke` takes it back."""
    return _with_cookie(request, "", 0)


def _with_cookie(request: Request, value: str, max_age_s: int) -> Response:
    node = node_of(request)
    response = Response(status_code=204, headers={"Cache-Control": "no-store"})
    response.set_cookie(
        node.settings.session_cookie,
        value,
        max_age=max_age_s,
        path="/",
        secure=node.settings.session_cookie_secure,
        httponly=True,
        samesite="strict",
    )
    return response


def _refuse_open(is_open: bool) -> None:  # noqa: FBT001 -- what is refused.
    if is_open:
        raise ProblemError(Kind.NOT_FOUND, "no tokens are used here: nobody needs one")
