"""Rates of commands and of subscriptions: who is over them is told so, and who waits is served."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from realtime.limit_settings import LimitSettings
from realtime.limits import FloodError, Limits, Refusal
from tests.realtime.sse_world import served_sse
from tests.realtime.wire_world import Talker, WireWorld, served


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        """Return its time."""
        return self.now_s


class Payer:
    """A connection as far as it is counted."""

    paid_until_s = 0.0


def limits(clock: Clock, refused: list[Refusal] | None = None, **given: Any) -> Limits:
    """Make limits by a clock."""
    told = [] if refused is None else refused
    return Limits(LimitSettings(**given), told.append, clock)


def test_a_burst_is_done_and_then_as_many_as_the_rate_says() -> None:
    """Ten at once, then one each half second; a pause gives the burst back, and no more."""
    clock, payer = Clock(), Payer()
    held = limits(clock, commands_per_s=2, commands_burst=10)
    assert sum(held.may_command(payer) for _ in range(12)) == 10
    clock.now_s += 0.75
    assert [held.may_command(payer) for _ in range(2)] == [True, False]
    clock.now_s += 3_600
    assert sum(held.may_command(payer) for _ in range(12)) == 10


def test_who_sends_a_little_too_much_gets_nearly_all_that_the_rate_allows() -> None:
    """Refusals cost little: at twice the rate, nine in ten of what is allowed are done."""
    clock, payer = Clock(), Payer()
    held = limits(clock, commands_per_s=10, commands_burst=10)
    done = 0
    for _ in range(2_000):
        clock.now_s += 1 / 20
        done += held.may_command(payer)
    assert 850 < done < 1_010


def test_who_ignores_ten_bursts_of_refusals_is_a_flood() -> None:
    """Not before; and it is told as what it is."""
    clock, payer, refused = Clock(), Payer(), list[Refusal]()
    held = limits(clock, refused, commands_per_s=1, commands_burst=10)

    def flood() -> None:
        for _ in range(1_000):
            held.may_command(payer)

    with pytest.raises(FloodError):
        flood()
    assert refused.count(Refusal.COMMANDS) == pytest.approx(100, abs=11)
    assert refused[-1] is Refusal.FLOOD


def test_without_a_rate_nothing_is_counted() -> None:
    """0 turns a bound off."""
    held = limits(Clock(), commands_per_s=0, subscribes_per_s=0)
    payer = Payer()
    assert all(held.may_command(payer) and held.may_subscribe() for _ in range(100_000))
    assert payer.paid_until_s == 0.0
    assert held.subscribes_left(payer, 64) == 64


def test_a_stream_of_more_zones_than_a_burst_begins_when_all_is_paid_for() -> None:
    """Or it never could."""
    clock = Clock()
    held = limits(clock, subscribes_per_s=1, subscribes_burst=5)
    assert held.subscribes_left(Payer(), 64) == 5
    assert held.may_subscribe(64)
    assert held.subscribes_left(Payer(), 64) == 0
    assert not held.may_subscribe()
    clock.now_s += 5
    assert held.may_subscribe(64)


def test_what_may_be_read_ahead_is_what_a_connection_may_still_ask() -> None:
    """By its own rate of commands, too."""
    held = limits(Clock(), commands_per_s=1, commands_burst=10)
    payer = Payer()
    for _ in range(7):
        held.may_command(payer)
    assert held.subscribes_left(payer, 64) == 3
    assert held.subscribes_left(payer, 2) == 2
    for _ in range(7):
        held.may_command(payer)
    assert held.subscribes_left(payer, 64) == 0


async def test_commands_over_the_rate_get_a_temporary_error_each() -> None:
    """Each has its answer, in order; the connection and its subscriptions go on."""
    async with served(commands_per_s=0.001, commands_burst=12) as world:
        async with world.talker("zone:A") as talker:
            await talker.say(*({"id": 100 + number, "ping": {}} for number in range(20)))
            replies = [await talker.line() for _ in range(20)]
            assert [reply["id"] for reply in replies] == list(range(100, 120))
            # Two were connect and subscribe.
            assert ["ping" in reply for reply in replies] == [True] * 10 + [False] * 10
            error = {"code": 111, "message": "too many requests", "temporary": True}
            assert all(reply["error"] == error for reply in replies[10:])
            world.commit((1, "A"))
            assert (await talker.line())["push"]["channel"] == "zone:A"
            assert await refused(world, "commands") == 10
        async with world.talker("zone:A"):
            pass  # Another connection is not held to it.


async def test_an_unsubscribe_over_the_rate_is_done() -> None:
    """SDKs would take an error for a lost connection."""
    bounds: dict[str, Any] = {"commands_per_s": 0.001, "commands_burst": 2}
    async with served(**bounds) as world, world.talker("zone:A") as talker:
        assert "error" in await talker.ask("ping")
        assert (await talker.ask("unsubscribe", channel="zone:A"))["unsubscribe"] == {}


async def test_a_flood_of_commands_is_cut_with_3509() -> None:
    """Whoever goes on for ten bursts doesn't come back by itself."""
    async with served(commands_per_s=0.001, commands_burst=10) as world:
        async with world.talker() as talker:
            await talker.say(*({"id": number, "ping": {}} for number in range(2, 202)))
            assert await talker.closing() == (3509, "too many errors")
            assert await refused(world, "flood") == 1
        await world.until_alone()


async def test_a_min_is_no_way_past_the_rate() -> None:
    """What fails before its turn costs what any command does."""
    asked = {"channel": "zone:nowhere", "data": {"min": "e1:1"}}
    async with served(commands_per_s=0.001, commands_burst=10) as world, world.talker() as talker:
        await talker.say(*({"id": number, "subscribe": asked} for number in range(2, 202)))
        assert await talker.closing() == (3509, "too many errors")
        assert await refused(world, "flood") == 1


async def refused(world: WireWorld, limit: str) -> float | None:
    """How often a limit kept something out."""
    sample = world.node.metrics.registry.get_sample_value
    return sample("zonecast_limit_refusals_total", {"limit": limit})


async def come_in(world: WireWorld, talkers: list[Talker], refusals: list[int]) -> None:
    """Connect and subscribe as SDKs do: back off, and try again."""
    async with world.talker() as talker:
        pause_s = 0.05
        while "error" in (reply := await talker.ask("subscribe", channel="zone:A")):
            assert reply["error"]["code"] == 111
            refusals.append(1)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.4)
        talkers.append(talker)
        await talker.line()


async def test_a_storm_beyond_the_rate_is_spread_and_everybody_gets_in() -> None:
    """Who is told to wait tries again; nobody is lost, and a change reaches all of them."""
    async with served(subscribes_per_s=100, subscribes_burst=20) as world:
        talkers: list[Talker] = []
        refusals: list[int] = []
        async with asyncio.TaskGroup() as crowd:
            for _ in range(100):
                crowd.create_task(come_in(world, talkers, refusals))
            while len(talkers) < 100:  # noqa: ASYNC110 - the crowd has no event
                await asyncio.sleep(0.01)
            world.commit((1, "A"))
        assert len(refusals) > 50
        assert await refused(world, "subscribes") == len(refusals)


async def test_what_is_refused_is_not_read_for_anybody() -> None:
    """Subscribes behind one that waits are not prepared beyond the rate."""
    zones = [f"Z{number}" for number in range(30)]
    async with served(zones=zones, subscribes_per_s=0.001, subscribes_burst=10) as world:
        async with world.talker() as talker:
            await talker.say(
                *({"id": 10 + i, "subscribe": {"channel": f"zone:Z{i}"}} for i in range(30))
            )
            replies = [await talker.line() for _ in range(30)]
            assert ["subscribe" in reply for reply in replies] == [True] * 10 + [False] * 20
        asked = {channel for what, channel in world.truth.asked if what == "state"}
        assert len(asked) <= 10


async def test_a_stream_over_the_rate_of_subscriptions_is_told_when_to_come_back() -> None:
    """503 with Retry-After, before anything is read."""
    async with (
        served_sse(subscribes_per_s=0.001, subscribes_burst=2) as world,
        world.source("A", "B") as source,
        httpx.AsyncClient(trust_env=False) as client,
    ):
        await source.next("snapshot")
        answer = await client.get(f"{world.url}/sse?zone=A")
        assert answer.status_code == 503
        assert answer.json()["type"] == "/problems/overloaded"
        assert int(answer.headers["retry-after"]) >= 1
