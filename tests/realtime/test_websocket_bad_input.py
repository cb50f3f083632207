"""Bad input: each is answered, bounded or cut, and what was there before is untouched."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode

from tests.realtime.raw_socket import raw_socket
from tests.realtime.wire_world import Talker, WireWorld, served, until

BAD_REQUEST = (3501, "bad request")


async def assert_alive(world: WireWorld, talker: Talker) -> None:
    """A neighbour that watches zone A still gets what happens there."""
    tx = world.commit((900, "A"))
    assert (await talker.line())["push"]["pub"]["data"]["tx"] == tx


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "hello",
        "[]",
        '{"id":1,"connect":{}}\n{"id":',
        '{"connect":{}}',
        '{"id":1,"subscribe":{"channel":"zone:A"}}',
        '{"id":1,"ping":{}}',
        '{"id":1,"dance":{}}',
        '{"id":1,"connect":{}}\n{"id":2,"connect":{}}',
    ],
    ids=[
        "cut off",
        "no JSON",
        "no object",
        "second line cut off",
        "no id",
        "subscribe before connect",
        "ping before connect",
        "unknown command before connect",
        "connect twice",
    ],
)
async def test_what_breaks_the_protocol_closes_with_3501(text: str) -> None:
    """Only this connection ends, with a code on which SDKs don't come back."""
    async with served() as world, world.talker("zone:A") as neighbour, world.dial() as talker:
        await talker.socket.send(text)
        assert await talker.closing() == BAD_REQUEST
        await assert_alive(world, neighbour)


async def test_text_that_is_no_utf8_closes_with_1007() -> None:
    """The WebSocket protocol has its own code for that."""
    async with served() as world, raw_socket(world.port) as raw:
        await raw.shake_hands()
        raw.write_frame(Frame(Opcode.TEXT, b'{"id":1,"connect":{"name":"\xff"}}'))
        assert (await raw.read_close())[0] == 1007


@pytest.mark.parametrize("size", [1_025, 400_000])
async def test_a_frame_over_the_limit_closes_with_1009(size: int) -> None:
    """The peer gets the close frame even while it is still sending."""
    async with served(max_message_bytes=1_024) as world, raw_socket(world.port) as raw:
        await raw.shake_hands()
        raw.write("x" * size)
        assert (await raw.read_close())[0] == 1009
        assert not await raw.read_to_end()
        raw.writer.close()
        await world.until_alone()


async def test_a_fragmented_message_over_the_limit_closes_with_1009() -> None:
    """The limit is the message's, in however many frames it comes."""
    async with served(max_message_bytes=1_024) as world, raw_socket(world.port) as raw:
        await raw.shake_hands()
        raw.write_frame(Frame(Opcode.TEXT, b"x" * 600, fin=False))
        raw.write_frame(Frame(Opcode.CONT, b"x" * 600, fin=False))
        assert (await raw.read_close())[0] == 1009


async def test_endless_empty_fragments_take_no_memory() -> None:
    """Fragments that bring nothing are not kept, and the message is still understood."""
    async with served() as world, raw_socket(world.port) as raw:
        await raw.shake_hands()
        raw.write_frame(Frame(Opcode.TEXT, b'{"id":1,', fin=False))
        empty = Frame(Opcode.CONT, b"", fin=False).serialize(mask=True)
        for _ in range(20):
            raw.writer.write(empty * 500)
            await raw.writer.drain()
        (protocol,) = world.protocols
        raw.write_frame(Frame(Opcode.PING, b"seen"))
        assert await raw.read_frame() == (Opcode.PONG, b"seen")
        assert protocol._reader.held_bytes == len('{"id":1,')
        raw.write_frame(Frame(Opcode.CONT, b'"connect":{}}'))
        assert '"connect"' in await raw.read_text()


@pytest.mark.usefixtures("each_encoding")
async def test_too_many_commands_in_a_message_close_with_3501() -> None:
    """Work that one message can ask for is bounded."""
    async with served(max_commands_per_message=10) as world, world.talker() as talker:
        await talker.say(*({"id": number, "ping": {}} for number in range(2, 13)))
        assert await talker.closing() == BAD_REQUEST


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ({"dance": {}}, 104),
        ({"rpc": {"method": "x"}}, 104),
        ({"publish": {"channel": "zone:A", "data": {}}}, 108),
        ({"presence": {"channel": "no such"}}, 102),
        ({"presence_stats": {"channel": ""}}, 102),
        ({"presence": {}}, 107),
        ({"subscribe": {"channel": "zone:A", "join_leave": "yes"}}, 107),
        ({"refresh": {"token": "x"}}, 108),
        ({"sub_refresh": {"channel": "zone:A", "token": "x"}}, 108),
        ({"subscribe": {"channel": "zone:A"}}, 105),
        ({"subscribe": {"channel": "zone:none"}}, 102),
        ({"subscribe": {"channel": "zone:"}}, 102),
        ({"subscribe": {"channel": "zone:a/b"}}, 102),
        ({"subscribe": {"channel": "zone:" + "x" * 65}}, 102),
        ({"subscribe": {"channel": "news"}}, 102),
        ({"subscribe": {"channel": ""}}, 102),
        ({"history": {"channel": "zone:none", "limit": 1}}, 102),
        ({"history": {"channel": "news"}}, 102),
        ({"subscribe": {}}, 107),
        ({"subscribe": []}, 107),
        ({"subscribe": None}, 107),
        ({"subscribe": {"channel": 7}}, 107),
        ({"subscribe": {"channel": "zone:B", "flag": "x"}}, 107),
        ({"subscribe": {"channel": "zone:B", "recover": "yes"}}, 107),
        ({"history": {"channel": "zone:A", "limit": "x"}}, 107),
        ({"history": {"channel": "zone:A", "since": 7}}, 107),
        ({"unsubscribe": {"channel": None}}, 107),
    ],
    ids=str,
)
async def test_a_command_that_cannot_be_done_is_answered_with_its_error(
    command: dict[str, Any], code: int
) -> None:
    """The error has the command's id, and the connection and its subscriptions go on."""
    async with served() as world, world.talker("zone:A") as talker:
        await talker.say({"id": 77, **command})
        reply = await talker.line()
        assert (reply["id"], reply["error"]["code"]) == (77, code)
        assert reply["error"]["message"]
        await assert_alive(world, talker)


@pytest.mark.usefixtures("each_encoding")
async def test_messages_to_the_server_are_ignored() -> None:
    """`send` has no reply, with or without an id."""
    async with served() as world, world.talker("zone:A") as talker:
        await talker.say({"send": {"data": {}}}, {"id": 5, "send": {"data": {}}})
        assert (await talker.ask("ping"))["ping"] == {}


@pytest.mark.usefixtures("each_encoding")
async def test_subscriptions_on_one_connection_are_bounded() -> None:
    """One over the limit gets 106; ending another makes room."""
    zones = [f"Z{number}" for number in range(12)]
    async with (
        served(zones=zones, max_subscriptions_per_connection=10) as world,
        world.talker() as talker,
    ):
        await talker.say(
            *(
                {"id": 100 + number, "subscribe": {"channel": f"zone:Z{number}"}}
                for number in range(12)
            )
        )
        replies = [await talker.line() for _ in range(12)]
        assert [reply["id"] for reply in replies] == list(range(100, 112))
        assert [reply["error"]["code"] for reply in replies[10:]] == [106, 106]
        await talker.ask("unsubscribe", channel="zone:Z3")
        assert "data" in await talker.subscribe("zone:Z10")


@pytest.mark.usefixtures("each_encoding")
async def test_thousands_of_subscriptions_on_one_connection() -> None:
    """A client may ask for thousands in a row: it gets as many as are allowed, in order."""
    zones = [f"Z{number}" for number in range(1_100)]
    async with served(zones=zones) as world, world.talker() as talker:
        for number in range(1_100):
            await talker.say({"id": 100 + number, "subscribe": {"channel": f"zone:Z{number}"}})
        replies = [await talker.line() for _ in range(1_100)]
        assert [reply["id"] for reply in replies] == list(range(100, 1_200))
        assert sum("subscribe" in reply for reply in replies) == 1_024
        assert {reply["error"]["code"] for reply in replies[1_024:]} == {106}
        world.commit((1, "Z1000"))
        assert (await talker.line())["push"]["channel"] == "zone:Z1000"


@pytest.mark.usefixtures("each_encoding")
async def test_a_state_over_the_limit_is_refused() -> None:
    """Error 106 tells the client to page over HTTP; nothing is subscribed."""
    async with served(snapshot_max_bytes=500) as world, world.talker() as talker:
        world.commit(*((number, "A") for number in range(10)))
        reply = await talker.ask("subscribe", channel="zone:A")
        assert reply["error"] == {"code": 106, "message": "limit exceeded"}
        world.commit((1, "A"))
        assert "data" in await talker.subscribe("zone:B")


@pytest.mark.usefixtures("each_encoding")
async def test_who_connects_and_says_nothing_is_cut() -> None:
    """Without a connect command in time the connection closes with 3502."""
    async with served(connect_timeout_s=0.1) as world, world.dial() as talker:
        assert await talker.closing() == (3502, "stale")


@pytest.mark.usefixtures("each_encoding")
async def test_pongs_alone_do_not_keep_a_silent_connection() -> None:
    """Only a connect command counts, not whatever else is sent."""
    async with served(connect_timeout_s=0.2) as world, world.dial() as talker:

        async def chatter() -> None:
            # It may learn of the end before who waits for that.
            with contextlib.suppress(ConnectionClosed):
                while True:
                    await talker.socket.send(talker.encoding.pong)
                    await asyncio.sleep(0.02)

        async with asyncio.TaskGroup() as tasks:
            chatting = tasks.create_task(chatter())
            assert await talker.closing() == (3502, "stale")
            chatting.cancel()


async def test_a_half_closed_socket_is_closed() -> None:
    """A client that can't say anything any more is taken for gone."""
    async with served() as world, raw_socket(world.port) as raw:
        await raw.shake_hands()
        raw.write('{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"zone:A"}}')
        assert '"digest"' in await raw.read_text() + await raw.read_text()
        raw.writer.write_eof()
        await raw.read_to_end()
        await world.until_alone()
        assert not world.node.feed.slow_count


@pytest.mark.usefixtures("each_encoding")
async def test_a_client_that_vanishes_while_its_subscribe_waits_leaves_nothing() -> None:
    """Nothing is subscribed for who is gone when the answer is known."""
    async with served() as world:
        async with world.talker("zone:B") as talker:
            world.truth.gate.clear()
            await talker.say({"id": 9, "subscribe": {"channel": "zone:A"}})
            await until(lambda: ("state", "zone:A") in world.truth.asked)
        world.truth.gate.set()
        await world.until_alone()
        sample = world.node.metrics.registry.get_sample_value
        assert sample("zonecast_subscriptions") == 0
        async with world.talker("zone:A") as neighbour:
            await assert_alive(world, neighbour)


async def test_one_connection_too_many_is_refused_before_it_begins() -> None:
    """A full node answers 503, so that the client tries again, perhaps elsewhere."""
    async with served(max_connections=1) as world:
        async with world.talker():
            with pytest.raises(InvalidStatus) as refused:
                async with world.dial():
                    pass
            assert refused.value.response.status_code == 503
            assert refused.value.response.headers["retry-after"]
        await world.until_alone()
        async with world.talker("zone:A") as talker:
            await assert_alive(world, talker)


async def test_an_overlong_header_is_answered() -> None:
    """uvicorn would leave such a handshake hanging, registered for ever."""
    async with served() as world, raw_socket(world.port) as raw:
        answer = await raw.shake_hands(headers=f"Cookie: {'x' * 9_000}\r\n")
        assert answer.startswith(b"HTTP/1.1 431")
        assert not await raw.read_to_end()
        await until(lambda: not world.protocols)
