"""Commands meant to do harm: floods, names and numbers that nobody has, and JSON without end."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.realtime.wire_world import Talker, WireWorld, served

UNKNOWN, BAD, TOO_MANY = 102, 107, 111
FREE: dict[str, Any] = {"commands_per_s": 0, "subscribes_per_s": 0}
"""No rates: what is behind them has to hold by itself."""


async def assert_alive(world: WireWorld, talker: Talker) -> None:
    """Check that a connection and its subscription to zone A go on."""
    world.commit((1, "A"))
    while "push" not in await talker.line():
        pass


async def flood(talker: Talker, commands: list[dict[str, Any]], at_once: int = 1_000) -> list[int]:
    """Send commands and return the codes of their errors; 0: none."""
    codes = []
    for begin in range(0, len(commands), at_once):
        batch = commands[begin : begin + at_once]
        await talker.say(*({"id": 10 + number, **one} for number, one in enumerate(batch)))
        for _ in batch:
            line = await talker.line()
            codes.append(line.get("error", {}).get("code", 0))
    return codes


async def test_a_hundred_thousand_unknown_channels_leave_nothing_behind() -> None:
    """At the rate that a connection has, most are told to wait and cost nothing; then it is cut."""
    commands = [{"subscribe": {"channel": f"zone:X{number}"}} for number in range(2_000)]
    async with served(commands_per_s=1, commands_burst=500) as world:
        asked = 0
        async with world.talker() as talker:
            for _ in range(50):
                await talker.say(*({"id": 5 + i, **one} for i, one in enumerate(commands)))
                asked += 2_000
            assert await talker.closing() == (3509, "too many errors")
        await world.until_alone()
        assert asked == 100_000
        read = [channel for what, channel in world.truth.asked if what == "state"]
        # At most twice: ahead, and in its turn, as it may have been made meanwhile.
        assert len(read) <= 2 * 510
        assert not world.node.feed.follower.replicas
        async with world.talker("zone:A") as neighbour:
            await assert_alive(world, neighbour)


async def test_unknown_channels_without_a_rate_are_answered_and_forgotten() -> None:
    """Ten thousand in a row: each gets its error, and no replica stays."""
    commands = [{"subscribe": {"channel": f"zone:X{number}"}} for number in range(10_000)]
    async with served(**FREE) as world, world.talker("zone:A") as talker:
        assert set(await flood(talker, commands)) == {UNKNOWN}
        assert world.node.feed.follower.replicas.keys() <= {"zone:A"}
        await assert_alive(world, talker)


@pytest.mark.parametrize(
    "command",
    [
        {"history": {"channel": "zone:A", "limit": 300}},
        {"rpc": {"method": "digest", "data": {"channel": "zone:B"}}},
        {"rpc": {"method": "x", "data": {}}},
        {"ping": {}},
        {"refresh": {"token": "x"}},
    ],
    ids=lambda command: next(iter(command)),
)
async def test_a_flood_of_one_command_holds_up_nobody_else(command: dict[str, Any]) -> None:
    """Those over the rate get 111; a neighbour has its changes between them."""
    async with (
        served(commands_per_s=1, commands_burst=500) as world,
        world.talker("zone:A") as neighbour,
        world.talker() as talker,
    ):
        codes = await flood(talker, [command] * 2_000)
        assert codes.count(TOO_MANY) >= 1_480
        world.commit((1, "A"))
        assert (await neighbour.line())["push"]["channel"] == "zone:A"


@pytest.mark.parametrize(
    "name",
    [
        "zone:../../etc/passwd",
        "zone:..%2f..%2fetc",
        "zone:A/../B",
        "zone:A\\B",
        "zone:A\x00",
        "zone:\x00",
        "zone:A\nB",
        "zone:\x1b[31mA",
        "zone:\u202eA",
        "zone:\uff21",
        "zone:A;DROP TABLE zones",
        "zone:*",
        "zone:" + "A" * 200_000,
        "A" * 200_000,
        "zone:zone:A",
        "ZONE:A",
        "zones:",
        "revocations",
        "__proto__",
    ],
    ids=lambda name: ascii(name)[:30],
)
@pytest.mark.parametrize("method", ["subscribe", "history", "digest"])
async def test_names_that_no_channel_has_are_unknown(name: str, method: str) -> None:
    """Whatever they look like; nothing is read for them."""
    command: dict[str, Any] = (
        {"rpc": {"method": "digest", "data": {"channel": name}}}
        if method == "digest"
        else {method: {"channel": name}}
    )
    async with served() as world, world.talker("zone:A") as talker:
        before = len(world.truth.asked)
        assert await flood(talker, [command]) == [UNKNOWN]
        assert not [what for what in world.truth.asked[before:] if name in what]
        await assert_alive(world, talker)


@pytest.mark.parametrize(
    "text",
    [
        '{"id":9,"subscribe":' + '{"channel":' * 20_000,
        '{"id":9,"subscribe":' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"id":9,"subscribe":{"channel":"zone:B","data":' + '{"a":' * 30_000 + "1" + "}" * 30_002,
        '{"id":9,"rpc":{"method":"digest","data":' + "[" * 60_000 + "]" * 60_000 + "}}",
        '{"id":9,"subscribe":{"channel":"zone:B","recover":true,"offset":1e400}}',
        '{"id":9,"subscribe":{"channel":"zone:B","offset":' + "9" * 100_000 + "}}",
        '{"id":9,"history":{"channel":"zone:A","limit":-9223372036854775809}}',
        '{"id":' + "9" * 5_000 + ',"ping":{}}',
        '{"id":9,"ping":{},"id":10}',
        '{"id":9,"subscribe":{"channel":"\\ud800"}}',
        '{"id":9,"subscribe":{"channel":NaN}}',
        '{"a":1}' * 1_000,
        '"' + "\\u0000" * 20_000 + '"',
    ],
    ids=lambda text: text[:40],
)
async def test_json_meant_to_break_the_parser_does_not(text: str) -> None:
    """It is an error to its command, or the end of its connection: 3501 and no other."""
    async with served() as world, world.talker("zone:A") as neighbour:
        async with world.talker() as talker:
            await talker.socket.send(text)
            await talker.socket.send(json.dumps({"id": 99, "ping": {}}))
            try:
                code = (await talker.line()).get("error", {}).get("code", 0)
            except Exception:  # noqa: BLE001 - however the library tells that it is closed
                code = (await talker.closing())[0]
            assert code in {0, BAD, UNKNOWN, 3501}
        await assert_alive(world, neighbour)
