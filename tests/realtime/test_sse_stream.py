"""Streams: snapshots, whole transactions, ids, and what a client gets that comes back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from channels.changes import ChannelState
from channels.digest import digest_users
from channels.feed import FeedConfig
from channels.names import DIRECTORY
from tests.realtime.event_source import EventSource, StreamEndedError
from tests.realtime.sse_world import SseWorld, served_sse

Json = dict[str, Any]


def zones_of(changes: Json) -> dict[str, int]:
    """Return zone ids and revisions of a `changes` event."""
    return {zone["zone_id"]: zone["rev"] for zone in changes["zones"]}


async def materialised(world: SseWorld, source: EventSource, *zones: str) -> dict[str, str]:
    """Read a stream until its zones are where the truth is; return digests by zone."""
    users: dict[str, dict[int, int]] = {}
    revs: dict[str, int] = {}
    heads = world.truth.heads
    while any(revs.get(zone, -1) < heads[f"zone:{zone}"].rev for zone in zones):
        event = await source.event()
        if event.name == "snapshot":
            zone = event.data["channel"].removeprefix("zone:")
            users[zone] = {user["id"]: user["version"] for user in event.data["users"]}
            revs[zone] = event.data["rev"]
        elif event.name == "changes":
            for part in event.data["zones"]:
                assert part["rev"] == revs[part["zone_id"]] + 1, "ordered, gapless and unique"
                revs[part["zone_id"]] = part["rev"]
                apply(users[part["zone_id"]], part["events"])
    return {zone: digest_users(users[zone].items()) for zone in zones}


def apply(users: dict[int, int], events: list[Json]) -> None:
    """Apply events to versions by id."""
    for event in events:
        if event["type"] == "left":
            users.pop(event["user_id"], None)
        elif event["type"] in {"entered", "changed"}:
            users[event["user"]["id"]] = event["user"]["version"]


def truth_digests(world: SseWorld, *zones: str) -> dict[str, str]:
    """Return what the truth has."""
    digests = {}
    for zone in zones:
        state = world.truth.state(f"zone:{zone}")
        assert state is not None
        digests[zone] = digest_users((user.id, user.version) for user in state.users.values())
    return digests


async def test_a_stream_begins_with_its_state_and_goes_on_with_every_change() -> None:
    """Headers, retry, status, a snapshot for each zone, then a change, each with its id."""
    async with served_sse() as world:
        world.commit((1, "A"), (2, "B"))
        async with world.source("A", "B") as source:
            headers = source.response.headers
            assert headers["content-type"] == "text/event-stream; charset=utf-8"
            assert headers["cache-control"] == "no-store"
            assert headers["x-accel-buffering"] == "no"
            assert await source.next("status") == {"state": "live", "since": None}
            assert 2000 <= (source.retry_ms or 0) <= 3000
            first = await source.next("snapshot")
            assert (first["channel"], first["rev"], len(first["users"])) == ("zone:A", 1, 1)
            assert source.last_id == "A=e1:1", "the other zone was not sent yet"
            await source.next("snapshot")
            assert source.last_id == "A=e1:1,B=e1:1"
            world.commit((2, "A"))
            changes = await source.next("changes")
            assert zones_of(changes) == {"A": 2, "B": 2}
            assert source.last_id == "A=e1:2,B=e1:2"
        await world.until_alone()
        assert await world.metric("connections", transport="sse") == 0
        assert await world.metric("subscriptions") == 0
        assert await world.metric("sent_bytes_total", transport="sse") > 500


async def test_only_watched_zones_of_a_transaction_are_told() -> None:
    """Who watches A does not learn where its user went."""
    async with served_sse() as world, world.source("A") as source:
        await source.next("snapshot")
        world.commit((1, "A"))
        await source.next("changes")
        world.commit((1, "C"))
        changes = await source.next("changes")
        assert zones_of(changes) == {"A": 2}
        assert changes["zones"][0]["events"] == [{"type": "left", "user_id": 1, "version": 2}]


@pytest.mark.parametrize("way", ["last_event_id", "since"])
async def test_who_comes_back_gets_what_was_missed_as_whole_transactions(way: str) -> None:
    """Each missed transaction is one event over all its zones, and no snapshot is sent."""
    async with served_sse() as world, world.source("A", "B") as keeper:
        await keeper.next("snapshot")
        world.commit((1, "A"), (2, "B"))
        for number in range(3):
            world.commit((1, "B" if number % 2 == 0 else "A"))
        async with world.source("A", "B", **{way: "B=e1:1,A=e1:1"}) as source:
            for rev in (2, 3, 4):
                assert zones_of(await source.next("changes")) == {"A": rev, "B": rev}
            assert source.last_id == "A=e1:4,B=e1:4"
            world.commit((2, "A"))
            assert zones_of(await source.next("changes")) == {"A": 5, "B": 5}


async def test_zones_without_a_position_get_a_snapshot_after_the_missed_changes() -> None:
    """The header decides each zone on its own; positions of other zones are ignored."""
    async with served_sse() as world, world.source("A") as keeper:
        await keeper.next("snapshot")
        world.commit((1, "A"))
        async with world.source("A", "B", last_event_id="A=e1:0,X=e1:7") as source:
            assert zones_of(await source.next("changes")) == {"A": 1}
            assert source.last_id == "A=e1:1"
            assert (await source.next("snapshot"))["channel"] == "zone:B"
            assert source.last_id == "A=e1:1,B=e1:0"


@pytest.mark.parametrize(
    "position", ["A=bad:1", "A=e1:99", "A=e1:0"], ids=["foreign", "future", "compacted"]
)
async def test_positions_that_lead_nowhere_get_a_snapshot(position: str) -> None:
    """Another epoch, the future, and a history that is no longer kept."""
    async with served_sse() as world:
        world.commit((1, "A"))
        world.commit((2, "A"))
        world.truth.compact("zone:A", 1)
        async with world.source("A", last_event_id=position) as source:
            snapshot = await source.next("snapshot")
            assert (snapshot["rev"], snapshot["epoch"]) == (2, "e1")
            assert source.last_id == "A=e1:2"


async def test_the_browsers_header_goes_before_the_address() -> None:
    """A browser repeats its first address for ever; its header is newer."""
    async with served_sse() as world, world.source("A") as keeper:
        await keeper.next("snapshot")
        world.commit((1, "A"))
        world.commit((2, "A"))
        async with world.source("A", since="A=e1:0", last_event_id="A=e1:1") as source:
            assert zones_of(await source.next("changes")) == {"A": 2}


async def test_an_unreadable_header_counts_as_none() -> None:
    """Nobody could correct it, so the state is sent; in the address it would be refused."""
    async with served_sse() as world, world.source("A", last_event_id="nonsense") as source:
        assert (await source.next("snapshot"))["rev"] == 0


async def test_another_history_is_sent_anew() -> None:
    """The stream stays; the zones come as snapshots of the new epoch."""
    async with served_sse() as world, world.source("A", "B") as source:
        await source.next("snapshot")
        await source.next("snapshot")
        world.truth.renew_epochs("e2")
        seen = {(await source.next("snapshot"))["channel"] for _ in range(2)}
        assert seen == {"zone:A", "zone:B"}
        assert source.last_id == "A=e2:0,B=e2:0"
        world.commit((1, "A"))
        assert zones_of(await source.next("changes")) == {"A": 1}


async def test_a_stream_ends_with_its_last_zone() -> None:
    """The deletion arrives; whoever comes back for that zone alone is told 404."""
    async with served_sse() as world:
        world.commit((1, "A"))
        async with world.source("A") as source:
            await source.next("snapshot")
            world.bring(world.truth.delete_zone("A", "B"))
            events = (await source.next("changes"))["zones"][0]["events"]
            assert [event["type"] for event in events] == ["left", "zone_deleted"]
            with pytest.raises(StreamEndedError):
                await source.event()
        await world.until_alone()
        assert await world.metric("connections_closed_total", transport="sse", code="2000") == 1
        async with world.source("A", last_event_id="A=e1:2") as source:
            assert source.response.status_code == 404


async def test_the_other_zones_go_on_and_can_be_resumed() -> None:
    """A zone that is gone does not take the rest of the stream with it, also not later."""
    async with served_sse() as world:
        world.commit((1, "A"), (2, "B"))
        async with world.source("A", "B") as source:
            await source.next("snapshot")
            await source.next("snapshot")
            world.bring(world.truth.delete_zone("A", "B"))
            assert zones_of(await source.next("changes")) == {"A": 2, "B": 2}
            world.commit((2, "C"))
            assert zones_of(await source.next("changes")) == {"B": 3}
            last_id = source.last_id
            assert last_id == "A=e1:2,B=e1:3"
        world.commit((3, "B"))
        async with world.source("A", "B", last_event_id=last_id) as source:
            assert zones_of(await source.next("changes")) == {"B": 4}
        async with world.source("A", "B", last_event_id="A=e1:1,B=e1:1") as source:
            missed = await source.next("changes")
            assert zones_of(missed) == {"A": 2, "B": 2}
            assert missed["zones"][0]["events"][-1]["type"] == "zone_deleted"
            assert zones_of(await source.next("changes")) == {"B": 3}


async def test_staleness_is_told_and_taken_back() -> None:
    """While the database doesn't answer the client knows since when."""
    feed = FeedConfig(head_check_interval_s=0.05, stale_after_s=0.2)
    async with served_sse(feed=feed) as world, world.source("A") as source:
        await source.next("snapshot")
        world.truth.down = True
        stale = await source.next("status")
        assert stale["state"] == "stale"
        assert stale["since"] > 0
        world.truth.down = False
        assert await source.next("status") == {"state": "live", "since": None}


async def test_a_silent_stream_is_kept_alive_by_comments() -> None:
    """Proxies see bytes; the client sees nothing."""
    async with served_sse(sse_keepalive_interval_s=0.05) as world, world.source("A") as source:
        await source.next("snapshot")
        async for line in source.lines:
            if line == ": keep-alive":
                break
        world.commit((1, "A"))
        assert zones_of(await source.next("changes")) == {"A": 1}


async def test_a_stopping_node_hands_its_streams_over() -> None:
    """What was delivered before is flushed, the stream ends, and the id resumes elsewhere."""
    async with served_sse() as world, world.source("A") as source:
        await source.next("snapshot")
        world.commit((1, "A"))
        assert zones_of(await source.next("changes")) == {"A": 1}
        world.commit((2, "A"))
        world.node.feed._hub.flush()
        world.node.connections.farewell()
        world.commit((3, "A"))
        assert zones_of(await source.next("changes")) == {"A": 2}
        with pytest.raises(StreamEndedError):
            await source.event()
        assert source.last_id == "A=e1:2"
        await world.until_alone()
        assert await world.metric("connections_closed_total", transport="sse", code="3001") == 1
        world.node.connections.closing = False
        async with world.source("A", last_event_id=source.last_id) as again:
            assert zones_of(await again.next("changes")) == {"A": 3}


async def test_a_stream_converges_over_many_concurrent_moves() -> None:
    """Every change arrives once and in order, and the end is the truth's, to the digest."""
    async with served_sse() as world, world.source("A", "B", "C") as source:
        for number in range(200):
            world.commit((number % 17, "ABC"[number % 3]), (number % 5, "ABC"[number // 3 % 3]))
        zones = ("A", "B", "C")
        assert await materialised(world, source, *zones) == truth_digests(world, *zones)


async def test_a_lagging_directory_takes_no_zone_that_is_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its state may be of before the zone was made again; the zone's own state came already."""
    async with served_sse(zones=("A", "B")) as world, world.source("*") as source:
        assert set((await source.next("status"))["zones"]) == {"A", "B"}
        for _ in "AB":
            await source.next("snapshot")
        state_of = world.truth.state

        def lagging(channel: str) -> ChannelState | None:
            state = state_of(channel)
            if state is None or channel != DIRECTORY:
                return state
            return replace(state, zones={"A": state.zones["A"]})

        monkeypatch.setattr(world.truth, "state", lagging)
        directory = world.truth.heads[DIRECTORY]
        directory.epoch, directory.floor = "e2", directory.rev
        assert set((await source.next("status"))["zones"]) == {"A", "B"}
        # Now the zone turns out to be gone, without a change that says so.
        world.truth.heads.pop("zone:B")
        assert set((await source.next("status"))["zones"]) == {"A"}
