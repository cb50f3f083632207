"""What a node serves to browsers: the files, how they are kept, and who may load them."""

from __future__ import annotations

import gzip
import re
import time
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


async def test_the_dashboard_may_load_nothing_foreign_and_stand_in_no_frame(
    client: httpx.AsyncClient,
) -> None:
    """Whatever a name or an attribute holds, the browser runs and fetches none of it."""
    answer = await client.get("/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(
        part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; ")
    )
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "connect-src")} == {"'self'"}
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-frame-options"] == "DENY"
    assert "access-control-allow-origin" not in answer.headers


async def test_all_that_the_dashboard_needs_is_there(
    client: httpx.AsyncClient, files: dict[str, bytes]
) -> None:
    """Files name each other, and each of them is served; no other is."""
    named = set()
    for name, body in files.items():
        if not name.startswith("zonecast"):
            named |= set(
                re.findall(r"""["'](?:dashboard|\.)/([a-z-]+\.[a-z]+)["']""", body.decode())
            )
    assert named == {name for name in files if not name.startswith(("zonecast", "index"))}
    for name in named:
        answer = await client.get(f"/dashboard/{name}")
        assert answer.content == files[name]
    for name in ("index.html", "zonecast.js", "..%2fassets.py", "nothing.js"):
        assert (await client.get(f"/dashboard/{name}")).status_code == 404


async def test_nothing_names_a_foreign_address(files: dict[str, bytes]) -> None:
    """No asset is fetched from elsewhere; names of formats and examples are no addresses."""
    for name, body in files.items():
        found = set(re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]+", body.decode()))
        assert found <= {"http://www.w3.org", "https://zonecast.example"}, name


async def test_the_clock_tells_the_time_of_the_node(client: httpx.AsyncClient) -> None:
    """To the millisecond, and never from a cache."""
    before_ms = time.time() * 1000
    answer = await client.get("/clock")
    assert before_ms <= answer.json()["unix_ms"] <= time.time() * 1000
    assert answer.headers["cache-control"] == "no-store"
