"""Tokens of live connections and subscriptions: renewed in place, or the end when they end."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.realtime.auth.conftest import StartGuarded
from tests.realtime.auth.minter import OTHER_SECRET, Minter
from tests.realtime.auth.token_kinds import ELSEWHERE, HERE
from tests.realtime.auth.wire_guest import entered, problem, push
from tests.realtime.encodings import JSON_LINES, Spoken
from tests.realtime.wire_world import Json, until

if TYPE_CHECKING:
    from channels.followed import Followed
    from tests.realtime.conftest import LiveNode

pytestmark = pytest.mark.usefixtures("each_encoding")

Guarded = tuple[httpx.AsyncClient, "LiveNode"]
A, B = f"zone:{HERE}", f"zone:{ELSEWHERE}"
SHORT = {"jwt_leeway_s": 0, "token_grace_s": 0.5}


def lasting(minter: Minter, seconds: float, **claims: Any) -> str:
    """Make a token that ends so soon."""
    now_s = time.time()
    return minter.token(**{"iat": int(now_s), "exp": now_s + seconds, "scope": "read", **claims})


async def make_zones(client: httpx.AsyncClient, minter: Minter) -> None:
    root = minter.header(sub="root", zones=["*"], scope="write")
    for zone_id in (HERE, ELSEWHERE):
        made = await client.post("/zones", json={"zone_id": zone_id, "name": "x"}, headers=root)
        assert made.status_code == 201


async def rename(client: httpx.AsyncClient, minter: Minter, zone_id: str, name: str) -> None:
    """Make a change that watchers of a zone see."""
    root = minter.header(sub="root", zones=["*"], scope="write")
    answer = await client.patch(f"/zones/{zone_id}", json={"name": name}, headers=root)
    assert answer.status_code == 200


async def fill(client: httpx.AsyncClient, minter: Minter, zone_id: str) -> None:
    """Put half a megabyte of users into a zone."""
    root = minter.header(sub="root", zones=["*"], scope="write")
    users = [
        {"global_id": n, "name": "x", "zone_id": zone_id, "attributes": {"a": "x" * 5_000}}
        for n in range(100, 200)
    ]
    made = await client.post("/users/bulk", json={"users": users}, headers=root)
    assert made.status_code == 201, made.text


# The connection's token


async def test_a_token_is_refreshed_in_place(prepared: httpx.AsyncClient, guarded: Guarded) -> None:
    """The connection goes on, with what the new token grants."""
    minter = Minter()
    async with entered(guarded[1], minter.token(zones=[HERE], scope="read")) as talker:
        await talker.subscribe(A)
        assert problem(await talker.ask("subscribe", channel=B)) == 103
        more = minter.token(zones=[HERE, ELSEWHERE], scope="read", exp=int(time.time()) + 60)
        reply = (await talker.ask("refresh", token=more))["refresh"]
        assert reply["expires"] is True
        assert 50 < reply["ttl"] <= 65
        await talker.subscribe(B)
        await rename(prepared, minter, HERE, "after")
        assert (await push(talker))["channel"] == A


async def test_a_refresh_with_fewer_zones_takes_their_channels(
    prepared: httpx.AsyncClient, guarded: Guarded, minter: Minter
) -> None:
    """The client is told which, before it gets the reply, and hears nothing of them any more."""
    async with entered(guarded[1], minter.token(zones=["*"], scope="read")) as talker:
        for channel in (A, B, "zones"):
            await talker.subscribe(channel)
        less = minter.token(zones=[ELSEWHERE], scope="read")
        await talker.say({"id": 9, "refresh": {"token": less}})
        lost = [await push(talker), await push(talker)]
        assert [found["channel"] for found in lost] == [A, "zones"]
        assert {found["unsubscribe"]["code"] for found in lost} == {2001}
        assert "refresh" in await talker.line()
        await rename(prepared, minter, HERE, "secret")
        await rename(prepared, minter, ELSEWHERE, "shown")
        assert (await push(talker))["channel"] == B


@pytest.mark.parametrize(
    ("changed", "secret"),
    [({"sub": "eve"}, None), ({}, OTHER_SECRET), ({"channel": A}, None), ({"aud": "x"}, None)],
)
async def test_a_refresh_with_a_token_that_is_not_good_closes(
    guarded: Guarded, minter: Minter, changed: dict[str, Any], secret: str | None
) -> None:
    """Somebody else's, or none at all."""
    async with entered(guarded[1], minter.token(scope="read")) as talker:
        maker = Minter(secret=secret) if secret else minter
        await talker.say({"id": 2, "refresh": {"token": maker.token(**changed)}})
        assert await talker.closing() == (3500, "invalid token")


async def test_a_refresh_with_an_ended_token_is_told_so(guarded: Guarded, minter: Minter) -> None:
    """The connection lasts as long as its own token."""
    async with entered(guarded[1], minter.token(scope="read")) as talker:
        ended = minter.token(exp=int(time.time()) - 60)
        assert problem(await talker.ask("refresh", token=ended)) == 109
        assert "ping" in await talker.ask("ping")


async def test_who_does_not_refresh_is_closed_after_the_grace(
    start_guarded: StartGuarded, sqlite_url: str, minter: Minter
) -> None:
    """Meanwhile it keeps what it has, and gets nothing new."""
    async with start_guarded(sqlite_url, **{**SHORT, "token_grace_s": 2}) as (client, live):
        await make_zones(client, minter)
        token = lasting(minter, 1, zones=["*"])
        async with entered(live, token) as talker:
            await talker.subscribe(A)
            ends_s = time.time() + 1
            await until(lambda: time.time() > ends_s)
            for method, params in (
                ("subscribe", {"channel": B}),
                ("subscribe", {"channel": "zones", "data": {"min": "ab:9"}}),
                ("history", {"channel": A}),
                ("rpc", {"method": "digest", "data": {"channel": A}}),
            ):
                assert problem(await talker.ask(method, **params)) == 109, method
            await rename(client, minter, HERE, "in the grace")
            assert (await push(talker))["channel"] == A
            assert await talker.closing() == (3005, "connection expired")
            assert 1.5 < time.time() - ends_s < 8


async def test_who_refreshes_in_the_grace_goes_on(
    start_guarded: StartGuarded, sqlite_url: str, minter: Minter
) -> None:
    """Past the end of the first token and its grace."""
    async with start_guarded(sqlite_url, **SHORT) as (_, live):
        token = lasting(minter, 1)
        async with entered(live, token) as talker, entered(live, token) as other:
            assert "refresh" in await talker.ask("refresh", token=lasting(minter, 60))
            assert await other.closing() == (3005, "connection expired")
            assert "ping" in await talker.ask("ping")
            assert len(live.node.gate.revocations._watches) == 1


async def test_an_expired_connection_that_does_not_read_is_not_waited_for(
    start_guarded: StartGuarded, sqlite_url: str, minter: Minter
) -> None:
    """A close frame would wait behind what it leaves in its socket."""
    given = {**SHORT, "slow_buffer_max_bytes": 1_000, "pong_timeout_s": 60}
    async with start_guarded(sqlite_url, **given) as (client, live):
        await make_zones(client, minter)
        await fill(client, minter, HERE)
        async with entered(live, lasting(minter, 1.5, zones=["*"]), max_size=None) as talker:
            talker.socket.transport.pause_reading()
            for number in range(2, 12):
                await talker.say({"id": number, "subscribe": {"channel": A}})
                await talker.say({"id": number + 50, "unsubscribe": {"channel": A}})
            await until(lambda: len(live.node.connections) == 0)


# Subscription tokens


async def test_another_backend_s_grant_opens_one_channel(
    prepared: httpx.AsyncClient, guarded: Guarded, minter: Minter
) -> None:
    """Whatever the connection's own token grants; for as long as it says, with all it shows."""
    async with entered(guarded[1], minter.token()) as talker:
        token = minter.token(channel=A)
        reply = await talker.subscribe(A, token=token)
        assert reply["expires"] is True
        assert 590 < reply["ttl"] <= 606
        assert problem(await talker.ask("history", channel=A)) == 0
        assert problem(await talker.ask("rpc", method="digest", data={"channel": A})) == 0
        assert problem(await talker.ask("history", channel=B)) == 103
        await rename(prepared, minter, HERE, "shown")
        assert (await push(talker))["channel"] == A
        await talker.ask("unsubscribe", channel=A)
        assert problem(await talker.ask("history", channel=A)) == 103
        assert problem(await talker.ask("subscribe", channel=A)) == 103
        resumed = await talker.subscribe(
            A, token=token, recover=True, epoch=reply["epoch"], offset=reply["offset"]
        )
        assert resumed["recovered"] is True
        assert resumed["expires"] is True


@pytest.mark.parametrize("channel", ["zones", "unassigned"])
async def test_a_grant_for_a_channel_of_all_zones_opens_no_zone(
    prepared: httpx.AsyncClient, guarded: Guarded, minter: Minter, channel: str
) -> None:
    """It is for that channel alone."""
    async with entered(guarded[1], minter.token()) as talker:
        await talker.subscribe(channel, token=minter.token(channel=channel))
        assert problem(await talker.ask("subscribe", channel=A)) == 103
        assert problem(await talker.ask("history", channel=A)) == 103


async def test_a_grant_that_is_not_good_opens_nothing(
    prepared: httpx.AsyncClient, guarded: Guarded, minter: Minter
) -> None:
    """The connection goes on; one that has ended says so, for another try."""
    now_s = int(time.time())
    wrong: list[tuple[Any, int]] = [
        ("nonsense", 103),
        (minter.token(channel=B), 103),
        (minter.token(channel="zones"), 103),
        (minter.token(channel=A, sub="bob"), 103),
        (minter.token(channel=A, zones=["*"]), 103),
        (minter.token(channel=A, aud="other"), 103),
        (minter.token(channel=A, jti="stolen"), 103),
        (Minter(secret=OTHER_SECRET).token(channel=A), 103),
        (minter.token(zones=["*"], scope="read"), 103),
        (minter.token(channel=A, exp=now_s - 60), 109),
    ]
    if Spoken.now is JSON_LINES:
        wrong.append((7, 107))
    async with entered(guarded[1], minter.token()) as talker:
        for token, code in wrong:
            for data in ({}, {"min": "abcd:9"}):
                reply = await talker.ask("subscribe", channel=A, token=token, data=data)
                assert problem(reply) == code, (token, data, reply)
        await talker.subscribe(A, token=minter.token(channel=A), data={"min": "abcd:9"})
        assert problem(await talker.ask("subscribe", channel=A, token=minter.token(channel=A))) == (
            105
        )
    async with entered(guarded[1], minter.token(sub="taken")) as talker:
        old = minter.token(channel=A, sub="taken", iat=now_s - 60)
        assert problem(await talker.ask("subscribe", channel=A, token=old)) == 103


async def test_a_subscription_is_refreshed_in_place(
    start_guarded: StartGuarded, sqlite_url: str, minter: Minter
) -> None:
    """Past the end of its first token and its grace; the one that isn't ends with 2501."""
    async with start_guarded(sqlite_url, **SHORT) as (client, live):
        await make_zones(client, minter)
        async with entered(live, minter.token()) as talker:
            for channel in (A, B):
                await talker.subscribe(
                    channel, token=lasting(minter, 1, channel=channel, scope=None)
                )
            longer = minter.token(channel=A)
            reply = (await talker.ask("sub_refresh", channel=A, token=longer))["sub_refresh"]
            assert reply["expires"] is True
            assert 590 < reply["ttl"] <= 600
            ended = await push(talker)
            assert ended["channel"] == B
            assert ended["unsubscribe"]["code"] == 2501
            await rename(client, minter, ELSEWHERE, "secret")
            await rename(client, minter, HERE, "shown")
            assert (await push(talker))["channel"] == A


async def test_a_subscription_refresh_needs_a_subscription_with_a_token(
    prepared: httpx.AsyncClient, guarded: Guarded, minter: Minter
) -> None:
    """103 for a channel that isn't there, or is the connection's own; 109 for an ended token."""
    async with entered(guarded[1], minter.token(zones=[HERE], scope="read")) as talker:
        await talker.subscribe(A)
        for channel in (A, B):
            token = minter.token(channel=channel)
            assert problem(await talker.ask("sub_refresh", channel=channel, token=token)) == 103
        await talker.subscribe(B, token=minter.token(channel=B))
        ended = minter.token(channel=B, exp=int(time.time()) - 60)
        assert problem(await talker.ask("sub_refresh", channel=B, token=ended)) == 109
        other = minter.token(channel=A)
        assert problem(await talker.ask("sub_refresh", channel=B, token=other)) == 103


# What it costs


async def test_nothing_is_read_for_who_may_not_have_it(
    prepared: httpx.AsyncClient,
    guarded: Guarded,
    minter: Minter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither for a command, nor for those behind one that waits, nor for one with a `min`."""
    follower = guarded[1].node.feed.follower
    held: list[str] = []
    hold = follower._hold

    def noting(channel: str) -> Followed:
        held.append(channel)
        return hold(channel)

    monkeypatch.setattr(follower, "_hold", noting)
    async with entered(guarded[1], minter.token(zones=[HERE], scope="read")) as talker:
        variants: list[Json] = [{"token": "nonsense"}, {"data": {"min": "abcd:9"}}, {}]
        commands: list[Json] = [{"id": 2, "subscribe": {"channel": A}}]
        for number in range(3, 40):
            request = {"channel": B, **variants[number % 3]}
            commands.append({"id": number, "subscribe": request})
        await talker.say(*commands)
        replies = [await talker.line() for _ in commands]
        assert sorted(problem(reply) for reply in replies) == [0] + [103] * 37
        assert set(held) == {A}


async def test_connections_of_equal_tokens_share_a_principal(
    guarded: Guarded, minter: Minter
) -> None:
    """And leave nothing behind."""
    watches = guarded[1].node.gate.revocations._watches
    token = minter.token(zones=["F1-*"], scope="read", jti="t")
    async with entered(guarded[1], token), entered(guarded[1], token):
        principals = {id(watch.principal) for watch in watches._by_token["t"]}  # type: ignore[union-attr]  # two: a set
        assert len(watches) == 2
        assert len(principals) == 1
        other = minter.token(zones=["F1-*"], scope="read", sub="eve")
        async with entered(guarded[1], other):
            one, two = (guarded[1].node.gate.authenticate_now(each) for each in (token, other))
            assert one.zones is two.zones
    async with asyncio.timeout(10):
        await until(lambda: len(watches) == 0)
    assert not watches._by_token
    assert not watches._by_subject
