"""Proxies: who a client is, is believed from the proxies that are named, and from nobody else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest
from websockets.asyncio.client import connect

if TYPE_CHECKING:
    from collections.abc import Callable

    from realtime.settings import Settings
    from tests.realtime.conftest import StartNode

FORWARDED = {"X-Forwarded-For": "198.51.100.7, 203.0.113.9", "X-Forwarded-Proto": "https"}


@pytest.mark.parametrize(
    ("trusted", "peer"),
    [
        ("", "127.0.0.1"),
        ("10.0.0.0/8", "127.0.0.1"),
        ("127.0.0.1", "203.0.113.9"),
        ("127.0.0.0/8, 203.0.113.0/24", "198.51.100.7"),
    ],
)
async def test_the_client_is_whom_the_last_trusted_proxy_saw(
    sqlite_url: str,
    start_node: StartNode,
    make_settings: Callable[..., Settings],
    trusted: str,
    peer: str,
) -> None:
    """What a client itself put before it is not believed."""
    settings = make_settings(database_url=sqlite_url, trusted_proxies=trusted)
    async with (
        start_node(settings) as live,
        httpx.AsyncClient(base_url=live.url, trust_env=False) as http,
        connect(live.ws_url, additional_headers=FORWARDED, proxy=None),
        http.stream("GET", "/sse?zone=*", headers=FORWARDED),
    ):
        rows: list[dict[str, Any]] = (await http.get("/admin/connections")).json()["connections"]
        assert {row["transport"] for row in rows} == {"websocket", "sse"}
        assert {row["peer"].rpartition(":")[0] for row in rows} == {peer}
