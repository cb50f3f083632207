"""The quota that nodes share, on every kind of Redis."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cache.client import Connector, RedisConfig
from cache.shared_quota import SharedQuota


@pytest.fixture(params=["redis", "cluster"])
def url(request: pytest.FixtureRequest) -> str:
    """Where the counts are."""
    return str(request.getfixturevalue(f"{request.param}_url"))


def new_quota(url: str, failed: Callable[[], None]) -> SharedQuota:
    """A quota of two requests."""
    client = Connector(RedisConfig(url)).create_client(name="quota", max_connections=2)
    return SharedQuota(client, "zonecast", per_s=0.001, burst=2, command_timeout_s=1, failed=failed)


async def test_whoever_asks_is_counted(url: str) -> None:
    """Wherever in a cluster the count of an asker would lie by its name."""
    failures: list[None] = []
    quota = new_quota(url, lambda: failures.append(None))
    try:
        for asker in (f"sub:{number}" for number in range(20)):
            found = [await quota.take(asker) for _ in range(3)]
            assert [answer and answer[0] for answer in found] == [True, True, False], asker
    finally:
        await quota.aclose()
    assert not failures
