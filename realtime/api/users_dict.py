"""The dict of all users over HTTP, from the cache, and how the cache is doing."""

from __future__ import annotations

from fastapi import Request, Response

from cache.cache_config import CacheStats
from realtime.api.answers import json_response, tagged_response
from realtime.api.documents import UsersDictEntry
from realtime.api.routes import new_router
from realtime.node import node_of
from realtime.users_source import UsersSource

router = new_router("users")


@router.get("/users-dict", response_model=dict[str, UsersDictEntry])
async def read_users_dict(
    request: Request,
    use_cache: bool = True,  # noqa: FBT001, FBT002 -- a query parameter.
) -> Response:
    """All users by their global id, from the cache or, with `use_cache=false`, the database."""
    node = node_of(request)
    source = UsersSource(node.change_log)
    cached = await node.cache.read(source.read_users_dict, use_cache=use_cache)
    return tagged_response(request, cached.body, cached.etag)


@router.get("/cache/stats", response_model=CacheStats)
async def read_cache_stats(request: Request) -> Response:
    """What the cache of this node counted since its start."""
    return json_response(node_of(request).cache.get_stats())
