"""`min` in a subscribe's data: nothing older is told, and who waits is in nobody's way."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from channels.feed import FeedConfig
from channels.repairs import FollowerConfig
from tests.realtime.wire_world import Talker, WireWorld, served

pytestmark = pytest.mark.usefixtures("each_encoding")

SOON_S = 0.3


def waiting_at_most(wait_s: float, *, head_check_interval_s: float = 60) -> FeedConfig:
    """Bounds of a node that learns by the bus and by `min`, and hardly by comparing heads."""
    following = FollowerConfig(gap_wait_s=0.01, linger_s=0.01)
    return FeedConfig(
        following=following,
        head_check_interval_s=head_check_interval_s,
        stale_after_s=120,
        min_position_wait_s=wait_s,
    )


def asking(command_id: int, channel: str, minimum: object, **more: Any) -> dict[str, Any]:
    """Write a subscribe command with `min`."""
    return {"id": command_id, "subscribe": {"channel": channel, "data": {"min": minimum}, **more}}


def lag(world: WireWorld, *moves: tuple[int, str | None]) -> None:
    """Commit elsewhere, and lose the message."""
    world.truth.commit(moves)


async def answers(talker: Talker, count: int) -> dict[int, dict[str, Any]]:
    """Return so many replies by their ids; pushes are passed over."""
    found: dict[int, dict[str, Any]] = {}
    while len(found) < count:
        line = await talker.line()
        if "id" in line:
            found[line["id"]] = line
    return found


async def test_a_state_older_than_min_is_not_sent() -> None:
    """A node that lags waits for the bus, and then answers with what it brought."""
    async with served(feed=waiting_at_most(30)) as world, world.talker("zone:A"):
        lost = world.truth.commit([(1, "A")])
        async with world.talker() as talker:
            await talker.say(asking(7, "zone:A", "e1:1"))
            await talker.say({"id": 8, "ping": {}})
            assert (await talker.line())["id"] == 8
            world.bus.bring(lost.changes[0])
            result = (await talker.line())["subscribe"]
            assert (result["offset"], [user["id"] for user in result["data"]["users"]]) == (1, [1])
            world.commit((2, "A"))
            assert (await talker.line())["push"]["pub"]["offset"] == 2


async def test_a_recovery_older_than_min_is_not_sent() -> None:
    """What was missed goes up to `min` at least."""
    async with served(feed=waiting_at_most(SOON_S)) as world, world.talker("zone:A"):
        world.commit((1, "A"))
        lag(world, (2, "A"))
        async with world.talker() as talker:
            result = await talker.subscribe(
                "zone:A", recover=True, epoch="e1", offset=0, data={"min": "e1:2"}
            )
    assert result["recovered"] is True
    assert [publication["offset"] for publication in result["publications"]] == [1, 2]


async def test_what_the_bus_does_not_bring_is_asked_of_the_database() -> None:
    """After a bounded wait, though heads are compared much later."""
    async with served(feed=waiting_at_most(SOON_S)) as world, world.talker("zone:A"):
        lag(world, (1, "A"))
        async with world.talker() as talker:
            result = await talker.subscribe("zone:A", data={"min": "e1:1"})
    assert result["offset"] == 1


@pytest.mark.parametrize("minimum", ["e1:99", "feed:0"], ids=["ahead", "foreign"])
async def test_a_position_that_the_database_never_had_gets_the_present_state(
    minimum: str,
) -> None:
    """As over HTTP: epoch and offset tell. But first the database is asked."""
    async with served(feed=waiting_at_most(SOON_S)) as world, world.talker("zone:A"):
        lag(world, (1, "A"))
        async with world.talker() as talker:
            result = await talker.subscribe("zone:A", data={"min": minimum})
    assert (result["epoch"], result["offset"], result["data"]["rev"]) == ("e1", 1, 1)


async def test_a_min_of_a_new_epoch_is_not_answered_with_the_old_one() -> None:
    """The writer has seen the restored database before this node has."""
    async with served(feed=waiting_at_most(SOON_S)) as world, world.talker("zone:A"):
        world.truth.renew_epochs("e2")
        async with world.talker() as talker:
            assert (await talker.subscribe("zone:A", data={"min": "e2:0"}))["epoch"] == "e2"


async def test_without_the_database_a_min_that_is_not_there_is_a_temporary_error() -> None:
    """Rather than something older; the subscription can be asked for again."""
    async with served(feed=waiting_at_most(SOON_S)) as world, world.talker("zone:A"):
        lag(world, (1, "A"))
        world.truth.down = True
        async with world.talker() as talker:
            reply = await talker.ask("subscribe", channel="zone:A", data={"min": "e1:1"})
            assert (reply["error"]["code"], reply["error"]["temporary"]) == (100, True)
            world.truth.down = False
            assert (await talker.subscribe("zone:A", data={"min": "e1:1"}))["offset"] == 1


@pytest.mark.parametrize(
    "text",
    [
        "e1:1",
        "zone:A=e1:1",
        "zone:B=e1:7, zone:A=e1:1",
        "A=e1:1,B=e1:7",
    ],
    ids=["position", "header", "header of several", "event id"],
)
async def test_the_positions_of_a_write_can_be_passed_as_they_are(text: str) -> None:
    """The response's header has all channels of the transaction; the others don't matter."""
    async with served(feed=waiting_at_most(SOON_S)) as world, world.talker("zone:A", "zone:C"):
        lag(world, (1, "A"))
        async with world.talker() as talker:
            assert (await talker.subscribe("zone:A", data={"min": text}))["offset"] == 1
            world.truth.asked.clear()
            assert "data" in await talker.subscribe("zone:C", data={"min": "zone:A=e1:1"})
            assert world.truth.asked == []


@pytest.mark.parametrize(
    "minimum", ["", "1", "e1:", "x:1", "e1:-1", "zone:A=", "e1:1,", 7, ["e1:1"]]
)
async def test_a_min_that_cannot_be_read_is_a_bad_request(minimum: object) -> None:
    """Error 107, and no subscription that might be older."""
    async with served() as world, world.talker() as talker:
        reply = await talker.ask("subscribe", channel="zone:A", data={"min": minimum})
        assert reply["error"]["code"] == 107
        assert "data" in await talker.subscribe("zone:A")


@pytest.mark.parametrize("data", [None, "x", 7, [], {}, {"min": None}, {"name": "js"}])
async def test_other_data_of_a_subscribe_changes_nothing(data: object) -> None:
    """SDKs let applications send what they like."""
    async with served() as world, world.talker() as talker:
        assert "data" in await talker.subscribe("zone:A", data=data)


async def test_commands_of_a_waiting_channel_keep_their_order() -> None:
    """An unsubscribe behind a subscribe that waits ends it, and one behind that begins anew."""
    async with served(feed=waiting_at_most(30)) as world, world.talker("zone:A"):
        lost = world.truth.commit([(1, "A")])
        async with world.talker() as talker:
            await talker.say(asking(11, "zone:A", "e1:1"), asking(12, "zone:A", "e1:1"))
            await talker.say({"id": 13, "unsubscribe": {"channel": "zone:A"}})
            await talker.say({"id": 14, "subscribe": {"channel": "zone:A"}})
            await talker.say({"id": 15, "ping": {}})
            assert (await talker.line())["id"] == 15
            world.bus.bring(lost.changes[0])
            lines = [await talker.line() for _ in range(4)]
            assert [line["id"] for line in lines] == [11, 12, 13, 14]
            assert lines[0]["subscribe"]["offset"] == lines[3]["subscribe"]["offset"] == 1
            assert lines[1]["error"]["code"] == 105


async def test_a_thousand_that_wait_block_nobody_and_have_few_tasks() -> None:
    """Other commands of the connection are answered meanwhile, and all of them in the end."""
    zones = [f"Z{number}" for number in range(1_000)]
    async with served(zones=zones, feed=waiting_at_most(1), waiting_max_concurrent=4) as world:
        async with world.talker() as talker:
            await talker.subscribe("zone:Z0")
            await talker.ask("unsubscribe", channel="zone:Z0")
            before = len(asyncio.all_tasks())
            for begin in range(0, 1_000, 200):
                batch = range(begin, begin + 200)
                await talker.say(*(asking(100 + n, f"zone:Z{n}", "e1:5") for n in batch))
            for number in range(5):
                await talker.say({"id": 9_000 + number, "ping": {}})
            pings = await answers(talker, 5)
            assert set(pings) == set(range(9_000, 9_005))
            assert len(asyncio.all_tasks()) <= before + 16
            replies = await answers(talker, 1_000)
        results = Counter("subscribe" in reply for reply in replies.values())
        assert results == {True: 1_000}


async def test_what_waits_is_bounded() -> None:
    """Beyond the bound the next commands stay where they are, and are all answered in the end."""
    bounds = waiting_at_most(SOON_S)
    async with (
        served(feed=bounds, max_commands_per_message=3) as world,
        world.talker("zone:A") as talker,
    ):
        for number in range(10, 20):
            await talker.say(asking(number, "zone:B", "e1:5"))
        await talker.say({"id": 20, "ping": {}})
        lines = [await talker.line() for _ in range(11)]
    # The ping came when there was room for the last three.
    assert {line["id"] for line in lines[:7]} == set(range(10, 17))
    assert {line["id"] for line in lines} == set(range(10, 21))
    assert "subscribe" in lines[0]
    assert {line["error"]["code"] for line in lines if "error" in line} == {105}


async def test_many_that_wait_for_one_channel_share_a_question() -> None:
    """A storm after a write costs one question, not one for each client."""
    async with served(feed=waiting_at_most(SOON_S)) as world, world.talker("zone:A"):
        lag(world, (1, "A"))
        world.truth.asked.clear()

        async def subscribe() -> int:
            async with world.talker() as talker:
                result = await talker.subscribe("zone:A", data={"min": "e1:1"})
                return int(result["offset"])

        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(subscribe()) for _ in range(20)]
        assert {task.result() for task in asked} == {1}
        kinds = Counter(kind for kind, _ in world.truth.asked)
        assert kinds["state"] == 0
        assert kinds["heads"] + kinds["changes"] < 20


async def test_a_client_that_leaves_while_it_waits_leaves_nothing_behind() -> None:
    """No task, no followed channel."""
    async with served(feed=waiting_at_most(30)) as world:
        async with world.talker() as talker:
            await talker.subscribe("zone:B")
            await talker.say(asking(7, "zone:A", "e1:5"))
            assert (await talker.ask("ping"))["ping"] == {}
            while world.node.feed.current("zone:A") is None:  # noqa: ASYNC110 - it has no event.
                await asyncio.sleep(0.005)
        await world.until_alone()
        while world.node.feed.follower.followed_count:  # noqa: ASYNC110 - it has no event.
            await asyncio.sleep(0.005)
