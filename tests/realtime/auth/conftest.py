"""Nodes that ask for tokens, and whoever has some."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.realtime.auth.minter import Minter
from tests.realtime.auth.token_kinds import ELSEWHERE, HERE

if TYPE_CHECKING:
    from realtime.settings import Settings
    from tests.realtime.conftest import LiveNode, StartNode

StartGuarded = Callable[..., AbstractAsyncContextManager[tuple[httpx.AsyncClient, "LiveNode"]]]


@pytest.fixture
def minter() -> Minter:
    """Makes tokens."""
    return Minter()


@pytest.fixture
def start_guarded(
    start_node: StartNode, make_settings: Callable[..., Settings], minter: Minter
) -> StartGuarded:
    """What starts a node that takes the minter's tokens, and yields a client of it."""

    @asynccontextmanager
    async def start(
        database_url: str, **given: object
    ) -> AsyncIterator[tuple[httpx.AsyncClient, LiveNode]]:
        settings = make_settings(database_url=database_url, **{**minter.settings(), **given})
        async with AsyncExitStack() as stack:
            live = await stack.enter_async_context(start_node(settings))
            # Without TLS: to read the certificates would block the loop.
            client = httpx.AsyncClient(base_url=live.url, timeout=20, verify=False)  # noqa: S501 - loopback
            yield await stack.enter_async_context(client), live

    return start


@pytest.fixture
async def guarded(
    start_guarded: StartGuarded, sqlite_url: str
) -> AsyncIterator[tuple[httpx.AsyncClient, LiveNode]]:
    """An embedded node that takes the minter's tokens, and a client of it."""
    async with start_guarded(sqlite_url) as found:
        yield found


@pytest.fixture
async def prepared(
    guarded: tuple[httpx.AsyncClient, LiveNode], minter: Minter
) -> httpx.AsyncClient:
    """A node with a user in each kind of place, and with revocations."""
    client, _ = guarded
    root = minter.header(zones=["*"], scope="read write admin", sub="root")
    for zone_id in (HERE, ELSEWHERE):
        body = {"zone_id": zone_id, "name": zone_id}
        assert (await client.post("/zones", json=body, headers=root)).status_code == 201
    places: tuple[tuple[int, str | None], ...] = ((11, HERE), (12, ELSEWHERE), (13, None))
    for global_id, place in places:
        user = {"global_id": global_id, "name": "x", "zone_id": place}
        assert (await client.post("/users", json=user, headers=root)).status_code == 201
    revoked: tuple[dict[str, Any], ...] = (
        {"sub": "eve"},
        {"jti": "stolen"},
        {"sub": "taken", "zones": ["*"]},
    )
    for what in revoked:
        answer = await client.post("/admin/revoke", json=what, headers=root)
        assert answer.status_code == 204
    return client
