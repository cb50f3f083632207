"""From your own code: another process with nothing but the settings makes live writes."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.realtime.conftest import serving
from tests.realtime.plain_client import plain_client

if TYPE_CHECKING:
    from realtime.settings import Settings

ROOT = Path(__file__).parents[2]


@pytest.fixture
def readme_example() -> str:
    """Return the worker of the README, word for word."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    (example,) = [block for block in blocks if "realtime.worker" in block]
    return str(example)


async def test_the_worker_of_the_readme_is_seen_by_watchers_of_a_running_node(
    postgres_url: str,
    redis_url: str,
    make_settings: Callable[..., Settings],
    readme_example: str,
) -> None:
    """The example as written, in a process of its own, moves a user on a watcher's screen."""
    settings = make_settings(database_url=postgres_url, redis_url=redis_url, pool_size=5)
    async with serving(settings) as live, httpx.AsyncClient(base_url=live.url) as http:
        for zone in ("F1-Z1", "F1-Z2"):
            await http.post("/zones", json={"zone_id": zone, "name": zone})
        user = {"global_id": 1, "name": "Ada", "zone_id": "F1-Z2"}
        created = await http.post("/users", json=user)
        assert created.json()["id"] == 1
        async with plain_client(live.ws_url, "zone:F1-Z1") as watcher:
            environment = {
                **os.environ,
                "ZONECAST_DATABASE_URL": postgres_url,
                "ZONECAST_REDIS_URL": redis_url,
                "PYTHONPATH": str(ROOT),
            }
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-W", "error", "-c", readme_example, env=environment
            )
            assert await process.wait() == 0
            await watcher.until(lambda w: w.user_ids("zone:F1-Z1") == {1})
            metrics = (await http.get("/metrics")).text
    # It came by the bus: the node had nothing to repair.
    assert not re.search(r"^zonecast_repairs_total\{.*\} [1-9]", metrics, re.MULTILINE)
