"""The handshake: who is let in, and what everybody else is told."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from websockets.utils import accept_key

from tests.realtime.encodings import ENCODINGS, JSON_LINES, PROTOBUF, Encoding
from tests.realtime.raw_socket import HANDSHAKE, raw_socket
from tests.realtime.wire_world import WireWorld, served

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
GOOD = HANDSHAKE.format(path="/ws", headers="")


async def answer(world: WireWorld, request: str) -> tuple[int, dict[str, str], bytes]:
    """Send a request and return status, headers and, unless it is let in, the body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    try:
        writer.write(request.encode("latin-1"))
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines)
        }
        status = int(first.split()[1])
        return status, headers, b"" if status == 101 else await reader.read()
    finally:
        writer.close()


async def test_a_good_handshake_is_accepted() -> None:
    """With the key's answer, and no extension."""
    async with served() as world:
        offer = "Sec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Protocol: a, b\r\n"
        status, headers, _ = await answer(world, HANDSHAKE.format(path="/ws", headers=offer))
    assert status == 101
    assert headers["sec-websocket-accept"] == accept_key(KEY)
    assert (headers["upgrade"], headers["connection"]) == ("websocket", "Upgrade")
    assert not {"sec-websocket-extensions", "sec-websocket-protocol"} & headers.keys()


@pytest.mark.parametrize(
    ("path", "offered", "echoed", "is_binary"),
    [
        ("/ws", "", None, False),
        ("/ws", "centrifuge-json", "centrifuge-json", False),
        ("/ws", "centrifuge-protobuf", "centrifuge-protobuf", True),
        ("/ws", "x, centrifuge-protobuf,centrifuge-json", "centrifuge-protobuf", True),
        ("/ws", "centrifuge-json, centrifuge-protobuf", "centrifuge-json", False),
        ("/ws", "bearer.eyJ, centrifuge-protobuf", "centrifuge-protobuf", True),
        ("/ws?format=protobuf", "", None, True),
        ("/ws?token=x&cf_protocol=protobuf", "x", None, True),
        ("/ws?format=protobuf", "centrifuge-json", "centrifuge-json", False),
        ("/ws?format=json&x=protobuf", "", None, False),
    ],
)
async def test_the_client_chooses_the_encoding(
    path: str, offered: str, echoed: str | None, *, is_binary: bool
) -> None:
    """By a subprotocol, which is echoed, as browsers want it; or, where none is known, by query."""
    offer = f"Sec-WebSocket-Protocol: {offered}\r\n" if offered else ""
    async with served() as world, raw_socket(world.port) as raw:
        answered = await raw.shake_hands(path, offer)
        lines = dict(line.split(": ") for line in answered.decode().split("\r\n")[1:-2])
        assert lines.get("Sec-WebSocket-Protocol") == echoed
        encoding = PROTOBUF if is_binary else JSON_LINES
        hello = encoding.write([{"id": 1, "connect": {}}])
        raw.say(encoding, hello)
        (reply,) = await raw.hear(encoding)
        assert reply["connect"]["data"] == {"node": "node-1"}


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda encoding: encoding.name)
async def test_a_message_of_the_other_encoding_closes_with_3501(encoding: Encoding) -> None:
    """Its pong, too: whoever sends it has misunderstood something."""
    (other,) = (one for one in ENCODINGS if one is not encoding)
    names = [encoding.subprotocol] if encoding.subprotocol else None
    for said in (other.pong, other.write([{"id": 9, "ping": {}}])):
        async with served() as world, world.talker(subprotocols=names) as talker:
            assert talker.encoding is encoding
            await talker.socket.send(said)
            assert await talker.closing() == (3501, "bad request")


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("/ws", "/other", 404),
        ("/ws", "/ws/", 404),
        ("GET", "POST", 405),
        ("HTTP/1.1", "HTTP/1.0", 505),
        ("Version: 13", "Version: 12", 426),
        ("Sec-WebSocket-Version: 13\r\n", "", 426),
        (KEY, "short", 400),
        (KEY, "not base64 at all!!!!!!!", 400),
        (f"Sec-WebSocket-Key: {KEY}\r\n", "", 400),
        (KEY, f"{KEY}\r\nSec-WebSocket-Key: {KEY}", 400),
        ("Host:", "Content-Length: 3\r\nHost:", 400),
        ("Host:", "X: y\r\n" * 130 + "Host:", 431),
    ],
    ids=[
        *("path", "slash", "method", "version of HTTP", "version", "no version", "short key"),
        *("bad key", "no key", "two keys", "body", "many headers"),
    ],
)
async def test_a_bad_handshake_is_answered_with_why(before: str, after: str, expected: int) -> None:
    """As a problem, and nothing is left of the connection."""
    async with served() as world:
        status, headers, body = await answer(world, GOOD.replace(before, after, 1))
        assert status == expected
        assert headers["content-type"] == "application/problem+json"
        problem = msgspec.json.decode(body)
        assert problem["status"] == expected
        assert problem["detail"]
        assert len(world.node.connections) == 0


async def test_without_an_upgrade_the_path_is_not_there() -> None:
    """HTTP has nothing under the WebSocket's name."""
    async with served() as world:
        plain = "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        assert (await answer(world, plain))[0] == 404
