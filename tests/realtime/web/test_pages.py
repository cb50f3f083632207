"""What a node serves to browsers: the files, how they are kept, and who may load them."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import httpx
import pytest

from realtime.web.assets import FOLDER

if TYPE_CHECKING:
    from tests.realtime.conftest import LiveNode

SHARED = ("zonecast.js", "zonecast.d.ts")


@pytest.fixture
async def client(live_node: LiveNode) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a node, which asks for what is compressed only where a test does."""
    headers = {"accept-encoding": "identity"}
    async with httpx.AsyncClient(
        base_url=live_node.url, headers=headers, trust_env=False
    ) as client:
        yield client


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """The files as they are."""
    return {path.name: path.read_bytes() for path in FOLDER.iterdir()}


@pytest.mark.parametrize("name", SHARED)
async def test_the_module_is_for_pages_of_all_origins(
    client: httpx.AsyncClient, files: dict[str, bytes], name: str
) -> None:
    """It holds no data; what it then asks for is judged by the list of origins."""
    answer = await client.get(f"/{name}", headers={"origin": "https://elsewhere.example"})
    assert answer.status_code == 200
    assert answer.content == files[name]
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-credentials" not in answer.headers


async def test_files_are_kept_and_asked_for_again(client: httpx.AsyncClient) -> None:
    """So that a new release is seen at once, and an old one costs nothing."""
    first = await client.get("/zonecast.js")
    assert first.headers["cache-control"] == "no-cache"
    assert first.headers["content-type"] == "text/javascript; charset=utf-8"
    known = {"if-none-match": first.headers["etag"]}
    again = await client.get("/zonecast.js", headers=known)
    assert (again.status_code, again.content) == (304, b"")
    packed = await client.get("/zonecast.js", headers={**known, "accept-encoding": "gzip"})
    assert packed.status_code == 200
    assert packed.headers["etag"] != first.headers["etag"]


async def test_files_are_compressed_for_who_takes_that(
    client: httpx.AsyncClient, files: dict[str, bytes]
) -> None:
    """And for nobody else."""
    plain = await client.get("/zonecast.js")
    assert "content-encoding" not in plain.headers
    async with client.stream(
        "GET", "/zonecast.js", headers={"accept-encoding": "br, gzip"}
    ) as answer:
        raw = b"".join([part async for part in answer.aiter_raw()])
    assert answer.headers["vary"] == "Accept-Encoding"
    assert len(raw) < len(plain.content) / 2
    assert gzip.decompress(raw) == files["zonecast.js"]
