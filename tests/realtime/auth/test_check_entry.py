"""`zonecast check` says who would be let in, and what is wrong with the keys."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from realtime.check_entry import check_entry
from realtime.settings import load_settings
from tests.realtime.auth.minter import SECRET
from tests.realtime.auth.signing_keys import key_of
from tests.realtime.auth.test_published_keys import Issuer


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    """An issuer that publishes keys of two kinds."""
    found = Issuer([key_of("ES256").jwk("one"), key_of("RS256").jwk("two")])
    found.free.set()
    async with await asyncio.start_server(found.answer, "127.0.0.1", 0) as server:
        found.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/keys"
        yield found


async def findings(**given: object) -> dict[str, tuple[str, str]]:
    """Check as the command does; return verdicts and words by part."""
    found = {
        finding.part: (finding.verdict.value, finding.words)
        async for finding in check_entry(load_settings(**given))
    }
    assert SECRET not in str(found)
    return found


async def test_it_says_who_is_let_in() -> None:
    """This machine alone, everybody, nobody without a token, or not at all."""
    assert (await findings())["entry"][0] == "ok"
    assert (await findings(host="0.0.0.0", insecure=True))["entry"][0] == "warning"  # noqa: S104
    verdict, words = (await findings(host="0.0.0.0"))["entry"]  # noqa: S104 - to be refused
    assert (verdict, "ZONECAST_JWT_SECRET" in words) == ("wrong", True)
    found = await findings(host="0.0.0.0", jwt_secret=SECRET)  # noqa: S104 - with a key
    assert found["entry"] == ("ok", "who has a token is let in")
    assert found["keys"] == ("ok", "keys for HS256 (1)")
    assert found["claims"][0] == "ok"


async def test_it_reads_the_key_file(tmp_path: Path) -> None:
    """And says what it can't use."""
    file = tmp_path / "keys.pem"
    keys = [key_of("ES256"), key_of("RS256")]
    await asyncio.to_thread(file.write_bytes, b"".join(key.public_pem for key in keys))
    given = {"jwt_public_key_file": str(file)}
    found = await findings(**given)
    assert found["keys"] == ("ok", "keys for ES256 (1), RS256 (1)")
    assert found["claims"][0] == "warning"
    named = await findings(**given, jwt_audience="us", jwt_issuer="them")
    assert named["claims"][0] == "ok"
    await asyncio.to_thread(file.write_bytes, keys[0].private_pem)
    verdict, words = (await findings(**given))["keys"]
    assert verdict == "wrong"
    assert "private key" in words
    assert "cannot be read" in (await findings(jwt_public_key_file="none.pem"))["keys"][1]


async def test_it_fetches_the_published_keys(issuer: Issuer) -> None:
    """As a node does, within its bounds."""
    found = await findings(jwks_url=issuer.url)
    assert found["JWK set"] == ("ok", "keys for ES256 (1), RS256 (1)")
    assert "keys" not in found
    for broken in ({"status": 500}, {"status": 200, "body": b"{"}, {"body": b'{"keys": []}'}):
        for name, value in broken.items():
            setattr(issuer, name, value)
        verdict, words = (await findings(jwks_url=issuer.url))["JWK set"]
        assert verdict == "wrong"
        assert words.startswith("cannot be fetched: ")
    issuer.free.clear()
    assert (await findings(jwks_url=issuer.url, jwks_timeout_s=0.1))["JWK set"][0] == "wrong"
    issuer.free.set()
