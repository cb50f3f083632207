"""The official SDKs at the limits of a node: what they are told, and what they do about it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from centrifuge import (  # type: ignore[import-untyped]  # it ships no types
    CentrifugeError,
    Client,
    ClientEventHandler,
    ConnectedContext,
    DisconnectedContext,
    ErrorContext,
    ReplyError,
)

from tests.clients.test_tokens import Guest, guest, tokens
from tests.nodes import NodeProcess, running_nodes
from tests.realtime.auth.minter import Minter

A = "zone:A"
ZONES = [f"Z{number}" for number in range(12)]


@pytest.fixture
def minter() -> Minter:
    """Makes tokens."""
    return Minter()


@pytest.fixture
async def served(
    request: pytest.FixtureRequest, sqlite_url: str, tmp_path: Path, minter: Minter
) -> AsyncIterator[NodeProcess]:
    """A node with the limits that the test names, and zones."""
    settings = {**minter.settings(), "database_url": sqlite_url, **request.param}
    headers = minter.header(sub="root", zones=["*"], scope="write")
    async with running_nodes(tmp_path, 1, settings) as [node]:
        async with httpx.AsyncClient(
            base_url=node.url,
            headers=headers,
            timeout=60,
            verify=False,  # noqa: S501 - loopback
        ) as client:
            for zone_id in ("A", *ZONES):
                answer = await client.post("/zones", json={"zone_id": zone_id, "name": "x"})
                assert answer.is_success, answer.text
        yield node


def limits(*either: dict[str, int]) -> pytest.MarkDecorator:
    """Run a test with the one and with the other."""
    return pytest.mark.parametrize("served", either, indirect=True, ids=repr)


def anybody(minter: Minter) -> Callable[[str | None], str | None]:
    """Tokens for all zones."""
    return tokens(minter, zones=["*"])


def codes(found: Guest) -> list[int]:
    """Return how its questions were answered."""
    return [each["code"] for each in found.events if each["event"] == "answered"]


async def asked(found: Guest, times: int) -> list[int]:
    """Have the SDK ask; return how it was answered."""
    before = len(codes(found))
    found.say(do="ask", channel=A, times=times)
    await found.until(lambda: len(codes(found)) == before + times)
    return codes(found)[before:]


@limits({"commands_per_s": 5, "commands_burst": 10})
async def test_the_javascript_sdk_is_told_of_commands_over_the_rate_and_goes_on(
    node: Path, served: NodeProcess, minter: Minter
) -> None:
    """Error 111, temporary, for each that was not done; the connection and its zones stay."""
    async with guest(node, served, anybody(minter)) as found:
        found.say(do="subscribe", channel=A)
        await found.until_told("subscribed")
        answers = await asked(found, 20)
        assert set(answers) == {0, 111}
        assert 8 <= answers.count(0) <= 12
        assert all(each["temporary"] for each in found.events if each.get("code") == 111)
        async with asyncio.timeout(30):
            while (await asked(found, 1)) != [0]:  # noqa: ASYNC110 - it is time that pays.
                await asyncio.sleep(0.1)
        assert found.count("connected") == 1
        assert found.count("disconnected") == found.count("unsubscribed") == 0


@limits({"commands_per_s": 20, "commands_burst": 6})
async def test_the_javascript_sdk_gets_all_its_subscriptions_at_a_slow_rate(
    node: Path, served: NodeProcess, minter: Minter
) -> None:
    """It asks again, with growing pauses, for what was refused: nothing is given up."""
    async with guest(node, served, anybody(minter)) as found:
        await found.until_told("connected")
        for zone_id in ZONES:
            found.say(do="subscribe", channel=f"zone:{zone_id}")
        await found.until(lambda: found.count("subscribed") == len(ZONES))
        assert found.count("error", code=111) > 0
        assert found.count("connected") == 1
        assert found.count("unsubscribed") == 0


@limits({"commands_per_s": 1, "commands_burst": 10})
async def test_the_javascript_sdk_does_not_come_back_after_a_flood(
    node: Path, served: NodeProcess, minter: Minter
) -> None:
    """3509, which is final: the application has to be mended, not tried again."""
    async with guest(node, served, anybody(minter)) as found:
        await found.until_told("connected")
        found.say(do="ask", channel=A, times=1_000)
        await found.until_told("disconnected", code=3509)
        assert found.count("connecting") == 1


@limits({"max_connections_per_subject": 1})
async def test_the_javascript_sdk_waits_for_room_among_its_subjects_connections(
    node: Path, served: NodeProcess, minter: Minter
) -> None:
    """Error 111 to `connect`; it tries again, and comes in once another has left."""
    await wait_for_room(node, served, minter, code=111)


@limits({"max_connections": 1}, {"max_connections_per_address": 1})
async def test_the_javascript_sdk_waits_for_room_at_the_node(
    node: Path, served: NodeProcess, minter: Minter
) -> None:
    """503 or 429 at the handshake, which it takes for a transport that closed; as above."""
    await wait_for_room(node, served, minter, code=TRANSPORT_CLOSED)


async def wait_for_room(node: Path, served: NodeProcess, minter: Minter, *, code: int) -> None:
    """Let a second client be refused with a code until the first leaves."""
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(guest(node, served, anybody(minter)))
        await first.until_told("connected")
        second = await stack.enter_async_context(guest(node, served, anybody(minter)))
        await second.until(lambda: second.count("error", code=code) >= 2)
        assert second.count("connected") == second.count("disconnected") == 0
        first.say(do="close")
        await second.until_told("connected")


TRANSPORT_CLOSED = 2
"""The JavaScript SDK's own code."""


class Told(ClientEventHandler):  # type: ignore[misc]  # it ships no types
    """What the Python SDK tells."""

    def __init__(self) -> None:
        self.connected = asyncio.Event()
        self.codes: list[int] = []
        self.errors: asyncio.Queue[Exception] = asyncio.Queue()
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def on_connected(self, ctx: ConnectedContext) -> None:
        """Note it."""
        self.connected.set()

    async def on_disconnected(self, ctx: DisconnectedContext) -> None:
        """Note it."""
        if not self.ended.done():
            self.ended.set_result(ctx.code)

    async def on_error(self, ctx: ErrorContext) -> None:
        """Note it."""
        self.errors.put_nowait(ctx.error)


@asynccontextmanager
async def python_sdk(served: NodeProcess, minter: Minter) -> AsyncIterator[tuple[Any, Told]]:
    """Connect with the Python SDK."""
    told = Told()
    client = Client(
        f"ws://127.0.0.1:{served.port}/connection/websocket",
        events=told,
        token=minter.token(zones=["*"], scope="read"),
        min_reconnect_delay=0.02,
        max_reconnect_delay=0.2,
    )
    await client.connect()
    try:
        yield client, told
    finally:
        await client.disconnect()


async def history_code(client: Any) -> int:
    """Ask; return the code of the error, 0: there was none."""
    try:
        await client.history(A, limit=0)
    except ReplyError as error:
        return int(error.code)
    return 0


@limits({"commands_per_s": 1, "commands_burst": 10})
async def test_the_python_sdk_is_told_of_commands_over_the_rate_and_of_a_flood(
    served: NodeProcess, minter: Minter
) -> None:
    """Each answer by itself; 3509 is final for it, too."""
    async with python_sdk(served, minter) as (client, told):
        await told.connected.wait()
        found = await asyncio.gather(*(history_code(client) for _ in range(20)))
        assert set(found) == {0, 111}
        assert 8 <= found.count(0) <= 11
        flood = [client.history(A, limit=0) for _ in range(1_000)]
        answers = await asyncio.gather(*flood, return_exceptions=True)
        assert all(isinstance(answer, CentrifugeError) for answer in answers[100:])
        assert await told.ended == 3509


@limits({"max_connections_per_subject": 1})
async def test_the_python_sdk_waits_for_room_among_its_subjects_connections(
    served: NodeProcess, minter: Minter
) -> None:
    """Error 111 to `connect`; it tries again, and comes in once another has left."""
    async with AsyncExitStack() as stack:
        async with python_sdk(served, minter) as (_, first):
            await first.connected.wait()
            _, second = await stack.enter_async_context(python_sdk(served, minter))
            for _ in range(2):
                assert "111" in repr(vars(await second.errors.get()))
            assert not second.connected.is_set()
        await second.connected.wait()
