"""Nodes that ask for tokens, and whoever has some."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.realtime.auth.minter import Minter

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
