"""Watchers of one zone in both encodings: the same revisions, and each encoded once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest

from channels.changes import Change
from realtime.websocket.centrifuge_codec import CentrifugeCodec
from realtime.websocket.json_codec import CentrifugeJsonCodec
from realtime.websocket.protobuf_codec import CentrifugeProtobufCodec
from realtime.websocket.session import ProtobufSession, Session
from tests.realtime.encodings import ENCODINGS, JSON_LINES, PROTOBUF, Json
from tests.realtime.raw_socket import raw_socket
from tests.realtime.wire_world import Talker, served

SMALL_BUFFER_BYTES = 4_096


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> Counter[type[CentrifugeCodec]]:
    """Count the frames that each codec makes of changes."""
    counts: Counter[type[CentrifugeCodec]] = Counter()

    def counted(kind: type[CentrifugeCodec]) -> None:
        encode = kind.encode

        def count(codec: CentrifugeCodec, changes: Sequence[Change]) -> bytes:
            counts[kind] += 1
            return encode(codec, changes)

        monkeypatch.setattr(kind, "encode", count)

    for kind in (CentrifugeJsonCodec, CentrifugeProtobufCodec):
        counted(kind)
    return counts


async def pushes(talker: Talker) -> list[Json]:
    """Return the publications of the next message."""
    return [line["push"] for line in await talker.message()]


async def test_watchers_of_both_kinds_see_the_same(
    encoded: Counter[type[CentrifugeCodec]],
) -> None:
    """A move over two zones is one message for each, made once for each encoding."""
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(served())
        world.commit((1, "A"))
        talkers = [
            await stack.enter_async_context(
                world.talker("zone:A", "zone:B", subprotocols=_offer(number))
            )
            for number in range(6)
        ]
        assert {talker.encoding for talker in talkers} == set(ENCODINGS)
        encoded.clear()
        for zone_id in "BAB":
            tx = world.commit((1, zone_id))
            told = [await pushes(talker) for talker in talkers]
            assert all(message == told[0] for message in told)
            assert {push["channel"] for push in told[0]} == {"zone:A", "zone:B"}
            assert {push["pub"]["data"]["tx"] for push in told[0]} == {tx}
        assert encoded == {CentrifugeJsonCodec: 3, CentrifugeProtobufCodec: 3}


def _offer(number: int) -> list[str] | None:
    return ["centrifuge-protobuf"] if number % 2 else None


@pytest.mark.parametrize(
    ("encoding", "other"),
    [(JSON_LINES, CentrifugeProtobufCodec), (PROTOBUF, CentrifugeJsonCodec)],
    ids=["json", "protobuf"],
)
async def test_an_encoding_that_nobody_speaks_costs_nothing(
    encoded: Counter[type[CentrifugeCodec]], encoding: Any, other: type[CentrifugeCodec]
) -> None:
    """No frame is made for it, though somebody of it was there before."""
    names = [encoding.subprotocol] if encoding.subprotocol else None
    others = None if names else ["centrifuge-protobuf"]
    async with served() as world, world.talker("zone:A", subprotocols=names) as talker:
        async with world.talker("zone:A", subprotocols=others):
            pass
        while len(world.node.connections) > 1:  # noqa: ASYNC110 - it has no event.
            await asyncio.sleep(0.005)
        encoded.clear()
        for number in range(1, 6):
            world.commit((number, "A"))
            await talker.message()
        assert encoded[other] == 0
        assert sum(encoded.values()) == 5


def test_a_session_of_protobuf_is_as_small_as_any() -> None:
    """What it speaks is known by its class."""
    assert ProtobufSession.__slots__ == ()
    assert ProtobufSession.__basicsize__ == Session.__basicsize__


async def test_a_slow_reader_in_protobuf_is_brought_up_to_date() -> None:
    """What it missed comes as ordinary pushes of one binary message, none twice, none missing."""
    async with (
        served(slow_buffer_max_bytes=50_000) as world,
        raw_socket(world.port, receive_buffer_bytes=SMALL_BUFFER_BYTES) as raw,
    ):
        await raw.shake_hands("/ws", PROTOBUF.offer)
        hello = [{"id": 1, "connect": {}}, {"id": 2, "subscribe": {"channel": "zone:A"}}]
        raw.say(PROTOBUF, PROTOBUF.write(hello))
        subscribed = False
        while not subscribed:
            subscribed = any("subscribe" in reply for reply in await raw.hear(PROTOBUF))
        commits = 0
        while not world.node.feed.slow_count:
            commits += 1
            world.commit(*((user, "BA"[commits % 2]) for user in range(1, 400)))
            await asyncio.sleep(0)
        for number in range(10):
            commits += 1
            world.commit((number + 1_000, "A"))
            await asyncio.sleep(0)
        revs: list[int] = []
        last: list[int] = []
        while len(revs) < commits:
            last = [
                reply["push"]["pub"]["offset"]
                for reply in await raw.hear(PROTOBUF)
                if "push" in reply
            ]
            revs += last
        assert revs == list(range(1, commits + 1))
        assert len(last) >= 10
        assert not world.node.feed.slow_count
