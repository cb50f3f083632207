"""Nodes that ask each other over Redis who is there."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest
from redis.asyncio import Redis

from cache.client import Connector, RedisConfig
from cache.presence_nodes import PresenceConfig, RedisNodes
from channels.ports import UnavailableError
from channels.presence import Asked, Counted, Headcount
from tests.clusters import RedisCluster, running_cluster
from tests.processes import Scratch
from tests.servers import Binaries, RedisServer

TTL_S = 1.0
QUICK = PresenceConfig(
    ttl_s=TTL_S, answer_wait_s=0.3, command_timeout_s=0.3, retry_after_s=0.05, inbox_max_messages=5
)
A, B = "zone:A", "zone:B"
ROSTER = "{zonecast:users}:presence:nodes"


def inbox(name: str) -> str:
    return "{zonecast:users}:presence:inbox:" + name


@dataclass
class Someone:
    """A node, and who is there.

    Attributes:
        is_frozen: Whether it doesn't answer.
    """

    nodes: RedisNodes
    clients: dict[str, dict[str, str]] = field(default_factory=dict)
    is_frozen: bool = False
    asked: list[Asked] = field(default_factory=list)

    async def count(self, channels: Asked) -> Counted:
        """Count."""
        self.asked.append(channels)
        if self.is_frozen:
            await asyncio.get_running_loop().create_future()
        return {
            channel: Headcount.of_clients(self.clients[channel], is_named=is_named)
            for channel, is_named in channels.items()
            if channel in self.clients
        }

    async def ask(self, *channels: str, is_named: bool = True) -> list[Counted]:
        """Ask the others."""
        return await self.nodes.ask(dict.fromkeys(channels, is_named))

    async def until_it_knows(
        self, *expected: dict[str, dict[str, str]], timeout_s: float = 10
    ) -> None:
        """Ask, until the others are those expected."""
        wanted = sorted(map(repr, expected))
        async with asyncio.timeout(timeout_s):
            while True:
                with contextlib.suppress(UnavailableError):
                    found = await self.ask(A, B)
                    named = [{name: each.clients for name, each in one.items()} for one in found]
                    if sorted(map(repr, named)) == wanted:
                        return
                await asyncio.sleep(0.02)


def someone(url: str, name: str) -> Someone:
    redis = RedisConfig(url, command_timeout_s=0.3, connect_timeout_s=0.3)
    return Someone(RedisNodes(Connector(redis), name, QUICK))


@contextlib.asynccontextmanager
async def running(*those: Someone) -> AsyncIterator[list[asyncio.Task[None]]]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each.nodes.run(each.count)) for each in those]
        try:
            yield tasks
        finally:
            for task in tasks:
                task.cancel()


@pytest.fixture(params=["redis", "cluster"])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{request.param}_url"))


async def test_all_other_nodes_answer(url: str) -> None:
    """Each for the channels that are asked for, with names where they are wanted."""
    asking, one, other = (someone(url, name) for name in ("asking", "one", "other"))
    one.clients = {A: {"1": "ada", "2": ""}}
    other.clients = {A: {"3": "ada"}, B: {"4": "eve"}}
    async with running(asking, one, other):
        await asking.until_it_knows(one.clients, other.clients)
        found = await asking.ask(A, is_named=False)
        assert all(each.clients is None for counted in found for each in counted.values())
        assert sum(counted[A].count for counted in found) == 3
        assert frozenset.union(*(counted[A].users for counted in found)) == (
            Headcount.of_clients({"1": "ada"}, is_named=False).users
        )
        assert sum(counted[A].anonymous for counted in found) == 1
        assert not asking.asked
        await one.until_it_knows({}, other.clients)


async def test_a_node_that_stops_is_missed_by_nobody(url: str) -> None:
    """It says good-bye, and leaves no message behind."""
    asking, leaving = someone(url, "asking"), someone(url, "leaving")
    leaving.clients = {A: {"1": "ada"}}
    async with running(asking, leaving) as tasks:
        await asking.until_it_knows(leaving.clients)
        tasks[1].cancel()
        await asyncio.wait([tasks[1]])
        assert await asking.ask(A) == []


async def test_a_node_that_does_not_answer_makes_the_answer_unknown_until_it_is_given_up(
    redis_url: str,
) -> None:
    """What the rest knows would pass for the whole. The bound is `ttl_s` from its last sign."""
    asking, other, dead = (someone(redis_url, name) for name in ("asking", "other", "dead"))
    other.clients = {A: {"1": "ada"}}
    dead.clients = {A: {"2": "eve"}}
    async with running(asking, other):
        async with running(dead):
            await asking.until_it_knows(other.clients, dead.clients)
            dead.is_frozen = True
            with pytest.raises(UnavailableError, match="1 nodes did not answer"):
                await asking.ask(A)
        # Good-bye was said: as one that was killed doesn't, its name is put back.
        async with Redis.from_url(redis_url) as redis:
            seconds, microseconds = await redis.time()
            await redis.zadd(ROSTER, {"dead": seconds * 1000 + microseconds // 1000})
        started_s = asyncio.get_running_loop().time()
        with pytest.raises(UnavailableError, match="1 nodes did not answer"):
            await asking.ask(A)
        await asking.until_it_knows(other.clients)
        assert asyncio.get_running_loop().time() - started_s < 2 * TTL_S
        async with Redis.from_url(redis_url) as redis, asyncio.timeout(10):
            while await redis.zscore(ROSTER, "dead") is not None:  # noqa: ASYNC110 - no event.
                await asyncio.sleep(0.01)


async def test_what_nobody_reads_is_bounded_and_goes_by_itself(redis_url: str) -> None:
    """Of the messages for a node that is dead."""
    asking = someone(redis_url, "asking")
    async with running(asking), Redis.from_url(redis_url) as redis:
        await asking.until_it_knows()
        seconds, microseconds = await redis.time()
        await redis.zadd(ROSTER, {"dead": seconds * 1000 + microseconds // 1000})
        asked = [asking.ask(A) for _ in range(2 * QUICK.inbox_max_messages)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(answer) for answer in answers} == {UnavailableError}
        assert await redis.llen(inbox("dead")) == QUICK.inbox_max_messages
        assert 0 < await redis.pttl(inbox("dead")) <= TTL_S * 1000


async def test_without_redis_nothing_is_known(own_redis: RedisServer) -> None:
    """At once, after the first failure; and it comes back by itself."""
    asking, other = someone(own_redis.url, "asking"), someone(own_redis.url, "other")
    other.clients = {A: {"1": "ada"}}
    async with running(asking, other):
        await asking.until_it_knows(other.clients)
        await own_redis.kill()
        with pytest.raises(UnavailableError):
            await asking.ask(A)
        await own_redis.start()
        await asking.until_it_knows(other.clients)


async def test_a_redis_that_lost_its_memory_is_not_believed(own_redis: RedisServer) -> None:
    """Until all have had the time to come back, nobody is told that they alone are there."""
    asking, other = someone(own_redis.url, "asking"), someone(own_redis.url, "other")
    other.clients = {A: {"1": "ada"}}
    async with running(asking, other):
        await asking.until_it_knows(other.clients)
        answers: list[list[Counted]] = []
        await own_redis.call("FLUSHALL")
        deadline_s = asyncio.get_running_loop().time() + 1.5 * TTL_S
        while asyncio.get_running_loop().time() < deadline_s:
            with contextlib.suppress(UnavailableError):
                answers.append(await asking.ask(A))
            await asyncio.sleep(0.01)
        assert answers
        assert all(answer == answers[0] for answer in answers)
        assert answers[0][0][A].clients == other.clients[A]


@pytest.fixture
async def own_cluster(
    request: pytest.FixtureRequest, redis_binaries: Binaries, scratch: Scratch
) -> AsyncIterator[RedisCluster]:
    """Masters of the test's own, without replicas and with."""
    async with running_cluster(
        redis_binaries,
        scratch,
        with_replicas=request.param,
        silence_ms=500 if request.param else 10_000,
    ) as cluster:
        yield cluster


@pytest.mark.parametrize("own_cluster", [False], indirect=True)
async def test_the_slot_of_a_cluster_may_move(own_cluster: RedisCluster) -> None:
    """All nodes follow it, those that wait for messages, too."""
    asking, other = someone(own_cluster.url, "asking"), someone(own_cluster.url, "other")
    other.clients = {A: {"1": "ada"}}
    async with running(asking, other):
        await asking.until_it_knows(other.clients)
        owner = await own_cluster.owner_of(ROSTER)
        target = next(server for server in own_cluster.servers if server is not owner)
        await own_cluster.move_slot(ROSTER, target)
        await asking.until_it_knows(other.clients)
        assert await own_cluster.owner_of(ROSTER) is target


@pytest.mark.parametrize("own_cluster", [True], indirect=True)
async def test_another_master_of_a_cluster_may_take_over(own_cluster: RedisCluster) -> None:
    """Whatever it knows of the nodes."""
    asking, other = someone(own_cluster.url, "asking"), someone(own_cluster.url, "other")
    other.clients = {A: {"1": "ada"}}
    async with running(asking, other):
        await asking.until_it_knows(other.clients)
        await (await own_cluster.owner_of(ROSTER)).kill()
        with pytest.raises(UnavailableError):
            await asking.ask(A)
        await asking.until_it_knows(other.clients, timeout_s=60)


async def test_a_frozen_redis_costs_a_bounded_wait(own_redis: RedisServer) -> None:
    """And the next one who asks none."""
    asking = someone(own_redis.url, "asking")
    async with running(asking):
        await asking.until_it_knows()
        own_redis.sigstop()
        try:
            with pytest.raises(UnavailableError, match="no answer in time"):
                async with asyncio.timeout(2):
                    await asking.ask(A)
            with pytest.raises(UnavailableError):
                async with asyncio.timeout(0.02):
                    await asking.ask(A)
        finally:
            own_redis.sigcont()
        await asking.until_it_knows()


@pytest.mark.parametrize(
    "message",
    [
        *(b"", b"no JSON", b"{}", b'{"is":"dance"}', b"[" * 5_000),
        b'{"is":"ask","number":1,"node":"\xdd","channels":{}}',
    ],
)
async def test_messages_that_cannot_be_read_are_dropped(
    redis_url: str, message: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Those that come after are read."""
    asking, other = someone(redis_url, "asking"), someone(redis_url, "other")
    async with running(asking, other), Redis.from_url(redis_url) as redis:
        await asking.until_it_knows({})
        await redis.rpush(inbox("other"), message)
        await asking.until_it_knows({})
    assert "dropped a message" in caplog.text


async def test_late_answers_are_no_answers_to_the_next_question(redis_url: str) -> None:
    """Each has a number."""
    asking, other = someone(redis_url, "asking"), someone(redis_url, "other")
    release = asyncio.Event()
    count = other.count

    async def slow(channels: Asked) -> Counted:
        found = await count(channels)
        if len(other.asked) == 1:
            await release.wait()
        return found

    other.clients = {A: {"1": "ada"}}
    setattr(other, "count", slow)  # noqa: B010 - a method of one object.
    async with running(asking, other):
        await until_asked(asking, lambda: len(other.asked) == 1)
        other.clients = {}
        release.set()
        answer = None
        while answer is None:
            with contextlib.suppress(UnavailableError):
                answer = await asking.ask(A)
        assert answer == [{}]


async def until_asked(asking: Someone, condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            with contextlib.suppress(UnavailableError):
                await asking.ask(A)
