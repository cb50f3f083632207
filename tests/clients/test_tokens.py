"""The official JavaScript SDK with tokens: it gets them, renews them, and takes a no for one."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.clients.screens import running_program
from tests.nodes import NodeProcess, running_nodes
from tests.realtime.auth.minter import Minter

Json = dict[str, Any]
TokenFor = Callable[[str | None], str | None]
"""Makes the token that the SDK asks for, of a channel or of the connection; `None`: no answer."""

A, B = "zone:A", "zone:B"
GRACE_S = 2.0


class Guest:
    """The SDK in a process of its own.

    Attributes:
        events: All that it told.
        asked: The channels for which it asked for tokens, `None` for the connection.
        encoding: What the SDK of the present test speaks.
    """

    encoding = "json"

    def __init__(self, process: asyncio.subprocess.Process, token_for: TokenFor) -> None:
        self._process = process
        self._token_for = token_for
        self._told = asyncio.Event()
        self.events: list[Json] = []
        self.asked: list[str | None] = []

    def say(self, **command: Any) -> None:
        """Send a command."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")

    async def listen(self) -> None:
        """Take what the process says until it ends, and give it the tokens that it asks for."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            message = json.loads(line)
            if message["event"] == "token":
                token = self._token_for(message["channel"])
                if token is not None:
                    self.say(do="token", id=message["id"], token=token)
                self.asked.append(message["channel"])
            else:
                self.events.append(message)
            self._told.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait, bounded by the test's own timeout, until something holds of what was told."""
        while not condition():
            self._told.clear()
            await self._told.wait()

    def count(self, event: str, **fields: Any) -> int:
        """Return how often something was told."""
        wanted = {"event": event, **fields}
        return sum(wanted.items() <= found.items() for found in self.events)

    async def until_told(self, event: str, **fields: Any) -> None:
        """Wait until something was told."""
        await self.until(lambda: self.count(event, **fields) > 0)


@asynccontextmanager
async def guest(
    node: Path, served: NodeProcess, token_for: TokenFor, token: str = ""
) -> AsyncIterator[Guest]:
    """Connect with the SDK."""
    async with asyncio.TaskGroup() as tasks, running_program(node, "sdk_guest.mjs") as process:
        found = Guest(process, token_for)
        tasks.create_task(found.listen())
        url = f"ws://127.0.0.1:{served.port}/connection/websocket"
        found.say(do="connect", url=url, token=token, encoding=Guest.encoding)
        yield found


@pytest.fixture(params=["json", "protobuf"], autouse=True)
def _each_encoding(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Guest, "encoding", request.param)


@pytest.fixture
def minter() -> Minter:
    """Makes tokens."""
    return Minter()


@pytest.fixture
async def served(sqlite_url: str, tmp_path: Path, minter: Minter) -> AsyncIterator[NodeProcess]:
    """A node that takes them, with two zones."""
    settings = {
        **minter.settings(),
        "database_url": sqlite_url,
        "jwt_leeway_s": 0,
        "token_grace_s": GRACE_S,
    }
    async with running_nodes(tmp_path, 1, settings) as [node]:
        for zone_id in ("A", "B"):
            await ask(node, minter, "POST", "/zones", {"zone_id": zone_id, "name": "x"})
        yield node


async def ask(served: NodeProcess, minter: Minter, method: str, path: str, body: Json) -> None:
    headers = minter.header(sub="root", zones=["*"], scope="write admin")
    async with httpx.AsyncClient(base_url=served.url, timeout=60, verify=False) as client:  # noqa: S501 - loopback
        answer = await client.request(method, path, json=body, headers=headers)
    assert answer.is_success, answer.text


def tokens(minter: Minter, life_s: float = 600, **grants: Any) -> TokenFor:
    """Make tokens of all kinds that live so long."""

    def token_for(channel: str | None) -> str:
        ends = {"exp": time.time() + life_s}
        if channel is None:
            return minter.token(**{"zones": ["A"], "scope": "read", **ends, **grants})
        return minter.token(channel=channel, **ends)

    return token_for


async def test_tokens_are_renewed_without_a_break(
    node: Path, served: NodeProcess, minter: Minter
) -> None:
    """The connection's and a subscription's, far past their ends: nothing is made anew."""
    async with guest(node, served, tokens(minter, life_s=2)) as found:
        found.say(do="subscribe", channel=A)
        found.say(do="subscribe", channel=B, ownToken=True)
        await found.until(lambda: min(found.asked.count(None), found.asked.count(B)) >= 4)
        for zone_id in ("A", "B"):
            await ask(served, minter, "PATCH", f"/zones/{zone_id}", {"name": "new"})
            await found.until_told("publication", channel=f"zone:{zone_id}")
        assert found.count("connected") == 1
        assert found.count("subscribed", channel=A) == 1
        assert found.count("subscribed", channel=B) == 1


async def test_a_token_that_has_ended_is_replaced_by_a_new_one(
    node: Path, served: NodeProcess, minter: Minter
) -> None:
    """On 109 the SDK asks for one, and is let in."""
    ended = minter.token(scope="read", exp=int(time.time()) - 60)
    async with guest(node, served, tokens(minter), ended) as found:
        await found.until_told("connected")
        assert found.asked == [None]
        assert found.count("error", code=109) == 1


def forgetful(minter: Minter, withheld: str | None) -> TokenFor:
    """Make tokens: short ones, then none for what is withheld, then long ones."""
    short, long = tokens(minter, life_s=1), tokens(minter)
    asked: list[str | None] = []

    def token_for(channel: str | None) -> str | None:
        asked.append(channel)
        if channel != withheld:
            return long(channel)
        times = asked.count(channel)
        return None if times == 2 else (short if times == 1 else long)(channel)

    return token_for


async def test_a_connection_that_is_not_renewed_in_time_comes_back_and_resumes(
    node: Path, served: NodeProcess, minter: Minter
) -> None:
    """On 3005 the SDK gets another token, and misses nothing."""
    async with guest(node, served, forgetful(minter, None)) as found:
        found.say(do="subscribe", channel=A)
        await found.until_told("connecting", code=3005)
        await found.until(lambda: found.count("connected") == 2)
        await found.until_told("subscribed", channel=A, recovered=True)


async def test_a_subscription_that_is_not_renewed_in_time_is_made_anew(
    node: Path, served: NodeProcess, minter: Minter
) -> None:
    """On 2501, with a token that the SDK gets on 109; the connection goes on."""
    async with guest(node, served, forgetful(minter, B)) as found:
        found.say(do="subscribe", channel=B, ownToken=True)
        await found.until_told("subscribing", channel=B, code=2501)
        await found.until_told("subscribed", channel=B, recovered=True)
        assert found.count("connected") == 1


async def test_a_no_is_taken_for_one(node: Path, served: NodeProcess, minter: Minter) -> None:
    """Neither a channel that isn't granted nor a token that isn't good is asked for again."""
    async with guest(node, served, tokens(minter)) as found:
        found.say(do="subscribe", channel=B)
        await found.until_told("unsubscribed", channel=B, code=103)
        found.say(do="subscribe", channel=A)
        await found.until_told("subscribed", channel=A)
    async with guest(node, served, lambda _: "nonsense") as found:
        await found.until_told("disconnected", code=3500)


async def test_what_is_revoked_stays_away(node: Path, served: NodeProcess, minter: Minter) -> None:
    """A channel is left for good; a subject whose every token was taken gives up."""
    issued_s = int(time.time()) - 60
    async with guest(node, served, tokens(minter, zones=["A", "B"], iat=issued_s)) as found:
        for channel in (A, B):
            found.say(do="subscribe", channel=channel)
            await found.until_told("subscribed", channel=channel)
        await ask(served, minter, "POST", "/admin/revoke", {"sub": "ada", "zones": ["A"]})
        await found.until_told("unsubscribed", channel=A, code=2001)
        assert found.count("connected") == 1
        await ask(served, minter, "POST", "/admin/revoke", {"sub": "ada"})
        await found.until_told("disconnected", code=3500)
