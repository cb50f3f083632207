"""Presence over nodes, as the official SDKs see it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from centrifuge import (  # type: ignore[import-untyped]  # it ships no types
    CentrifugeError,
    Client,
    JoinContext,
    LeaveContext,
    SubscriptionEventHandler,
)

from tests.clients.test_tokens import Guest, guest
from tests.nodes import NodeProcess, running_nodes
from tests.realtime.auth.minter import Minter
from tests.servers import RedisServer

Json = dict[str, Any]

A = "zone:A"
TTL_S = 2.0
QUICK = {"presence_ttl_s": TTL_S, "presence_interval_s": 0.1, "presence_answer_wait_s": 0.5}


@pytest.fixture
def minter() -> Minter:
    """Makes tokens."""
    return Minter()


@pytest.fixture
async def nodes(
    postgres_url: str, own_redis: RedisServer, tmp_path: Path, minter: Minter
) -> AsyncIterator[list[NodeProcess]]:
    """Two nodes that take tokens, with a zone."""
    settings = {
        **minter.settings(),
        **QUICK,
        "database_url": postgres_url,
        "redis_url": own_redis.url,
        "pool_size": 5,
    }
    async with running_nodes(tmp_path, 2, settings) as nodes:
        async with httpx.AsyncClient(base_url=nodes[0].url, timeout=60, verify=False) as client:  # noqa: S501 - loopback
            headers = minter.header(zones=["*"], scope="write")
            answer = await client.post(
                "/zones", json={"zone_id": "A", "name": "A"}, headers=headers
            )
            assert answer.status_code == 201, answer.text
        yield nodes


@asynccontextmanager
async def watching(
    node: Path, served: NodeProcess, minter: Minter, sub: str, **options: Any
) -> AsyncIterator[tuple[Guest, str]]:
    """Watch with the JavaScript SDK as somebody; return the client's id, too."""

    def token_for(_channel: str | None) -> str:
        return minter.token(sub=sub, zones=["A"], scope="read")

    async with guest(node, served, token_for) as found:
        found.say(do="subscribe", channel=A, **options)
        await found.until_told("subscribed")
        (client,) = [each["client"] for each in found.events if each["event"] == "connected"]
        yield found, client


async def asked(found: Guest) -> Json:
    """Have the SDK ask; return what it got."""
    before = len(found.events)
    found.say(do="presence", channel=A)
    answers: list[Json] = []

    def is_answered() -> bool:
        answers[:] = [
            each for each in found.events[before:] if each["event"] in {"presence", "absence"}
        ]
        return bool(answers)

    await found.until(is_answered)
    return answers[0]


async def until_present(found: Guest, *users: str) -> Json:
    """Have the SDK ask until these are there; whatever it got before was an error, or right."""
    async with asyncio.timeout(30):
        while True:
            answer = await asked(found)
            if answer["event"] == "presence":
                seen = sorted(info["user"] for info in answer["clients"].values())
                if seen == sorted(users):
                    return answer


@pytest.mark.parametrize("encoding", ["json", "protobuf"])
async def test_the_javascript_sdk_sees_who_watches_at_both_nodes(
    node: Path,
    nodes: list[NodeProcess],
    minter: Minter,
    monkeypatch: pytest.MonkeyPatch,
    encoding: str,
) -> None:
    """Presence, its numbers, and joins and leaves where they are asked for."""
    monkeypatch.setattr(Guest, "encoding", encoding)
    async with (
        watching(node, nodes[0], minter, "ada", joinLeave=True) as (ada, first),
        watching(node, nodes[1], minter, "ada") as (_, second),
    ):
        await ada.until_told("join", client=second, user="ada")
        answer = await until_present(ada, "ada", "ada")
        seen = {key: (info["client"], info["user"]) for key, info in answer["clients"].items()}
        assert seen == {client: (client, "ada") for client in (first, second)}
        assert (answer["numClients"], answer["numUsers"]) == (2, 1)
        async with watching(node, nodes[1], minter, "eve") as (eve, third):
            await ada.until_told("join", client=third, user="eve")
            answer = await until_present(eve, "ada", "ada", "eve")
            assert (answer["numClients"], answer["numUsers"]) == (3, 2)
        await ada.until_told("leave", client=third, user="eve")
        assert not eve.count("join")


async def test_clients_of_a_killed_node_are_gone_within_the_bound(
    node: Path, nodes: list[NodeProcess], minter: Minter
) -> None:
    """Until then nobody is told half of it. Who follows is told that they left."""
    async with AsyncExitStack() as stack:
        ada, _ = await stack.enter_async_context(
            watching(node, nodes[0], minter, "ada", joinLeave=True)
        )
        eve, client = await stack.enter_async_context(watching(node, nodes[1], minter, "eve"))
        await until_present(ada, "ada", "eve")
        loop = asyncio.get_running_loop()
        killed_s = loop.time()
        await nodes[1].kill()
        answers: list[Json] = []
        while not answers or answers[-1]["event"] == "absence":
            answers.append(await asked(ada))
        took_s = loop.time() - killed_s
        assert {(each["code"], each["temporary"]) for each in answers[:-1]} == {(100, True)}
        assert [info["user"] for info in answers[-1]["clients"].values()] == ["ada"]
        assert took_s < TTL_S + 2
        await ada.until_told("leave", client=client, user="eve")
        # It comes back when its node does.
        await nodes[1].start()
        await eve.until(lambda: eve.count("subscribed") == 2)
        await until_present(ada, "ada", "eve")
        await ada.until_told("join", user="eve")


async def test_without_redis_presence_is_not_available(
    node: Path, nodes: list[NodeProcess], own_redis: RedisServer, minter: Minter
) -> None:
    """A node knows its own clients only, which would pass for all; over HTTP it is 503."""
    async with (
        watching(node, nodes[0], minter, "ada", joinLeave=True) as (ada, _),
        watching(node, nodes[1], minter, "eve") as (_, client),
        httpx.AsyncClient(base_url=nodes[0].url, timeout=60, verify=False) as http,  # noqa: S501 - loopback
    ):
        await until_present(ada, "ada", "eve")
        headers = minter.header(zones=["A"], scope="read")
        found = (await http.get("/zones/A/presence", headers=headers)).json()
        assert (found["channel"], found["num_clients"], found["num_users"]) == (A, 2, 2)
        assert {"client": client, "user": "eve"} in found["clients"]
        await own_redis.kill()
        answer = await asked(ada)
        assert (answer["event"], answer["code"], answer["temporary"]) == ("absence", 100, True)
        refused = await http.get("/zones/A/presence", headers=headers)
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
        await own_redis.start()
        await until_present(ada, "ada", "eve")
        # Nobody came or left meanwhile, and nobody is told so.
        assert ada.count("leave") == 0
        assert ada.count("join", user="eve") == 1


async def test_a_node_that_stops_takes_its_clients_along_at_once(
    node: Path, nodes: list[NodeProcess], minter: Minter
) -> None:
    """It says good-bye: no answer fails for it."""
    async with watching(node, nodes[0], minter, "ada") as (ada, _):
        async with watching(node, nodes[1], minter, "eve"):
            await until_present(ada, "ada", "eve")
        await nodes[1].stop()
        answer = await asked(ada)
        assert [info["user"] for info in answer["clients"].values()] == ["ada"]


class Follower(SubscriptionEventHandler):  # type: ignore[misc]  # it ships no types
    """Notes whom the Python SDK is told of."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[tuple[str, str, str]] = asyncio.Queue()

    async def on_join(self, ctx: JoinContext) -> None:
        """Note it."""
        self.told.put_nowait(("join", ctx.info.client, ctx.info.user))

    async def on_leave(self, ctx: LeaveContext) -> None:
        """Note it."""
        self.told.put_nowait(("leave", ctx.info.client, ctx.info.user))


@pytest.mark.parametrize("use_protobuf", [False, True], ids=["json", "protobuf"])
async def test_the_python_sdk_understands_it_too(
    node: Path, nodes: list[NodeProcess], minter: Minter, *, use_protobuf: bool
) -> None:
    """Presence, its numbers, joins and leaves, and the error of a zone that is not granted."""
    token = minter.token(sub="pia", zones=["A"], scope="read")
    url = f"ws://127.0.0.1:{nodes[0].port}/connection/websocket"
    client = Client(url, token=token, use_protobuf=use_protobuf)
    follower = Follower()
    subscription = client.new_subscription(A, events=follower, join_leave=True)
    await client.connect()
    await subscription.subscribe()
    try:
        await subscription.ready()
        async with watching(node, nodes[1], minter, "eve") as (_, eve):
            assert await follower.told.get() == ("join", eve, "eve")
            found = await subscription.presence()
            assert sorted(info.user for info in found.clients.values()) == ["eve", "pia"]
            numbers = await subscription.presence_stats()
            assert (numbers.num_clients, numbers.num_users) == (2, 2)
        assert await follower.told.get() == ("leave", eve, "eve")
        with pytest.raises(CentrifugeError, match="permission denied"):
            await client.presence("zone:B")
    finally:
        await client.disconnect()
