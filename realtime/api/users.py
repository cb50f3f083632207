"""Users over HTTP."""

from __future__ import annotations

from fastapi import Request, Response
from sqlalchemy.ext.asyncio import AsyncSession

from db import user_crud
from db.models import User
from realtime.api.answers import (
    document_of_user,
    encode,
    json_response,
    require,
    tagged_response,
    write_response,
)
from realtime.api.documents import (
    Count,
    IdInQuery,
    Limit,
    NewUser,
    NewUsers,
    Skip,
    UserDocument,
    UserIdInPath,
    UserList,
    UserPatch,
    ZoneIdInQuery,
)
from realtime.api.guard import grant_of, hold_granted, shown
from realtime.api.preconditions import IF_MATCH
from realtime.api.routes import new_router
from realtime.api.writes import version_to_match, write
from realtime.auth.policy import Action
from realtime.node import node_of

router = new_router("users")


@router.post("/users", status_code=201, response_model=UserDocument)
async def create_user(request: Request, user: NewUser) -> Response:
    """Make a user, in a zone or in none."""

    async def work(session: AsyncSession) -> User:
        return await user_crud.create_user(
            session,
            global_id=user.global_id,
            name=user.name,
            zone_id=user.zone_id,
            attributes=user.attributes,
        )

    made = await write(request, "create_user", work)
    return write_response(
        made.positions,
        document_of_user(made.value),
        status=201,
        version=made.value.version,
        location=f"/users/{made.value.id}",
    )


@router.post("/users/bulk", status_code=201, response_model=UserList)
async def create_users(request: Request, batch: NewUsers) -> Response:
    """Make up to 1,000 users, all or none; they are answered in the order given."""
    rows = [
        user_crud.NewUser(
            global_id=user.global_id,
            name=user.name,
            zone_id=user.zone_id,
            attributes=user.attributes,
        )
        for user in batch.users
    ]

    async def work(session: AsyncSession) -> list[User]:
        return list(await user_crud.bulk_create_users(session, rows))

    made = await write(request, "create_users", work)
    users = [document_of_user(user) for user in made.value]
    return write_response(made.positions, {"users": users}, status=201)


@router.get("/users", response_model=UserList)
async def list_users(
    request: Request,
    skip: Skip = 0,
    limit: Limit = 100,
    zone_id: ZoneIdInQuery = None,
    global_id: IdInQuery = None,
    after: IdInQuery = None,
) -> Response:
    """Users of granted zones in the order of their ids, all or those of a zone or global id.

    `after` is the last id of the page before: unlike `skip`, it misses nobody when others are
    deleted meanwhile.
    """
    async with node_of(request).database.get_db(read_only=True) as session:
        users = await user_crud.get_all_users(
            session,
            skip,
            limit,
            zone_id=zone_id,
            global_id=global_id,
            after_id=after,
            grant=grant_of(request),
        )
    return json_response({"users": [document_of_user(user) for user in users]})


@router.get("/users/count", response_model=Count)
async def count_users(request: Request) -> Response:
    """How many users there are in granted zones."""
    async with node_of(request).database.get_db(read_only=True) as session:
        count = await user_crud.count_users(session, grant_of(request))
    return json_response({"count": count})


@router.get("/users/{user_id}", response_model=UserDocument)
async def read_user(request: Request, user_id: UserIdInPath) -> Response:
    """One user, with its version as the entity tag."""
    async with node_of(request).database.get_db(read_only=True) as session:
        user = require(await user_crud.get_user_by_id(session, user_id), "user", user_id)
    user = shown(request, user)
    return tagged_response(request, encode(document_of_user(user)), user.version)


@router.patch("/users/{user_id}", response_model=UserDocument, openapi_extra=IF_MATCH)
async def update_user(request: Request, user_id: UserIdInPath, patch: UserPatch) -> Response:
    """Change a user's name, zone or attributes, with `If-Match` only at that version."""

    async def work(session: AsyncSession) -> User:
        await hold_granted(request, session, Action.UPDATE_USER, [("id", user_id)])
        expected = await version_to_match(request, session, user_id)
        return await user_crud.update_user(
            session, user_id, patch.given(), expected_version=expected
        )

    changed = await write(request, "update_user", work)
    user = document_of_user(changed.value)
    return write_response(changed.positions, user, version=user.version)


@router.delete("/users/{user_id}", status_code=204, openapi_extra=IF_MATCH)
async def delete_user(request: Request, user_id: UserIdInPath) -> Response:
    """Delete a user, with `If-Match` only at that version."""

    async def work(session: AsyncSession) -> None:
        await hold_granted(request, session, Action.DELETE_USER, [("id", user_id)])
        expected = await version_to_match(request, session, user_id)
        await user_crud.delete_user(session, user_id, expected_version=expected)

    gone = await write(request, "delete_user", work)
    return write_response(gone.positions)
