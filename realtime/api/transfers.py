"""Transfers over HTTP: users go from zone to zone."""

from __future__ import annotations

from functools import partial

from fastapi import Request, Response
from sqlalchemy.ext.asyncio import AsyncSession

from db import user_crud
from db.models import User
from realtime.api.answers import document_of_user, write_response
from realtime.api.documents import Destination, Transfers, UserDocument, UserIdInPath, UserList
from realtime.api.guard import grant_of, hold_granted
from realtime.api.routes import new_router
from realtime.api.writes import write, write_statements
from realtime.auth.policy import Action
from realtime.node import Node, node_of

router = new_router("transfers")


@router.post("/users/{user_id}/transfer", response_model=UserDocument)
async def transfer_user(
    request: Request, user_id: UserIdInPath, destination: Destination
) -> Response:
    """Move one user; to the zone where it is, nothing happens."""
    if grant_of(request).has_all:
        return await transfer(node_of(request), user_id, destination.zone_id)

    async def work(session: AsyncSession) -> User:
        await hold_granted(request, session, Action.MOVE_USER, [("id", user_id)])
        return await user_crud.transfer_user_to_zone(session, user_id, destination.zone_id)

    moved = await write(request, "transfer_user", work)
    return write_response(
        moved.positions, document_of_user(moved.value), version=moved.value.version
    )


async def transfer(node: Node, user_id: int, zone_id: str | None) -> Response:
    """Move one user, and answer."""
    work = partial(user_crud.move_user, user_id=user_id, zone_id=zone_id)
    moved = await write_statements(node, "transfer_user", work)
    return write_response(moved.positions, moved.value, version=moved.value.version)


@router.post("/transfers", response_model=UserList)
async def transfer_users(request: Request, batch: Transfers) -> Response:
    """Make up to 1,000 moves in one transaction, in order; an unknown user or zone refuses all.

    Answers each user named as it is afterwards, once, in the order of first mention.
    """
    rows = [
        user_crud.Transfer(user_id=row.user_id, global_id=row.global_id, zone_id=row.zone_id)
        for row in batch.transfers
    ]

    if grant_of(request).has_all:
        work = partial(user_crud.move_users, transfers=rows)
        done = await write_statements(node_of(request), "transfer_users", work)
        return write_response(done.positions, {"users": done.value})

    into = {row.zone_id for row in rows}

    async def move_granted(session: AsyncSession) -> list[User]:
        users = [row.key for row in rows]
        await hold_granted(request, session, Action.MOVE_USER, users, into, batch=True)
        return list(await user_crud.transfer_users(session, rows))

    moved = await write(request, "transfer_users", move_granted)
    users = [document_of_user(user) for user in moved.value]
    return write_response(moved.positions, {"users": users})
