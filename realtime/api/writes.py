"""Writes over HTTP: one transaction each, logged, with the versions that the client allows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from fastapi import Request
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncSession

from db import user_crud
from db.engine import Committed
from realtime.api.answers import require
from realtime.api.preconditions import versions_to_match
from realtime.api.problems import Kind, ProblemError
from realtime.node import Node, node_of

Value = TypeVar("Value")


async def write(
    request: Request, action: str, work: Callable[[AsyncSession], Awaitable[Value]]
) -> Committed[Value]:
    """Run `work` in a transaction of its own, several times when it loses races, and log it."""
    committed = await node_of(request).database.run_transaction(work)
    _note(action, committed)
    return committed


async def write_statements(
    node: Node, action: str, work: Callable[[Connection], Value]
) -> Committed[Value]:
    """Do the same with work that needs no session, as `Database.run_statements` has it."""
    committed = await node.database.run_statements(work)
    _note(action, committed)
    return committed


def _note(action: str, committed: Committed[object]) -> None:
    log = structlog.stdlib.get_logger("zonecast.http")
    log.info("write", action=action, tx=committed.tx, channels=len(committed.positions))


async def version_to_match(request: Request, session: AsyncSession, user_id: int) -> int | None:
    """Return the version that a write of this user has to meet; `None`: any.

    Of several allowed versions it is the present one: whether that still holds is found out by
    the write itself, and if not, the transaction is tried again from here.

    Raises:
        ProblemError: the user is at none of the versions that `If-Match` allows.
        NotFoundError: there is no such user.
    """
    allowed = versions_to_match(request)
    if allowed is None:
        return None
    user = require(await user_crud.get_user_by_id(session, user_id), "user", user_id)
    if user.version not in allowed:
        detail = f"version is {user.version}"
        raise ProblemError(Kind.VERSION_MISMATCH, detail, {"actual": user.version})
    return user.version


def refuse_if_match(request: Request) -> None:
    """Refuse `If-Match` on what has no version, rather than let it promise something.

    Raises:
        ProblemError: the header is there, and is not `*`.
    """
    if versions_to_match(request) is not None:
        raise ProblemError(Kind.VERSION_MISMATCH, "zones have no version; leave If-Match out")
