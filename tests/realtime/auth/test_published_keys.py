"""Published keys: fetched, renewed, shared, and kept on while their URL is down."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from channels.ports import UnavailableError
from realtime.auth.jwks import JwksConfig, PublishedKeys
from tests.realtime.auth.signing_keys import key_of, secret_jwk


@dataclass
class Issuer:
    """A server that publishes keys on a loopback port.

    Attributes:
        keys: What it publishes.
        status: How it answers.
        body: What it says instead of the keys.
        requests: How often it was asked.
        free: Cleared, it lets who asks wait.
        asked: Set when somebody asks.
    """

    keys: list[dict[str, Any]] = field(default_factory=list)
    status: int = 200
    body: bytes | None = None
    requests: int = 0
    url: str = ""
    free: asyncio.Event = field(default_factory=asyncio.Event)
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.requests += 1
        self.asked.set()
        await self.free.wait()
        body = self.body if self.body is not None else json.dumps({"keys": self.keys}).encode()
        head = f"HTTP/1.1 {self.status} x\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
        writer.write(head.encode() + b"location: http://127.0.0.1:1/\r\n\r\n" + body)
        writer.close()


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    """An issuer that publishes one key."""
    found = Issuer([key_of("ES256").jwk("one")])
    found.free.set()
    async with await asyncio.start_server(found.answer, "127.0.0.1", 0) as server:
        found.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/keys"
        yield found


@asynccontextmanager
async def published(
    issuer: Issuer, clock: Callable[[], float], **changed: Any
) -> AsyncIterator[PublishedKeys]:
    given = {
        "refresh_s": 60,
        "refetch_min_s": 10,
        "max_age_s": 1_000,
        "timeout_s": 5,
        "max_bytes": 10_000,
        **changed,
    }
    async with httpx.AsyncClient(verify=False) as client:  # noqa: S501 - loopback without TLS
        found = PublishedKeys(JwksConfig(issuer.url, **given), client, clock)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(found.run())
            await found.wait_tried()
            yield found
            running.cancel()


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def ids(found: PublishedKeys) -> list[str]:
    return [key.key_id for key in found.keys]


async def test_a_new_key_is_fetched_by_the_token_that_names_it(issuer: Issuer) -> None:
    """Rotation needs no restart and no waiting for the next refresh."""
    clock = Clock()
    async with published(issuer, clock) as found:
        assert ids(found) == ["one"]
        issuer.keys.append(key_of("EdDSA").jwk("two"))
        clock.now_s += 11
        assert await found.fetch("two")
        assert ids(found) == ["one", "two"]
        assert issuer.requests == 2


async def test_all_who_miss_a_key_wait_for_one_fetch(issuer: Issuer) -> None:
    """A hundred tokens at once are one request, those that come during it included."""
    clock = Clock()
    async with published(issuer, clock) as found:
        issuer.keys.append(key_of("EdDSA").jwk("two"))
        clock.now_s += 11
        issuer.free.clear()
        issuer.asked.clear()
        async with asyncio.TaskGroup() as tasks:
            waiting = [tasks.create_task(found.fetch("two")) for _ in range(50)]
            await issuer.asked.wait()
            waiting += [tasks.create_task(found.fetch("two")) for _ in range(50)]
            await asyncio.sleep(0)
            issuer.free.set()
        assert all(task.result() for task in waiting)
        assert issuer.requests == 2


async def test_unknown_keys_don_t_make_a_node_ask_again_and_again(issuer: Issuer) -> None:
    """Anybody can make up key ids: right after a fetch they are answered from what is known."""
    clock = Clock()
    async with published(issuer, clock) as found:
        for number in range(20):
            assert not await found.fetch(f"made up {number}")
        assert issuer.requests == 1


async def test_keys_outlive_the_url_but_not_for_ever(issuer: Issuer) -> None:
    """While it is down the keys are good, up to their bound; then nobody is let in."""
    clock = Clock()
    async with published(issuer, clock) as found:
        issuer.status = 500
        clock.now_s += 500
        assert not await found.fetch("two")
        assert issuer.requests == 2
        assert ids(found) == ["one"]
        clock.now_s += 501
        assert ids(found) == []
        assert not found.is_ready
        with pytest.raises(UnavailableError, match="token keys"):
            await found.fetch("one")


async def test_a_start_without_the_url_gets_the_keys_when_it_comes(issuer: Issuer) -> None:
    """It is tried again by itself."""
    issuer.status = 503
    async with published(issuer, Clock(), refresh_s=0.05) as found:
        assert not found.is_ready
        issuer.status = 200
        while not found.is_ready:
            issuer.asked.clear()
            await issuer.asked.wait()
            await asyncio.sleep(0)
        assert ids(found) == ["one"]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"not json"),
        (200, b"[]"),
        (200, b'{"keys": 7}'),
        (200, b'{"keys": []}'),
        (200, b'{"keys": [{"kty": "RSA"}, 7, {"kty": "EC", "crv": "x"}]}'),
        (200, b"[" * 9_000),
        (200, b" " * 20_000),
        (302, b""),
        (404, b"{}"),
    ],
)
async def test_what_is_no_key_set_leaves_the_keys_as_they_are(
    issuer: Issuer, status: int, body: bytes
) -> None:
    """A page of errors, a redirect or a bomb in its place costs nobody their entry."""
    clock = Clock()
    async with published(issuer, clock) as found:
        issuer.status, issuer.body = status, body
        clock.now_s += 11
        assert not await found.fetch("two")
        assert ids(found) == ["one"]


async def test_keys_that_are_not_for_tokens_are_left_out(issuer: Issuer) -> None:
    """Symmetric ones above all: published, they are no secret."""
    good = key_of("RS256").jwk("good")
    issuer.keys = [
        secret_jwk(b"x" * 32, "secret"),
        key_of("ES256").jwk("for encryption", use="enc"),
        key_of("ES256").jwk("of another algorithm", alg="ES512"),
        {**key_of("ES256").jwk("x"), "kid": "x" * 300},
        {**good, "kid": "small", "n": "AQAB"},
        good,
    ]
    async with published(issuer, Clock()) as found:
        assert ids(found) == ["good"]
        assert [key.algorithm for key in found.keys] == ["RS256"]
