"""Revocation of who is connected: what was taken is gone, and nothing of it comes afterwards."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from realtime.client import Changed, Gone, Update, watch
from tests.realtime.auth.conftest import StartGuarded
from tests.realtime.auth.minter import Minter
from tests.realtime.auth.test_revocations import BOUND_S, PATIENCE_S, revoke, two_nodes
from tests.realtime.auth.test_websocket_tokens import A, B, fill, make_zones, rename
from tests.realtime.auth.token_kinds import ELSEWHERE, HERE
from tests.realtime.auth.wire_guest import dialled, entered, problem, push
from tests.realtime.wire_world import Talker, until
from tests.servers import RedisServer

if TYPE_CHECKING:
    from tests.realtime.conftest import LiveNode

pytestmark = pytest.mark.usefixtures("each_encoding")

Guarded = tuple[httpx.AsyncClient, "LiveNode"]
MARGIN_S = 2.0
"""What a busy machine may add to the promise."""


def old(minter: Minter, **changed: Any) -> str:
    """A token for all zones, issued a minute ago."""
    return minter.token(
        **{"zones": ["*"], "scope": "read", "iat": int(time.time()) - 60, **changed}
    )


@asynccontextmanager
async def watching(live: LiveNode, token: str, *channels: str) -> AsyncIterator[Talker]:
    async with entered(live, token) as talker:
        for channel in channels:
            await talker.subscribe(channel)
        yield talker


async def test_revoked_zones_are_taken_from_who_watches_them(
    prepared: httpx.AsyncClient, guarded: Guarded, minter: Minter
) -> None:
    """The client is told which; what it still has goes on, and what was taken stays away."""
    async with (
        watching(guarded[1], old(minter), A, B, "zones") as talker,
        watching(guarded[1], old(minter, sub="bob"), A) as bob,
    ):
        await revoke(prepared, minter, sub="ada", zones=["F1-*"])
        ended = [await push(talker), await push(talker)]
        assert [(each["channel"], each["unsubscribe"]["code"]) for each in ended] == [
            (A, 2001),
            ("zones", 2001),
        ]
        await rename(prepared, minter, HERE, "secret")
        await rename(prepared, minter, ELSEWHERE, "shown")
        assert (await push(talker))["channel"] == B
        assert (await push(bob))["channel"] == A
        for method, params in (
            ("subscribe", {"channel": A}),
            ("subscribe", {"channel": A, "recover": True, "epoch": "ab", "offset": 1}),
            ("history", {"channel": A, "limit": 10}),
            ("rpc", {"method": "digest", "data": {"channel": A}}),
        ):
            assert problem(await talker.ask(method, **params)) == 103, method


async def test_the_python_client_leaves_a_revoked_zone_and_keeps_the_others(
    prepared: httpx.AsyncClient, guarded: Guarded, minter: Minter
) -> None:
    """It is told as gone, is shown empty, and is not asked for again on the same connection."""
    async with watch(guarded[1].url, [HERE, ELSEWHERE], token=old(minter)) as zones:
        await revoke(prepared, minter, sub="ada", zones=["F1-*"])
        told: list[Update] = []
        while not told or not isinstance(told[-1], Gone):
            told.append(await anext(zones))
        assert told[-1] == Gone(HERE, 2001, "permission revoked")
        assert zones[HERE].is_gone
        assert not zones[HERE].users
        await rename(prepared, minter, HERE, "secret")
        await rename(prepared, minter, ELSEWHERE, "shown")
        # The answer comes behind whatever else the client may have asked.
        assert await zones.check(ELSEWHERE)
        change = await anext(zones)
        assert isinstance(change, Changed)
        assert change.zone_ids == (ELSEWHERE,)
        assert (zones.status.state, zones.connections) == ("live", 1)


@pytest.mark.parametrize("what", [{"sub": "ada"}, {"jti": "t"}])
async def test_a_revoked_connection_is_dropped_at_once(
    prepared: httpx.AsyncClient, guarded: Guarded, minter: Minter, what: dict[str, str]
) -> None:
    """Without a word; it is not let in again, others stay."""
    token = old(minter, jti="t")
    async with (
        watching(guarded[1], token, A) as talker,
        watching(guarded[1], old(minter, sub="bob"), A) as bob,
    ):
        await revoke(prepared, minter, **what)
        assert (await talker.closing())[0] == 1006
        await rename(prepared, minter, HERE, "secret")
        assert (await push(bob))["channel"] == A
    assert guarded[1].node.metrics.registry.get_sample_value(
        "zonecast_connections_closed_total", {"transport": "websocket", "code": "3500"}
    )
    async with dialled(guarded[1]) as talker:
        await talker.say({"id": 1, "connect": {"token": token}})
        assert await talker.closing() == (3500, "invalid token")


async def test_who_does_not_read_is_not_sent_what_waits_for_it(
    start_guarded: StartGuarded, sqlite_url: str, minter: Minter
) -> None:
    """A polite end would come behind what was buffered before."""
    given = {"slow_buffer_max_bytes": 1_000, "pong_timeout_s": 120}
    async with start_guarded(sqlite_url, **given) as (client, live):
        await make_zones(client, minter)
        await fill(client, minter, HERE)
        async with entered(live, old(minter), max_size=None) as talker:
            talker.socket.transport.pause_reading()
            for number in range(2, 12):
                await talker.say({"id": number, "subscribe": {"channel": A}})
                await talker.say({"id": number + 50, "unsubscribe": {"channel": A}})
            [(session, _)] = live.node.connections.listed()
            await until(lambda: session.queued_bytes > 100_000)
            await revoke(client, minter, sub="ada")
            await until(lambda: len(live.node.connections) == 0)


async def test_a_revoked_grant_of_another_backend_ends_its_channel(
    prepared: httpx.AsyncClient, guarded: Guarded, minter: Minter
) -> None:
    """By its id, or by the zone; the connection goes on."""
    iat = int(time.time()) - 60
    async with entered(guarded[1], minter.token(sub="ada", iat=iat)) as talker:
        for channel, jti in ((A, "one"), (B, "two")):
            await talker.subscribe(channel, token=minter.token(channel=channel, jti=jti, iat=iat))
        await revoke(prepared, minter, jti="one")
        ended = await push(talker)
        assert (ended["channel"], ended["unsubscribe"]["code"]) == (A, 2001)
        await revoke(prepared, minter, sub="ada", zones=[ELSEWHERE])
        ended = await push(talker)
        assert (ended["channel"], ended["unsubscribe"]["code"]) == (B, 2001)
        await rename(prepared, minter, HERE, "secret")
        await rename(prepared, minter, ELSEWHERE, "secret")
        assert "ping" in await talker.ask("ping")
        newer = minter.token(channel=B, iat=int(time.time()) + 2)
        assert problem(await talker.ask("subscribe", channel=B, token=newer)) == 0


@pytest.mark.parametrize("command", ["subscribe", "permitted", "history", "digest"])
async def test_what_is_taken_while_it_is_read_is_not_shown(
    prepared: httpx.AsyncClient,
    guarded: Guarded,
    minter: Minter,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    """Rights are asked again in the step in which the answer is written."""
    live = guarded[1]
    asked, answer = asyncio.Event(), asyncio.Event()
    log = live.node.change_log

    def held(name: str) -> None:
        read = getattr(log, name)

        async def wait(*args: Any, **named: Any) -> Any:
            asked.set()
            await answer.wait()
            return await read(*args, **named)

        monkeypatch.setattr(log, name, wait)

    for name in ("read_state", "read_states", "read_changes"):
        held(name)
    is_permitted = command == "permitted"
    iat = int(time.time()) - 60
    token = minter.token(iat=iat) if is_permitted else old(minter)
    async with entered(live, token) as talker:
        request: dict[str, Any] = {"id": 2, "subscribe": {"channel": A}}
        if is_permitted:
            request["subscribe"]["token"] = minter.token(channel=A, iat=iat)
        elif command == "history":
            request = {"id": 2, "history": {"channel": A, "limit": 10}}
        elif command == "digest":
            request = {"id": 2, "rpc": {"method": "digest", "data": {"channel": A}}}
        await talker.say(request)
        await asked.wait()
        await revoke(prepared, minter, sub="ada", zones=[HERE])
        answer.set()
        assert problem(await talker.line()) == 103
        await rename(prepared, minter, HERE, "secret")
        assert "ping" in await talker.ask("ping")


@asynccontextmanager
async def watched_beside(
    start: StartGuarded, minter: Minter, url: str, **given: object
) -> AsyncIterator[tuple[httpx.AsyncClient, httpx.AsyncClient, Talker, Talker]]:
    """Two nodes, and on the second two clients that watch."""
    async with two_nodes(start, url, **given) as [(one, _), (two, live)]:
        await make_zones(one, minter)
        async with (
            watching(live, old(minter), A, B) as ada,
            watching(live, old(minter, sub="eve"), A) as eve,
        ):
            yield one, two, ada, eve


async def check_bounds(one: httpx.AsyncClient, minter: Minter, ada: Talker, eve: Talker) -> None:
    """Revoke on one node, and see within which time the clients of the other one notice."""
    async with asyncio.timeout(PATIENCE_S):
        began_s = time.monotonic()
        await revoke(one, minter, sub="ada", zones=[HERE])
        ended = await push(ada)
        assert time.monotonic() - began_s < BOUND_S + MARGIN_S
        assert (ended["channel"], ended["unsubscribe"]["code"]) == (A, 2001)
        began_s = time.monotonic()
        await revoke(one, minter, sub="eve")
        assert (await eve.closing())[0] == 1006
        assert time.monotonic() - began_s < BOUND_S + MARGIN_S
        await rename(one, minter, HERE, "secret")
        await rename(one, minter, ELSEWHERE, "shown")
        assert (await push(ada))["channel"] == B


async def test_the_bus_brings_it_to_clients_of_other_nodes(
    start_guarded: StartGuarded, postgres_url: str, redis_url: str, minter: Minter
) -> None:
    """At once, as a rule; the bound is the promise."""
    given = {"redis_url": redis_url, "redis_prefix": "ws-revocations"}
    async with watched_beside(start_guarded, minter, postgres_url, **given) as (one, _, ada, eve):
        await check_bounds(one, minter, ada, eve)


async def test_head_checks_bring_it_while_the_bus_is_down(
    start_guarded: StartGuarded, postgres_url: str, own_redis: RedisServer, minter: Minter
) -> None:
    """Within the bound, too."""
    given = {"redis_url": own_redis.url}
    async with watched_beside(start_guarded, minter, postgres_url, **given) as (one, _, ada, eve):
        await own_redis.stop()
        await check_bounds(one, minter, ada, eve)
