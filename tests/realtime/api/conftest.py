"""The HTTP API of a live node, over a real connection."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from realtime.settings import Settings
    from tests.realtime.conftest import LiveNode, StartNode

StartApi = Callable[..., AbstractAsyncContextManager[tuple["Api", "LiveNode"]]]


class Api:
    """A client that makes what tests need, and checks the shape of what goes wrong."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client
        self.get = client.get
        self.post = client.post
        self.patch = client.patch
        self.delete = client.delete

    async def make_zones(self, *zone_ids: str) -> None:
        """Make zones that are named like their ids."""
        for zone_id in zone_ids:
            response = await self.post("/zones", json={"zone_id": zone_id, "name": zone_id})
            assert response.status_code == 201, response.text

    async def make_user(
        self, global_id: int, zone_id: str | None = None, **more: Any
    ) -> dict[str, Any]:
        """Make a user and return it."""
        user = {"global_id": global_id, "name": f"user {global_id}", "zone_id": zone_id, **more}
        response = await self.post("/users", json=user)
        assert response.status_code == 201, response.text
        made: dict[str, Any] = response.json()
        return made

    @staticmethod
    def problem(response: httpx.Response, status: int, slug: str | None = None) -> dict[str, Any]:
        """Check that the answer is a problem of this kind, and return it."""
        assert response.status_code == status, response.text
        assert response.headers["content-type"] == "application/problem+json"
        body: dict[str, Any] = response.json()
        assert body["status"] == status
        if slug is not None:
            assert body["type"] == f"/problems/{slug}"
        return body

    @staticmethod
    def positions(response: httpx.Response) -> dict[str, str]:
        """Read the positions that a write answered with."""
        header = response.headers.get("zonecast-positions", "")
        return dict(item.strip().split("=", 1) for item in header.split(",") if item)


@pytest.fixture
async def api(live_node: LiveNode) -> AsyncIterator[Api]:
    """The API of an embedded node on a fresh database."""
    async with httpx.AsyncClient(base_url=live_node.url, timeout=20) as client:
        yield Api(client)


@pytest.fixture
def start_api(
    database_url: str, start_node: StartNode, make_settings: Callable[..., Settings]
) -> StartApi:
    """What starts a node with settings and yields its API: on PostgreSQL and on SQLite."""
    # Made now, as it reads files.
    tls = ssl.create_default_context()

    @asynccontextmanager
    async def start(**given: object) -> AsyncIterator[tuple[Api, LiveNode]]:
        settings = make_settings(database_url=database_url, **given)
        async with (
            start_node(settings) as live,
            httpx.AsyncClient(base_url=live.url, timeout=20, verify=tls) as client,
        ):
            yield Api(client), live

    return start
