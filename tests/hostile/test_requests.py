"""HTTP requests meant to do harm: each is answered with a problem, and costs nobody else."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from urllib.parse import quote

import httpx
import pytest

from tests.realtime.conftest import LiveNode, serving, settings_of_test

JSON = {"content-type": "application/json"}


@pytest.fixture
async def node(sqlite_url: str) -> AsyncIterator[LiveNode]:
    """A node that takes small bodies."""
    settings = settings_of_test(database_url=sqlite_url, max_body_bytes=100_000)
    async with serving(settings) as live:
        yield live


@pytest.fixture
async def client(node: LiveNode) -> AsyncIterator[httpx.AsyncClient]:
    """A client of it."""
    async with httpx.AsyncClient(base_url=node.url, trust_env=False, timeout=20) as found:
        yield found


async def raw(node: LiveNode, request: bytes) -> bytes:
    """Send bytes, and return what comes until the node closes, or all of the first answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(node.url.rpartition(":")[2]))
    writer.write(request)
    async with asyncio.timeout(20):
        head = await reader.readuntil(b"\r\n\r\n")
    writer.transport.abort()
    return head


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, gzip", "GZIP"])
async def test_a_compressed_bomb_is_refused_unopened(
    client: httpx.AsyncClient, encoding: str
) -> None:
    """No body is ever decompressed: 415."""
    bomb = gzip.compress(b" " * 50_000_000)
    assert len(bomb) < 100_000
    answer = await client.post(
        "/zones", content=bomb, headers={**JSON, "content-encoding": encoding}
    )
    assert answer.status_code == 415


@pytest.mark.parametrize("path", ["/zones", "/users", "/users/1/transfer", "/session", "/nothing"])
async def test_a_body_over_the_limit_is_refused(client: httpx.AsyncClient, path: str) -> None:
    """Whether it says so before, or is sent in chunks without end."""
    declared = await client.post(path, content=b" " * 200_000, headers=JSON)

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(200):
            yield b" " * 10_000

    try:
        endless = (await client.post(path, content=chunks(), headers=JSON)).status_code
    except httpx.WriteError:
        endless = 413  # It was closed while more was sent.
    assert declared.status_code == 413
    assert endless in {413, 404}


@pytest.mark.parametrize(
    "body",
    [
        "[" * 50_000,
        "[" * 40_000 + "]" * 40_000,
        '{"zone_id":' * 8_000 + "1" + "}" * 8_000,
        '{"zone_id":"A","name":"A","attributes":' + '{"a":' * 9_000 + "1" + "}" * 9_001,
        '{"zone_id":"A","name":1e999}',
        '{"zone_id":"A","name":NaN}',
        '{"zone_id":"\\ud800","name":"x"}',
        '{"zone_id":"A","zone_id":"B","name":["x"]}',
        "\x00",
        "",
    ],
    ids=lambda body: ascii(body[:40]),
)
async def test_json_meant_to_break_the_parser_is_a_problem(
    client: httpx.AsyncClient, body: str
) -> None:
    """400 or 422, never a fault."""
    answer = await client.post("/zones", content=body.encode(), headers=JSON)
    assert answer.status_code in {400, 422}
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(answer.content) < 20_000


NAMES = [
    "../../etc/passwd",
    "..",
    ".",
    "A/B",
    "A\\B",
    "A\x00B",
    "\x00",
    "A\r\nSet-Cookie: x=1",
    "\x1b[31m",
    "\u202e",
    "x" * 5_000,
    "'; DROP TABLE zones; --",
    "%00",
    "{{7*7}}",
    "${jndi:ldap://x}",
]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:30])
async def test_ids_that_no_zone_can_have_are_not_there(
    client: httpx.AsyncClient, name: str
) -> None:
    """In paths, queries and bodies; none gets into a header of the answer."""
    path = quote(name, safe="")
    answers = [
        await client.get(f"/zones/{path}"),
        await client.get(f"/zones/{path}/snapshot"),
        await client.delete(f"/zones/{path}"),
        await client.get("/users", params={"zone_id": name}),
        await client.get(f"/users/{path}"),
        await client.get("/sse", params={"zone": name}),
        await client.post("/zones", json={"zone_id": name, "name": "x"}),
        await client.get(f"/docs/assets/{path}"),
    ]
    for answer in answers:
        # `.` names a zone as well as any other, and `..` is the client's own way up.
        assert answer.status_code in (
            {404, 405, 422} if name not in {".", ".."} else set(range(200, 500))
        )
        assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "name",
    ["x" * 90_000, "x" * 200, "A\x00B", "\x1b[31mred", "a\r\nb", "\U0001f600" * 100],
    ids=lambda name: ascii(name[:12]),
)
async def test_names_of_a_megabyte_and_of_control_characters_are_stored_whole_or_not_at_all(
    client: httpx.AsyncClient, name: str
) -> None:
    """What is taken is given back as it was; what is not is a problem."""
    made = await client.post("/users", json={"global_id": 1, "name": name})
    assert made.status_code in {201, 422}
    if made.status_code == 201:
        assert (await client.get(f"/users/{made.json()['id']}")).json()["name"] == name
    huge = json.dumps({"global_id": 2, "name": "x" * 1_000_000})
    assert (await client.post("/users", content=huge, headers=JSON)).status_code == 413


async def test_a_flood_of_headers_is_refused(node: LiveNode) -> None:
    """Over 64 KiB it is 431; a thousand small ones are read and mean nothing."""
    many = b"".join(b"X-%d: y\r\n" % number for number in range(1_000))
    head = await raw(node, b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + many + b"\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    large = b"".join(b"X-%d: %s\r\n" % (number, b"y" * 1_000) for number in range(1_000))
    head = await raw(node, b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + large)
    assert head.startswith(b"HTTP/1.1 431 ")


POST = b"POST /zones HTTP/1.1\r\nHost: x\r\n"
AMBIGUOUS = {
    "smuggled": POST
    + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    + b"GET /admin/connections HTTP/1.1\r\nHost: x\r\n\r\n",
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "a negative length": POST + b"Content-Length: -1\r\n\r\n",
    "a vast length": POST + b"Content-Length: 99999999999999999999999\r\n\r\n",
    "no chunk size": POST + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n",
    "a NUL in the path": b"GET /healthz\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
    "an unknown version": b"GET /healthz HTTP/9.9\r\nHost: x\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


@pytest.mark.parametrize("attack", AMBIGUOUS)
async def test_requests_that_can_be_read_in_two_ways_are_refused(
    node: LiveNode, attack: str
) -> None:
    """With 400 or a problem, and the connection ends: nothing behind them is a request."""
    head = await raw(node, AMBIGUOUS[attack])
    status = int(head.split(b" ", 2)[1])
    assert 400 <= status < 500
