"""What the HTTP API says while the database or the bus is away, and that it serves again."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.realtime.api.conftest import Api

if TYPE_CHECKING:
    from realtime.settings import Settings
    from tests.realtime.conftest import LiveNode, StartNode
    from tests.servers import PostgresServer, RedisServer


@pytest.fixture
def tls() -> ssl.SSLContext:
    """Made before the test, as it reads files."""
    return ssl.create_default_context()


@asynccontextmanager
async def api_of(live: LiveNode, tls: ssl.SSLContext) -> AsyncIterator[Api]:
    """A client of a node."""
    async with httpx.AsyncClient(base_url=live.url, timeout=20, verify=tls) as client:
        yield Api(client)


async def until_status(api: Api, status: int) -> None:
    """Wait until `/readyz` answers with this status."""
    async with asyncio.timeout(20):
        while (await api.get("/readyz")).status_code != status:  # noqa: ASYNC110 -- asked over HTTP.
            await asyncio.sleep(0.05)


async def test_without_its_database_a_node_says_so_and_recovers(
    own_postgres: PostgresServer,
    start_node: StartNode,
    make_settings: Callable[..., Settings],
    tls: ssl.SSLContext,
) -> None:
    """503 with a hint when to ask again; the process lives; nothing of the cause is told."""
    settings = make_settings(database_url=own_postgres.url)
    async with start_node(settings) as live, api_of(live, tls) as api:
        await api.make_zones("A")
        await until_status(api, 200)
        await own_postgres.stop()
        for response in (
            await api.get("/users"),
            await api.post("/zones", json={"zone_id": "B", "name": "B"}),
            await api.get("/zones/A/changes"),
        ):
            assert api.problem(response, 503, "unavailable")["what"] == "database"
            assert response.headers["retry-after"] == "1"
            assert "asyncpg" not in response.text
        reasons = api.problem(await api.get("/readyz"), 503, "not-ready")["reasons"]
        assert "the database cannot be asked" in reasons
        assert (await api.get("/healthz")).status_code == 200
        await own_postgres.start()
        await until_status(api, 200)
        assert (await api.get("/zones/B")).status_code == 404
        await api.make_zones("B")


async def test_without_its_bus_a_node_serves_but_prefers_another_to(
    postgres_url: str,
    own_redis: RedisServer,
    start_node: StartNode,
    make_settings: Callable[..., Settings],
    tls: ssl.SSLContext,
) -> None:
    """Reads and writes go on; `/readyz` gives the reason until the bus is back."""
    settings = make_settings(database_url=postgres_url, redis_url=own_redis.url)
    async with start_node(settings) as live, api_of(live, tls) as api:
        await until_status(api, 200)
        await api.make_zones("A")
        await own_redis.stop()
        await until_status(api, 503)
        reasons = api.problem(await api.get("/readyz"), 503, "not-ready")["reasons"]
        assert reasons[0].startswith("the bus is ")
        user = await api.make_user(1, "A")
        assert (await api.get("/users-dict")).json()["1"]["id"] == user["id"]
        await own_redis.start()
        await until_status(api, 200)
