"""The dict of all users over HTTP, from the cache, and how the cache is doing."""

from __future__ import annotations

from typing import Final

from fastapi import Request, Response
from starlette.types import Scope

from cache.cache_config import CacheStats
from cache.users_dict import CachedBytes
from realtime.api.answers import json_response, tagged_response
from realtime.api.boundary import Answer
from realtime.api.documents import UsersDictEntry
from realtime.api.preconditions import quote_tag
from realtime.api.routes import new_router
from realtime.auth.policy import Action
from realtime.node import Node, node_of
from realtime.users_source import UsersSource

_OF_BODIES: Final = frozenset({b"content-length", b"transfer-encoding"})

router = new_router("users")


class NearAnswers:
    """Answers `GET /users-dict` from this node's copy, while that is current, as it is asked most.

    Whatever else a request may hold goes through the route, which answers the same.
    """

    def __init__(self) -> None:
        self._copy: CachedBytes | None = None
        self._whole = self._known = Answer(304, (), b"")
        self._tag = b""

    def __call__(self, node: Node, scope: Scope) -> Answer | None:
        """Answer with the copy, or 304 to who has it; `None` when it takes more than that."""
        if scope["query_string"] or scope.get("root_path"):
            return None
        known = None
        for name, value in scope["headers"]:
            if name == b"if-none-match":
                if known is not None:
                    return None
                known = value
            elif name in _OF_BODIES:
                return None
        copy = node.cache.current()
        if copy is None or not node.gate.allows_now(scope, Action.READ_USERS_DICT):
            return None
        if copy is not self._copy:
            self._take(copy)
        if known is None:
            return self._whole
        return self._known if known == self._tag else None

    def _take(self, copy: CachedBytes) -> None:
        self._copy = copy
        self._tag = quote_tag(copy.etag).encode()
        shared = ((b"cache-control", b"no-cache"), (b"etag", self._tag))
        self._known = Answer(304, shared, b"")
        size = str(len(copy.body)).encode()
        own = ((b"content-length", size), (b"content-type", b"application/json"))
        self._whole = Answer(200, (*own, *shared), copy.body)


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
