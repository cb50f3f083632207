"""Presence where tokens are asked for: who is named to whom, and for how long."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import httpx

from tests.realtime.auth.conftest import StartGuarded
from tests.realtime.auth.minter import Minter
from tests.realtime.auth.test_revocations import revoke
from tests.realtime.auth.test_websocket_tokens import make_zones
from tests.realtime.auth.token_kinds import ELSEWHERE, HERE
from tests.realtime.auth.wire_guest import entered, problem
from tests.realtime.wire_world import Talker, until

if TYPE_CHECKING:
    from tests.realtime.conftest import LiveNode

Guarded = tuple[httpx.AsyncClient, "LiveNode"]
A, B = f"zone:{HERE}", f"zone:{ELSEWHERE}"


def old(minter: Minter, sub: str, *zones: str) -> str:
    """A token issued a minute ago."""
    return minter.token(
        sub=sub, zones=list(zones) or ["*"], scope="read", iat=int(time.time()) - 60
    )


async def users(talker: Talker, channel: str = A) -> list[str]:
    """Ask who is there."""
    reply = await talker.ask("presence", channel=channel)
    return sorted(info["user"] for info in reply["presence"]["presence"].values())


async def test_users_are_named_to_who_may_see_the_zone_and_nobody_else(
    prepared: httpx.AsyncClient, guarded: Guarded, minter: Minter
) -> None:
    """Whether by the connection's token or by a subscription's, and over HTTP."""
    live = guarded[1]
    async with (
        entered(live, old(minter, "ada")) as ada,
        entered(live, old(minter, "bob", ELSEWHERE)) as bob,
    ):
        await ada.subscribe(A)
        assert await users(ada) == ["ada"]
        assert problem(await bob.ask("presence", channel=A)) == 103
        assert problem(await bob.ask("presence_stats", channel=A)) == 103
        assert problem(await bob.ask("subscribe", channel=A, join_leave=True)) == 103
        await bob.subscribe(A, token=minter.token(sub="bob", channel=A))
        assert await users(bob) == ["ada", "bob"]
        answer = await prepared.get(
            f"/zones/{HERE}/presence", headers=minter.header(zones=[HERE], scope="read")
        )
        found = answer.json()
        assert (found["num_clients"], found["num_users"]) == (2, 2)
        assert sorted(each["user"] for each in found["clients"]) == ["ada", "bob"]


async def test_who_was_taken_the_zone_is_not_there_any_more(
    prepared: httpx.AsyncClient, guarded: Guarded, minter: Minter
) -> None:
    """At once, whether it was one zone or everything; and may not ask either."""
    live = guarded[1]
    async with (
        entered(live, old(minter, "ada")) as ada,
        entered(live, old(minter, "bob")) as bob,
        entered(live, old(minter, "ida")) as ida,
    ):
        for talker in (ada, bob, ida):
            await talker.subscribe(A)
        assert await users(ada) == ["ada", "bob", "ida"]
        await revoke(prepared, minter, sub="bob", zones=[HERE])
        await revoke(prepared, minter, sub="ida")
        assert await users(ada) == ["ada"]
        assert (await bob.line())["push"]["unsubscribe"]["code"] == 2001
        assert problem(await bob.ask("presence", channel=A)) == 103
        await ida.closing()


async def test_rights_are_asked_again_where_the_answer_is_written(
    prepared: httpx.AsyncClient, guarded: Guarded, minter: Minter
) -> None:
    """What was taken while other nodes were asked is not told."""
    live = guarded[1]
    release = asyncio.Event()
    look = live.node.attendance.look

    async with entered(live, old(minter, "ada")) as ada:
        waiting = asyncio.Event()

        async def late(channel: str, *, is_named: bool = True) -> object:
            waiting.set()
            await release.wait()
            return await look(channel, is_named=is_named)

        setattr(live.node.attendance, "look", late)  # noqa: B010 - a method of one object.
        await ada.say({"id": 7, "presence": {"channel": A}})
        await waiting.wait()
        await revoke(prepared, minter, sub="ada", zones=[HERE])
        release.set()
        assert problem(await ada.line()) == 103


async def test_who_comes_with_an_expired_token_is_not_there(
    start_guarded: StartGuarded, sqlite_url: str, minter: Minter
) -> None:
    """After the grace, in which it may be refreshed."""
    async with start_guarded(sqlite_url, token_grace_s=0.5, jwt_leeway_s=0) as (client, live):
        await make_zones(client, minter)
        ends_s = int(time.time()) + 2
        short = minter.token(sub="eve", zones=["*"], scope="read", exp=ends_s)
        async with (
            entered(live, old(minter, "ada")) as ada,
            entered(live, short) as eve,
        ):
            await ada.subscribe(A)
            await eve.subscribe(A)
            assert await users(ada) == ["ada", "eve"]
            assert await eve.closing() == (3005, "connection expired")
            await until(lambda: len(live.node.connections) == 1)
            assert await users(ada) == ["ada"]


async def test_a_zone_that_is_not_there_is_404_and_too_many_are_only_counted(
    start_guarded: StartGuarded, sqlite_url: str, minter: Minter
) -> None:
    """Over HTTP one answer has both."""
    headers = minter.header(zones=["*"], scope="read")
    async with start_guarded(sqlite_url, presence_max_clients=1) as (client, live):
        await make_zones(client, minter)
        assert (await client.get("/zones/none/presence", headers=headers)).status_code == 404
        answer = await client.get(f"/zones/{HERE}/presence", headers=headers)
        assert answer.json() == {"channel": A, "num_clients": 0, "num_users": 0, "clients": []}
        async with (
            entered(live, old(minter, "ada")) as one,
            entered(live, old(minter, "ada")) as two,
        ):
            await one.subscribe(A)
            await two.subscribe(A)
            answer = await client.get(f"/zones/{HERE}/presence", headers=headers)
            assert answer.json() == {
                "channel": A,
                "num_clients": 2,
                "num_users": 1,
                "clients": None,
            }
