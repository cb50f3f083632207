"""Transfers answered before a route is looked for: the same answers, to the same requests."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import httpx

    from tests.realtime.api.conftest import Api, StartApi

JSON = {"Content-Type": "application/json"}
BY_ROUTE = "?by=route"
"""A query sends a request by the route, which takes none."""


def _shape(response: httpx.Response) -> dict[str, Any]:
    """What is the same in two answers about two users, or about one and the same failure."""
    headers = {name: value for name, value in response.headers.items() if name != "date"}
    positions = headers.pop("zonecast-positions", "")
    body = response.json()
    return {
        "status": response.status_code,
        "headers": headers,
        "channels": [part.split("=")[0] for part in positions.split(", ")],
        "body": {**body, "id": 0, "global_id": 0, "name": ""} if "id" in body else body,
    }


async def test_a_transfer_is_answered_as_by_the_route(start_api: StartApi) -> None:
    """Into a zone, into none, and to where the user is; and it is counted for the route."""
    async with start_api() as (api, _live):
        await api.make_zones("A", "B")
        plain, routed = await api.make_user(1, "A"), await api.make_user(2, "A")
        for zone_id in ("B", "B", None, "A"):
            body = {"zone_id": zone_id}
            first = await api.post(f"/users/{plain['id']}/transfer", json=body)
            second = await api.post(f"/users/{routed['id']}/transfer{BY_ROUTE}", json=body)
            assert first.status_code == 200
            assert _shape(first) == _shape(second)
        counted = (await api.get("/metrics")).text
        line = 'http_requests_total{method="POST",route="/users/{user_id}/transfer",status="200"} 8'
        assert line in counted


BAD_BODIES = [
    b"",
    b"{",
    b"null",
    b"[]",
    b"{}",
    b'{"zone_id":7}',
    b'{"zone_id":"a b"}',
    b'{"zone_id":"A\\n"}',
    b'{"zone_id":""}',
    b'{"zone_id":"nowhere"}',
    b'{"zone_id":"B","when":"now"}',
    b'{"zone_id":"\xff"}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("body", BAD_BODIES, ids=[repr(body[:30]) for body in BAD_BODIES])
async def test_a_body_that_is_not_valid_is_refused_as_by_the_route(api: Api, body: bytes) -> None:
    """With the same problem, in the same words; nobody has moved."""
    await api.make_zones("A", "B")
    user = await api.make_user(1, "A")
    path = f"/users/{user['id']}/transfer"
    plain = await api.post(path, content=body, headers=JSON)
    routed = await api.post(path + BY_ROUTE, content=body, headers=JSON)
    assert plain.status_code >= 400
    assert _shape(plain) == _shape(routed)
    assert (await api.get(f"/users/{user['id']}")).json() == user


@pytest.mark.parametrize("user_id", ["9", "0", "-1", "x", "1.0", "9007199254740992", "٣"])
async def test_a_user_that_can_not_be_is_refused_as_by_the_route(api: Api, user_id: str) -> None:
    """Not there, no id, or no number."""
    await api.make_zones("B")
    path = f"/users/{user_id}/transfer"
    plain = await api.post(path, json={"zone_id": "B"})
    routed = await api.post(path + BY_ROUTE, json={"zone_id": "B"})
    assert plain.status_code in {404, 422}
    assert _shape(plain) == _shape(routed)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/plain"}, 415),
        ({**JSON, "Content-Encoding": "gzip"}, 415),
        ({"Content-Type": "application/json; charset=utf-8"}, 200),
        ({"Content-Type": "application/vnd.zonecast+json"}, 200),
    ],
)
async def test_headers_mean_what_they_mean_to_the_route(
    api: Api, headers: dict[str, str], status: int
) -> None:
    """What is sent in an unusual way is read by the route."""
    await api.make_zones("B")
    user = await api.make_user(1)
    path = f"/users/{user['id']}/transfer"
    answered = await api.post(path, content=b'{"zone_id":"B"}', headers=headers)
    assert answered.status_code == status


async def test_a_body_in_parts_is_put_together(api: Api) -> None:
    """However it is cut: what was received already is not lost on the way to the route."""
    await api.make_zones("B")
    user = await api.make_user(1)
    _, _, address = str(api.client.base_url).partition("://")
    host, _, port = address.strip("/").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /users/{user['id']}/transfer HTTP/1.1\r\nHost: {host}\r\n"
    head += "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    writer.write(head.encode() + b'5\r\n{"zon\r\n')
    await writer.drain()
    # Answered only by a node that has read the first part by then.
    await api.get("/healthz")
    writer.write(b'a\r\ne_id":"B"}\r\n0\r\n\r\n')
    async with asyncio.timeout(10):
        answer = await reader.readuntil(b'"version":2}')
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b'"zone_id":"B"' in answer
    writer.close()
    await writer.wait_closed()


async def test_a_body_that_never_comes_is_given_up(start_api: StartApi) -> None:
    """408, as by the route."""
    async with start_api(request_timeout_s=0.2) as (api, _live):
        _, _, address = str(api.client.base_url).partition("://")
        host, _, port = address.strip("/").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = f"POST /users/1/transfer HTTP/1.1\r\nHost: {host}\r\n"
        writer.write(f"{head}Content-Type: application/json\r\nContent-Length: 9\r\n\r\n".encode())
        async with asyncio.timeout(10):
            answer = await reader.readuntil(b"}")
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"/problems/slow-request" in answer
        writer.close()
        await writer.wait_closed()
