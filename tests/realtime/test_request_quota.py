"""The quota of HTTP requests: in one process, over nodes, and when Redis is away."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest

from cache.client import Connector, RedisConfig
from cache.shared_quota import SharedQuota
from realtime.limits import Rate
from realtime.request_quota import MAX_ASKERS, RequestQuota
from tests.realtime.auth.minter import Minter
from tests.realtime.conftest import LiveNode, serving, settings_of_test
from tests.servers import RedisServer

SLOW: dict[str, Any] = {"requests_per_s": 0.01, "requests_burst": 3}
"""Three at once, and then nothing while a test lasts."""


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        """Return its time."""
        return self.now_s


@asynccontextmanager
async def nodes(
    *database_urls: str, **given: Any
) -> AsyncIterator[list[tuple[httpx.AsyncClient, LiveNode]]]:
    """Serve nodes, and yield a client for each."""
    async with AsyncExitStack() as stack:
        found = []
        for url in database_urls:
            live = await stack.enter_async_context(
                serving(settings_of_test(database_url=url, **given))
            )
            client = httpx.AsyncClient(base_url=live.url, trust_env=False)
            found.append((await stack.enter_async_context(client), live))
        yield found


def told(answer: httpx.Response) -> tuple[int, int]:
    """What an answer says of requests left, and of when all are there again."""
    found = re.fullmatch(r'"requests";r=(\d+);t=(\d+)', answer.headers["ratelimit"])
    assert found is not None
    return int(found[1]), int(found[2])


async def test_a_burst_and_then_the_rate_and_the_standing_says_how_it_is() -> None:
    """By a clock of the test's own."""
    clock = Clock()
    quota = RequestQuota(Rate(2, 4), None, clock)
    found = [await quota.take("ada") for _ in range(5)]
    assert [standing.is_allowed for standing in found] == [True] * 4 + [False]
    assert [standing.left for standing in found] == [3, 2, 1, 0, 0]
    assert [standing.whole_in_s for standing in found] == [1, 1, 2, 2, 2]
    assert found[-1].next_in_s == 1
    assert (await quota.take("eve")).left == 3
    clock.now_s += 0.5
    assert [(await quota.take("ada")).is_allowed for _ in range(2)] == [True, False]


async def test_who_is_counted_here_is_bounded() -> None:
    """A million of addresses take no more memory than ten thousand."""
    quota = RequestQuota(Rate(1, 1), None)
    for number in range(MAX_ASKERS + 500):
        await quota.take(str(number))
    assert len(quota._paid_until_s) == MAX_ASKERS


async def test_over_the_quota_is_429_with_when_to_come_back(sqlite_url: str) -> None:
    """All paths count together, also those that no route takes; health does not count."""
    async with nodes(sqlite_url, **SLOW) as [(client, live)]:
        answers = [await client.get(path) for path in ("/zones", "/nothing", "/users-dict")]
        assert [answer.status_code for answer in answers] == [200, 404, 200]
        assert [told(answer)[0] for answer in answers] == [2, 1, 0]
        assert {answer.headers["ratelimit-policy"] for answer in answers} == {
            '"requests";q=3;w=300'
        }
        over = await client.get("/zones")
        assert over.status_code == 429
        assert over.headers["content-type"] == "application/problem+json"
        assert over.json()["type"] == "/problems/too-many-requests"
        assert 0 < int(over.headers["retry-after"]) <= 101
        assert told(over)[0] == 0
        for path in ("/healthz", "/readyz"):
            for _ in range(5):
                free = await client.get(path)
                assert free.status_code == 200
                assert "ratelimit" not in free.headers
        assert _kept_out(live) == 1


def _kept_out(live: LiveNode) -> float | None:
    sample = live.node.metrics.registry.get_sample_value
    return sample("zonecast_limit_refusals_total", {"limit": "requests"})


async def test_fast_paths_and_streams_are_held_to_it_too(sqlite_url: str) -> None:
    """Plain transfers, near answers and event streams have no way around it."""
    async with nodes(sqlite_url, requests_per_s=0.01, requests_burst=6) as [(client, _)]:
        await client.post("/zones", json={"zone_id": "A", "name": "A"})
        made = await client.post("/users", json={"global_id": 1, "name": "x"})
        assert (await client.get("/users-dict")).status_code == 200
        near = await client.get("/users-dict")
        assert (near.status_code, told(near)[0]) == (200, 2)
        move = f"/users/{made.json()['id']}/transfer"
        moved = await client.post(move, json={"zone_id": "A"})
        assert (moved.status_code, told(moved)[0]) == (200, 1)
        async with client.stream("GET", "/sse?zone=A") as stream:
            assert (stream.status_code, told(stream)[0]) == (200, 0)
        for refused in (
            await client.get("/users-dict"),
            await client.post(move, json={"zone_id": None}),
            await client.get("/sse?zone=A"),
        ):
            assert refused.status_code == 429


async def test_without_a_setting_nothing_is_counted_or_told(sqlite_url: str) -> None:
    """It is off until it is set."""
    async with nodes(sqlite_url) as [(client, live)]:
        assert live.node.quota is None
        assert "ratelimit" not in (await client.get("/zones")).headers


async def test_subjects_count_by_themselves_and_who_has_no_valid_token_by_the_address(
    sqlite_url: str,
) -> None:
    """Guessing tokens is held, too; somebody with a token is not held up by that."""
    minter = Minter()
    granted: dict[str, Any] = {"zones": ["*"], "scope": "read"}
    async with nodes(sqlite_url, **SLOW, **minter.settings()) as [(client, _)]:
        for number in range(3):
            guess = await client.get("/zones", headers={"Authorization": f"Bearer x{number}"})
            assert guess.status_code == 401
        assert (await client.get("/zones")).status_code == 429
        for subject in ("ada", "eve"):
            header = minter.header(sub=subject, **granted)
            found = [(await client.get("/zones", headers=header)).status_code for _ in range(4)]
            assert found == [200, 200, 200, 429]


async def test_behind_a_trusted_proxy_clients_count_each_by_itself(sqlite_url: str) -> None:
    """And IPv6 clients by their /64."""
    async with nodes(sqlite_url, trusted_proxies="127.0.0.1", **SLOW) as [(client, _)]:

        async def left(address: str) -> int:
            return told(await client.get("/zones", headers={"X-Forwarded-For": address}))[0]

        found = [await left("192.0.2.1"), await left("192.0.2.2"), await left("192.0.2.1")]
        assert found == [2, 2, 1]
        assert [await left("2001:db8::1"), await left("2001:db8::2")] == [2, 1]


async def test_nodes_count_together_over_redis(postgres_url: str, redis_url: str) -> None:
    """What was asked of one is gone at the other."""
    async with nodes(postgres_url, postgres_url, redis_url=redis_url, **SLOW) as [
        (first, _),
        (second, _),
    ]:
        answers = [await asker.get("/zones") for asker in (first, second, first, second, first)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
        assert [told(answer)[0] for answer in answers] == [2, 1, 0, 0, 0]


@asynccontextmanager
async def shared(url: str, rate: Rate, failures: list[int]) -> AsyncIterator[SharedQuota]:
    """Count in a Redis."""
    config = RedisConfig(url, key_prefix="test", command_timeout_s=0.2, connect_timeout_s=0.2)
    client = Connector(config).create_client(name="test:quota", max_connections=4)
    quota = SharedQuota(
        client,
        "test",
        per_s=rate.per_s,
        burst=rate.burst,
        command_timeout_s=0.2,
        retry_after_s=0.1,
        failed=lambda: failures.append(1),
    )
    try:
        yield quota
    finally:
        await quota.aclose()


@pytest.mark.parametrize("rate", [Rate(0.01, 7), Rate(3, 40), Rate(9_999, 20_000)], ids=str)
async def test_the_script_counts_as_the_process_does(redis_url: str, rate: Rate) -> None:
    """A burst at once, whatever the rate; keys end by themselves."""
    async with shared(redis_url, rate, []) as quota:
        count = min(rate.burst, 50) + 2
        found = [await quota.take("ada") for _ in range(count)]
        allowed = [one is not None and one[0] for one in found]
        assert sum(allowed[: rate.burst]) == min(rate.burst, count)
        if rate.per_s < 1:
            assert not any(allowed[rate.burst :])
    client = Connector(RedisConfig(redis_url)).create_client(name="test", max_connections=1)
    life_ms = await client.pttl("{test:users}:quota:ada")
    await client.aclose()
    assert life_ms == -2 or 0 < life_ms <= 1_000 * rate.burst / rate.per_s + 1


async def test_while_redis_is_away_each_node_counts_by_itself(own_redis: RedisServer) -> None:
    """Nobody is let past for want of it, nobody waits twice for it, and then it counts again."""
    failures: list[int] = []
    rate = Rate(0.01, 3)
    async with shared(own_redis.url, rate, failures) as shares:
        quota = RequestQuota(rate, shares.take)
        assert (await quota.take("ada")).left == 2
        own_redis.sigstop()
        try:
            began_s = asyncio.get_running_loop().time()
            found = [(await quota.take("ada")).is_allowed for _ in range(5)]
            waited_s = asyncio.get_running_loop().time() - began_s
        finally:
            own_redis.sigcont()
        assert found == [True, True, True, False, False]
        assert failures
        assert waited_s < 2
        async with asyncio.timeout(20):
            while await shares.take("eve") is None:  # noqa: ASYNC110 - Redis tells nobody
                await asyncio.sleep(0.05)
