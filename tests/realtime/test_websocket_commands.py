"""What commands do: replies in order, subscriptions that begin right, histories."""

from __future__ import annotations

import asyncio

import pytest

from channels.feed import FeedConfig
from channels.repairs import FollowerConfig
from tests.realtime.wire_world import served

pytestmark = pytest.mark.usefixtures("each_encoding")


async def test_connect_names_client_node_and_heartbeat() -> None:
    """The connect reply has what SDKs need to keep the connection alive."""
    async with served(ping_interval_s=24.2) as world, world.dial() as talker:
        result = (await talker.ask("connect", name="js", version="5.8.0"))["connect"]
    assert result.pop("client")
    assert result.pop("version").startswith("zonecast ")
    assert result == {"ping": 25, "pong": True, "data": {"node": "node-1"}}


@pytest.mark.parametrize("path", ["/ws", "/connection/websocket?token=x"])
async def test_both_paths_serve(path: str) -> None:
    """The short path is for people, the other for SDKs; a query doesn't matter."""
    async with served() as world, world.dial(path) as talker:
        assert "connect" in await talker.ask("connect")


async def test_commands_of_one_message_are_answered_in_one_message_in_order() -> None:
    """What an SDK batches when it connects comes back as lines of one message."""
    async with served() as world, world.dial() as talker:
        world.commit((1, "A"))
        async with world.talker("zone:A", "zone:B"):
            await talker.say(
                {"id": 1, "connect": {}},
                {"id": 2, "ping": {}},
                {"id": 3, "rpc": {"method": "digest", "data": {"channel": "zone:A"}}},
            )
            assert [line["id"] for line in await talker.message()] == [1, 2, 3]


async def test_what_one_message_subscribes_to_is_read_together_and_answered_in_order() -> None:
    """Zones that nobody follows yet, one that doesn't exist, and commands in between."""
    async with served() as world, world.talker() as talker:
        world.commit((1, "B"))
        subscribes = [
            {"id": number, "subscribe": {"channel": f"zone:{zone_id}"}}
            for number, zone_id in enumerate(("A", "none", "B"), 11)
        ]
        await talker.say(*subscribes, {"id": 14, "ping": {}})
        lines = [await talker.line() for _ in range(4)]
        assert [line["id"] for line in lines] == [11, 12, 13, 14]
        assert lines[1]["error"]["code"] == 102
        assert [user["id"] for user in lines[2]["subscribe"]["data"]["users"]] == [1]
        # What isn't there is asked for again in its turn.
        assert world.truth.questions == 2


async def test_replies_keep_the_order_of_commands_while_one_waits() -> None:
    """A quick command behind a slow one is answered behind it."""
    async with served() as world, world.talker() as talker:
        world.truth.gate.clear()
        await talker.say({"id": 11, "subscribe": {"channel": "zone:A"}})
        await talker.say({"id": 12, "ping": {}})
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await talker.socket.recv()
        world.truth.gate.set()
        assert [(await talker.line())["id"] for _ in range(2)] == [11, 12]


async def test_a_subscription_begins_with_the_state_and_goes_on_from_there() -> None:
    """Snapshot at revision R, then every change after R, once and in order."""
    async with served() as world, world.talker() as talker:
        world.commit((1, "A"))
        result = await talker.subscribe("zone:A", flag=1, recoverable=True, positioned=True)
        state = world.truth.state("zone:A")
        assert state is not None
        assert (result["recoverable"], result["positioned"]) == (True, True)
        assert (result["epoch"], result["offset"]) == ("e1", 1)
        assert (result["data"]["channel"], result["data"]["rev"]) == ("zone:A", 1)
        assert [user["id"] for user in result["data"]["users"]] == [1]
        transactions = [world.commit((number, "A")) for number in range(2, 6)]
        pushes = [(await talker.line())["push"] for _ in transactions]
        assert [push["pub"]["offset"] for push in pushes] == [2, 3, 4, 5]
        assert [push["pub"]["data"]["tx"] for push in pushes] == transactions


async def test_a_transaction_over_two_channels_is_one_message() -> None:
    """Nobody who watches both sees a moving user in both zones or in neither."""
    async with served() as world:
        world.commit((1, "A"))
        async with world.talker("zone:A", "zone:B") as both, world.talker("zone:B") as one:
            tx = world.commit((1, "B"))
            lines = [line["push"] for line in await both.message()]
            assert {line["channel"] for line in lines} == {"zone:A", "zone:B"}
            assert {line["pub"]["data"]["tx"] for line in lines} == {tx}
            assert [line["push"]["channel"] for line in await one.message()] == ["zone:B"]


async def test_a_client_that_was_away_gets_what_it_missed() -> None:
    """Recovery from a retained position brings publications and no state."""
    async with served() as world, world.talker("zone:A") as other, world.talker() as talker:
        for number in range(1, 4):
            world.commit((number, "A"))
        await other.message()
        result = await talker.subscribe("zone:A", recover=True, epoch="e1", offset=1)
    assert (result["was_recovering"], result["recovered"]) == (True, True)
    assert [publication["offset"] for publication in result["publications"]] == [2, 3]
    assert "data" not in result


@pytest.mark.parametrize(
    "position",
    [
        {"epoch": "feed", "offset": 1},
        {"epoch": "_", "offset": 0},
        {"epoch": "e1", "offset": 99},
        {"epoch": "e1"},
        {"offset": 3},
        {"epoch": "not hex", "offset": "x"},
    ],
    ids=["foreign", "invalidated", "future", "too far behind", "no epoch", "garbage"],
)
async def test_a_position_that_cannot_be_resumed_gets_the_state(
    position: dict[str, object],
) -> None:
    """From a foreign, future, old or unreadable position the client starts anew."""
    feed = FeedConfig(following=FollowerConfig(resume_max_changes=2, gap_wait_s=0.01))
    async with served(feed=feed) as world, world.talker() as talker:
        for number in range(1, 4):
            world.commit((number, "A"))
        result = await talker.subscribe("zone:A", recover=True, **position)
    assert result["was_recovering"] is True
    assert "recovered" not in result
    assert result["data"]["rev"] == result["offset"] == 3


async def test_a_client_may_refuse_the_state() -> None:
    """With the reject-unrecovered flag, error 112 comes instead, and nothing is subscribed."""
    async with served() as world, world.talker() as talker:
        reply = await talker.ask(
            "subscribe", channel="zone:A", recover=True, epoch="feed", offset=1, flag=3
        )
        assert reply["error"] == {"code": 112, "message": "unrecoverable position"}
        world.commit((1, "A"))
        assert "data" in await talker.subscribe("zone:A", flag=3)


async def test_after_unsubscribe_nothing_more_comes() -> None:
    """Unsubscribing ends the pushes; a channel that isn't subscribed is no error."""
    async with served() as world, world.talker("zone:A") as talker:
        assert (await talker.ask("unsubscribe", channel="zone:A"))["unsubscribe"] == {}
        assert (await talker.ask("unsubscribe", channel="zone:A"))["unsubscribe"] == {}
        world.commit((1, "A"))
        assert (await talker.ask("ping"))["ping"] == {}


async def test_a_deleted_zone_ends_its_subscription_for_good() -> None:
    """The deletion arrives as a change, then unsubscribe 2000 follows."""
    async with served() as world:
        world.commit((1, "A"))
        async with world.talker("zone:A") as talker:
            for change in world.truth.delete_zone("A", "B").changes:
                world.bus.bring(change)
            deletion, end = await talker.line(), await talker.line()
            last = deletion["push"]["pub"]["data"]["events"][-1]
            assert last == {"type": "zone_deleted", "zone_id": "A"}
            assert end == {
                "push": {"channel": "zone:A", "unsubscribe": {"code": 2000, "reason": "gone"}}
            }
            reply = await talker.ask("subscribe", channel="zone:A")
            assert reply["error"]["code"] == 102


async def test_a_renewed_epoch_ends_subscriptions_so_that_they_start_anew() -> None:
    """A restored database sends everybody unsubscribe 2502, and the state after it."""
    async with served() as world, world.talker("zone:A") as talker:
        world.truth.renew_epochs("e2")
        push = (await talker.line())["push"]
        assert push["unsubscribe"] == {"code": 2502, "reason": "state invalidated"}
        assert (await talker.subscribe("zone:A", recover=True, epoch="_"))["epoch"] == "e2"


async def test_history_reads_the_retained_changes() -> None:
    """By default only the position; with a limit, changes forward or backward from anywhere."""
    async with served() as world, world.talker() as talker:
        for number in range(1, 8):
            world.commit((number, "A"))
        world.truth.compact("zone:A", 2)

        async def offsets(**params: object) -> list[int]:
            history = (await talker.ask("history", channel="zone:A", **params))["history"]
            assert (history["epoch"], history["offset"]) == ("e1", 7)
            return [publication["offset"] for publication in history.get("publications", [])]

        assert await offsets() == []
        assert await offsets(limit=0) == []
        assert await offsets(limit=2) == [3, 4]
        assert await offsets(limit=-1) == [3, 4, 5, 6, 7]
        assert await offsets(limit=2, since={"offset": 4, "epoch": "e1"}) == [5, 6]
        assert await offsets(limit=9, since={"offset": 7, "epoch": "e1"}) == []
        assert await offsets(limit=2, reverse=True) == [7, 6]
        assert await offsets(limit=9, reverse=True) == [7, 6, 5, 4, 3]
        assert await offsets(limit=2, since={"offset": 6, "epoch": "e1"}, reverse=True) == [5, 4]
        assert await offsets(limit=9, since={"offset": 3, "epoch": "e1"}, reverse=True) == []


async def test_a_history_reply_is_bounded_in_bytes() -> None:
    """A client gets at least one change, and goes on from the last one that it got."""
    async with served(slow_buffer_max_bytes=40_000) as world, world.talker() as talker:
        for first in range(0, 500, 100):
            world.commit(*((user, "A") for user in range(first, first + 100)))
        world.commit(*((user, "A") for user in range(500, 1_000)))

        async def offsets(**params: object) -> list[int]:
            history = (await talker.ask("history", channel="zone:A", **params))["history"]
            return [publication["offset"] for publication in history["publications"]]

        first_page = await offsets(limit=-1)
        assert first_page == list(range(1, len(first_page) + 1))
        assert 1 < len(first_page) < 5
        assert await offsets(limit=-1, since={"offset": 5, "epoch": "e1"}) == [6]
        assert await offsets(limit=-1, reverse=True) == [6]


@pytest.mark.parametrize(
    "since",
    [
        {"offset": 1, "epoch": "e1"},
        {"offset": 8, "epoch": "e1"},
        {"offset": 4, "epoch": "feed"},
        {"offset": "x"},
    ],
    ids=["compacted", "future", "foreign", "garbage"],
)
async def test_history_from_an_unknown_position_is_an_error(since: dict[str, object]) -> None:
    """A hole in a history is told, not skipped."""
    async with served() as world, world.talker() as talker:
        for number in range(1, 8):
            world.commit((number, "A"))
        world.truth.compact("zone:A", 2)
        reply = await talker.ask("history", channel="zone:A", limit=3, since=since)
    assert reply["error"]["code"] == 112


async def test_history_is_bounded() -> None:
    """No client gets more changes at once than the setting says."""
    async with served(history_max_changes=3) as world, world.talker() as talker:
        for number in range(1, 8):
            world.commit((number, "A"))
        for limit in (100, -1):
            reply = await talker.ask("history", channel="zone:A", limit=limit)
            assert len(reply["history"]["publications"]) == 3


async def test_everybody_is_told_when_the_picture_cannot_be_verified() -> None:
    """Watchers hear `stale` with its beginning and `live` after it; newcomers hear it, too."""
    feed = FeedConfig(head_check_interval_s=0.05, stale_after_s=0.2)
    async with served(feed=feed) as world, world.talker("zone:A") as talker:
        world.truth.down = True
        stale = (await talker.line())["push"]["message"]["data"]
        assert stale["state"] == "stale"
        async with world.talker("zone:A") as newcomer:
            assert (await newcomer.line())["push"]["message"]["data"] == stale
            world.truth.down = False
            live = {"push": {"message": {"data": {"state": "live", "since": None}}}}
            assert await talker.line() == await newcomer.line() == live


async def test_without_the_database_errors_are_temporary() -> None:
    """Error 100 makes SDKs try again by themselves, and then it works."""
    async with served() as world, world.talker() as talker:
        world.truth.down = True
        for method in ("subscribe", "history"):
            reply = await talker.ask(method, channel="zone:A", limit=1)
            assert (reply["error"]["code"], reply["error"]["temporary"]) == (100, True)
        world.truth.down = False
        assert "data" in await talker.subscribe("zone:A")


async def test_subscriptions_are_counted_exactly() -> None:
    """The gauge follows subscribing, unsubscribing, endings and closed connections."""

    def count() -> float | None:
        return world.node.metrics.registry.get_sample_value("zonecast_subscriptions")

    async with served() as world:
        async with world.talker("zone:A", "zone:B", "zone:C", "zones") as talker:
            assert count() == 4
            await talker.ask("unsubscribe", channel="zone:C")
            assert count() == 3
            for change in world.truth.delete_zone("A", "B").changes:
                world.bus.bring(change)
            while "unsubscribe" not in (await talker.line())["push"]:
                pass
            assert count() == 2
        await world.until_alone()
        assert count() == 0
