"""Frames that nobody honest sends: each closes its own connection and takes nothing with it."""

from __future__ import annotations

import asyncio
import struct
import zlib

import pytest

from tests.realtime.raw_socket import RawSocket, raw_socket
from tests.realtime.wire_world import WireWorld, served

MASK = b"\0\0\0\0"
CONNECT = '{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"zone:A"}}'


async def entered(raw: RawSocket) -> None:
    """Come in, and subscribe."""
    await raw.shake_hands()
    raw.write(CONNECT)
    text = ""
    while '"digest"' not in text:
        text += await raw.read_text()


async def assert_serving(world: WireWorld) -> None:
    """Check that the attacker is gone, and others are served."""
    await world.until_alone()
    async with world.talker("zone:A") as talker:
        world.commit((1, "A"))
        assert (await talker.line())["push"]["channel"] == "zone:A"


async def test_a_compressed_bomb_is_not_inflated() -> None:
    """The extension is never taken up, so a compressed frame breaks the protocol."""
    deflater = zlib.compressobj(wbits=-15)
    bomb = deflater.compress(b"{" * 50_000_000) + deflater.flush(zlib.Z_SYNC_FLUSH)
    assert len(bomb) < 200_000
    async with served() as world:
        async with raw_socket(world.port) as raw:
            raw.writer.write(
                b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n"
            )
            head = await raw.reader.readuntil(b"\r\n\r\n")
            assert b" 101 " in head
            assert b"extensions" not in head.lower()
            raw.writer.write(b"\xc1\xff" + struct.pack("!Q", len(bomb)) + MASK + bomb)
            assert (await raw.read_close())[0] == 1002
        await assert_serving(world)


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\x81\x02{}", 1002),
        (b"\x81\xff" + struct.pack("!Q", 2**62) + MASK, 1009),
        (b"\x81\xff" + struct.pack("!Q", 2**63) + MASK, 1009),
        (b"\x81\xff" + struct.pack("!Q", 300_000) + MASK, 1009),
        (b"\x83\x80" + MASK, 1002),
        (b"\x8b\x80" + MASK, 1002),
        (b"\xf1\x80" + MASK, 1002),
        (b"\x80\x80" + MASK, 1002),
        (b"\x09\x80" + MASK, 1002),
        (b"\x89\xfe\x00\x7e" + MASK + b"x" * 126, 1002),
        (b"\x01\x80" + MASK + b"\x81\x80" + MASK, 1002),
        (b"\x88\x81" + MASK + b"x", 1002),
        (b"\x88\x82" + MASK + b"\x03\xed", 1002),
        (b"\x88\x84" + MASK + b"\x03\xe8\xff\xfe", 1007),
        (b"\x81\x82" + MASK + b"\xff\xfe", 1007),
    ],
    ids=[
        "unmasked",
        "exabytes announced",
        "a length with its highest bit",
        "more than a message may have",
        "a reserved opcode",
        "a reserved control opcode",
        "all reserved bits",
        "a continuation of nothing",
        "a ping in fragments",
        "a ping of 126 bytes",
        "a message inside another",
        "a close of one byte",
        "a close with a code that is never sent",
        "a close with a reason that is no text",
        "a text that is no text",
    ],
)
async def test_a_broken_frame_closes_its_connection_only(frame: bytes, code: int) -> None:
    """With the code that the standard has for it, and at once: nothing is waited for."""
    async with served() as world:
        async with raw_socket(world.port) as raw:
            await entered(raw)
            raw.writer.write(frame)
            assert (await raw.read_close())[0] == code
        await assert_serving(world)


async def test_a_flood_of_fragments_is_bounded_like_one_message() -> None:
    """A message in a hundred thousand pieces of three bytes is 1009 when it is too large."""
    async with served(max_message_bytes=100_000) as world:
        async with raw_socket(world.port) as raw:
            await entered(raw)
            piece = b"\x00\x83" + MASK + b"   "
            raw.writer.write(b"\x01\x81" + MASK + b" " + piece * 40_000)
            assert (await raw.read_close())[0] == 1009
        await assert_serving(world)


async def test_a_flood_of_pings_that_nobody_reads_the_pongs_of_takes_no_memory() -> None:
    """Pongs stop where the client has enough to read; others are served meanwhile."""
    async with served(slow_buffer_max_bytes=50_000) as world:
        async with raw_socket(world.port, receive_buffer_bytes=4_096) as raw:
            await entered(raw)
            (session,) = [found for found, _ in world.node.connections.listed()]
            ping = b"\x89\xfd" + MASK + b"p" * 125
            async with world.talker("zone:A") as talker:
                for number in range(200):
                    raw.writer.write(ping * 100)
                    await asyncio.sleep(0)
                    # What a read brings is answered before the limit is looked at again.
                    assert session.queued_bytes < 50_000 + 300_000
                    if number % 50 == 0:
                        world.commit((number + 1, "A"))
                        assert "push" in await talker.line()
        await assert_serving(world)


async def test_whatever_follows_a_close_is_not_listened_to() -> None:
    """Commands behind a close frame do nothing."""
    async with served() as world:
        async with raw_socket(world.port) as raw:
            await entered(raw)
            raw.writer.write(b"\x88\x82" + MASK + b"\x03\xe8")
            for _ in range(1_000):
                raw.write('{"id":9,"subscribe":{"channel":"zone:B"}}')
            assert (await raw.read_close())[0] == 1000
            await world.until_alone()
            assert "zone:B" not in world.node.feed.follower.replicas
        await assert_serving(world)
