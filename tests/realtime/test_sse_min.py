"""`min` of an event stream: it begins with nothing that is older."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import httpx
import pytest

from channels.feed import FeedConfig
from channels.repairs import FollowerConfig
from realtime.settings import Settings
from tests.realtime.conftest import LiveNode, serving
from tests.realtime.event_source import event_source
from tests.realtime.sse_world import served_sse

SOON_S = 0.3


def waiting_at_most(wait_s: float) -> FeedConfig:
    """Bounds of a node that learns by the bus and by `min`, and hardly by comparing heads."""
    following = FollowerConfig(gap_wait_s=0.01, linger_s=0.01)
    return FeedConfig(
        following=following,
        head_check_interval_s=60,
        stale_after_s=120,
        min_position_wait_s=wait_s,
    )


@pytest.mark.parametrize(
    "minima",
    [
        ["A=e1:1,B=e1:1"],
        ["A=e1:1", "B=e1:1"],
        ["zone:A=e1:1, zone:B=e1:1, unassigned=e1:9"],
        ["zone:B=e1:1, A=e1:1", "C=e1:7"],
    ],
    ids=["vector", "repeated", "header", "mixed"],
)
async def test_each_zone_begins_at_its_min_or_later(minima: Sequence[str]) -> None:
    """Whatever the bus lost; other zones' positions don't matter."""
    async with (
        served_sse(feed=waiting_at_most(SOON_S)) as world,
        world.source("A", "B") as other,
    ):
        assert {(await other.next("snapshot"))["rev"] for _ in "AB"} == {0}
        world.truth.commit([(1, "A"), (2, "B")])
        async with world.source("A", "B", minima=minima) as source:
            snapshots = [await source.next("snapshot") for _ in "AB"]
    assert [(one["channel"], one["rev"]) for one in snapshots] == [("zone:A", 1), ("zone:B", 1)]


async def test_a_stream_waits_for_what_is_on_its_way() -> None:
    """The bus brings it, and the database isn't asked."""
    async with served_sse(feed=waiting_at_most(30)) as world, world.source("A") as other:
        await other.next("snapshot")
        late = world.truth.commit([(1, "A")])
        world.truth.asked.clear()

        async def first_rev() -> int:
            async with world.source("A", minima=["e1:1"]) as source:
                return int((await source.next("snapshot"))["rev"])

        async with asyncio.TaskGroup() as tasks:
            asking = tasks.create_task(first_rev())
            while len(world.node.connections) < 2:  # noqa: ASYNC110 - it has no event.
                await asyncio.sleep(0.005)
            assert not asking.done()
            world.bring(late)
        assert asking.result() == 1
        assert [kind for kind, _ in world.truth.asked if kind != "heads"] == []


async def test_a_resume_goes_up_to_min_at_least() -> None:
    """What was missed is told whole, not as far as this node knew."""
    async with served_sse(feed=waiting_at_most(SOON_S)) as world, world.source("A") as other:
        await other.next("snapshot")
        world.commit((1, "A"))
        world.truth.commit([(2, "A")])
        async with world.source("A", since="A=e1:0", minima=["A=e1:2"]) as source:
            revs = [(await source.next("changes"))["zones"][0]["rev"] for _ in range(2)]
    assert revs == [1, 2]


@pytest.mark.parametrize("minimum", ["A=e1:99", "A=feed:3"], ids=["ahead", "foreign"])
async def test_a_position_that_the_database_never_had_gets_the_present_state(
    minimum: str,
) -> None:
    """As over HTTP: epoch and revision tell."""
    async with served_sse(feed=waiting_at_most(SOON_S)) as world, world.source("A") as other:
        await other.next("snapshot")
        world.truth.commit([(1, "A")])
        async with world.source("A", minima=[minimum]) as source:
            snapshot = await source.next("snapshot")
    assert (snapshot["epoch"], snapshot["rev"]) == ("e1", 1)


async def test_min_holds_for_streams_of_all_zones() -> None:
    """For zones, and with `zones` for which of them there are."""
    async with served_sse(feed=waiting_at_most(SOON_S)) as world, world.source("*") as other:
        for _ in range(3):
            await other.next("snapshot")
        made = world.truth.create_zone("N", "e1", [(1, "N"), (2, "A")])
        header = ", ".join(f"{change.channel}={change.position}" for change in made.changes)
        assert "zones=e1:1" in header
        async with world.source("*", minima=[header]) as source:
            revs = {}
            for _ in range(4):
                snapshot = await source.next("snapshot")
                revs[snapshot["channel"]] = snapshot["rev"]
    assert revs == {"zone:A": 1, "zone:B": 0, "zone:C": 0, "zone:N": 1}


async def test_without_the_database_a_min_that_is_not_there_is_503() -> None:
    """Rather than something older."""
    async with served_sse(feed=waiting_at_most(SOON_S)) as world, world.source("A") as other:
        await other.next("snapshot")
        world.truth.commit([(1, "A")])
        world.truth.down = True
        async with world.source("A", minima=["A=e1:1"]) as source:
            assert source.response.status_code == 503
            assert source.response.headers["retry-after"]


@pytest.mark.parametrize("minimum", ["", "x", "A=", "A=e1", "A=e1:1,", "A=x:1", "e1:1"])
async def test_a_min_that_cannot_be_read_is_400(minimum: str) -> None:
    """As is a position alone where there are several zones."""
    async with served_sse() as world, world.source("A", "B", minima=[minimum]) as source:
        assert source.response.status_code == 400
        assert b"min" in source.response.content


async def test_the_header_of_a_write_can_be_passed_as_it_is(
    sqlite_url: str, make_settings: Callable[..., Settings]
) -> None:
    """On a real node: make a zone and a user, then watch from there on."""
    settings = make_settings(database_url=sqlite_url)

    async def write(live: LiveNode) -> str:
        async with httpx.AsyncClient(base_url=live.url) as client:
            assert (await client.post("/zones", json={"zone_id": "A", "name": "A"})).is_success
            user = {"global_id": 1, "name": "Ada", "zone_id": "A"}
            return (await client.post("/users", json=user)).headers["Zonecast-Positions"]

    async with serving(settings) as live:
        header = await write(live)
        async with event_source(live.url, "A", minima=[header]) as source:
            snapshot = await source.next("snapshot")
    assert header == f"zone:A={snapshot['epoch']}:{snapshot['rev']}"
    assert [user["name"] for user in snapshot["users"]] == ["Ada"]
