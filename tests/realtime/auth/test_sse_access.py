"""Event streams, asked for with every kind of token, shown in every way, and how they end."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.realtime.auth.conftest import StartGuarded
from tests.realtime.auth.minter import Minter, bearer
from tests.realtime.auth.test_revocations import BOUND_S, PATIENCE_S, revoke, two_nodes
from tests.realtime.auth.test_websocket_revocations import MARGIN_S, old
from tests.realtime.auth.test_websocket_tokens import lasting, make_zones, rename
from tests.realtime.auth.token_kinds import ELSEWHERE, HERE, VALID, invalid_tokens
from tests.realtime.event_source import EventSource, StreamEndedError, event_source
from tests.realtime.wire_world import until
from tests.servers import RedisServer

if TYPE_CHECKING:
    from tests.realtime.conftest import LiveNode

Guarded = tuple[httpx.AsyncClient, "LiveNode"]


@dataclass(frozen=True)
class Row:
    """One request for a stream, and what it needs.

    Attributes:
        where: `here`, `all`, or `any`: the scope `read` and no zone.
        zones: Those that it names.
        fine: The status for who may.
        query: What else it says.
    """

    where: str
    zones: tuple[str, ...]
    fine: int = 200
    query: tuple[tuple[str, str], ...] = ()


ROWS = [
    Row("here", (HERE,)),
    Row("here", (HERE,), query=(("since", f"{HERE}=ab:1"),)),
    Row("here", (HERE,), query=(("min", "ab:1"),)),
    Row("here", (HERE,), 400, query=(("since", "?"),)),
    Row("here", (HERE,), 400, query=(("min", "?"),)),
    Row("all", (HERE, ELSEWHERE)),
    Row("all", ("*",)),
    Row("all", ("*", HERE)),
    Row("all", ("F3-Z9",), 404),
    Row("all", ("not an id",), 422),
    Row("any", (), 422),
]


async def status(live: LiveNode, row: Row, headers: dict[str, str]) -> int:
    async with event_source(live.url, *row.zones, headers=headers, query=dict(row.query)) as source:
        return source.response.status_code


@pytest.mark.parametrize("kind", list(VALID))
async def test_a_token_gets_what_it_grants_and_no_more(
    prepared: httpx.AsyncClient, guarded: Guarded, minter: Minter, kind: str
) -> None:
    """Each request with each kind of valid token; 403 comes before any word about parameters."""
    scope, zones, grants = VALID[kind]
    sub = "taken" if "taken" in kind else "ada"
    headers = minter.header(zones=zones, scope=scope, sub=sub, iat=int(time.time()) - 60)
    for row in ROWS:
        reached = {"any"} if scope == "read" else set()
        if scope == "read" and grants:
            reached |= {"here"} if grants == "read here" else {"here", "all"}
        wanted = row.fine if row.where in reached else 403
        assert await status(guarded[1], row, headers) == wanted, row


WAYS = ["header", "cookie", "cookie of a page", "ticket", "query"]


async def ways_of(
    way: str, client: httpx.AsyncClient, live: LiveNode, token: str
) -> tuple[dict[str, str], dict[str, str]]:
    """Return headers and query that show a token."""
    match way:
        case "header":
            return bearer(token), {}
        case "cookie":
            return {"Cookie": f"zonecast={token}"}, {}
        case "cookie of a page":
            return {"Cookie": f"zonecast={token}", "Origin": live.url}, {}
        case "query":
            return {}, {"access_token": token}
        case _:
            answer = await client.post("/tickets", headers=bearer(token))
            return {}, {"ticket": answer.json().get("ticket", "x")}


@pytest.mark.parametrize("way", WAYS)
async def test_a_valid_token_gets_a_stream(
    start_guarded: StartGuarded, sqlite_url: str, minter: Minter, way: str
) -> None:
    """Each way."""
    async with start_guarded(sqlite_url, token_in_query=True) as (client, live):
        await make_zones(client, minter)
        token = minter.token(zones=[HERE], scope="read")
        headers, query = await ways_of(way, client, live, token)
        async with event_source(live.url, HERE, headers=headers, query=query) as source:
            assert (await source.next("snapshot"))["channel"] == f"zone:{HERE}"
        async with event_source(live.url, HERE, headers=headers, query=query) as source:
            # A ticket is good once.
            assert source.response.status_code == (401 if way == "ticket" else 200)


@pytest.mark.parametrize("way", WAYS)
async def test_without_a_valid_token_there_is_no_stream(
    prepared: httpx.AsyncClient, guarded: Guarded, minter: Minter, way: str
) -> None:
    """401, also to a request that is wrong in other ways; a token in the URL is none here."""
    client, live = guarded
    kinds = dict(invalid_tokens(minter))
    if way == "query":
        kinds["good"] = minter.token(zones=["*"], scope="read")
    for kind, token in kinds.items():
        headers, query = await ways_of(way, client, live, token) if token else ({}, {})
        for zones in ((HERE,), ("*",), ("not an id",), ()):
            async with event_source(live.url, *zones, headers=headers, query=query) as source:
                assert source.response.status_code == 401, kind
                assert source.response.headers["content-type"] == "application/problem+json"
                assert source.response.headers["www-authenticate"].startswith("Bearer")


async def test_a_session_is_not_for_pages_elsewhere(
    prepared: httpx.AsyncClient, guarded: Guarded, minter: Minter
) -> None:
    """A browser that a foreign page makes send it gets no stream."""
    cookie = {"Cookie": f"zonecast={minter.token(zones=['*'], scope='read')}"}
    for origin in ("https://evil.example", "null"):
        headers = {**cookie, "Origin": origin}
        assert await status(guarded[1], ROWS[0], headers) == 401


# The end


async def rest_of(source: EventSource) -> list[tuple[str, Any]]:
    """Read until the stream ends."""
    found: list[tuple[str, Any]] = []
    try:
        while True:
            event = await source.event()
            found.append((event.name, event.data))
    except StreamEndedError:
        return found


async def test_a_stream_ends_with_its_token_and_says_why(
    start_guarded: StartGuarded, sqlite_url: str, minter: Minter
) -> None:
    """By an event, within a second or two; a ticket's stream with the token that made it."""
    async with start_guarded(sqlite_url, jwt_leeway_s=0) as (client, live):
        await make_zones(client, minter)
        token = lasting(minter, 2, zones=["*"])
        for way in ("header", "ticket"):
            headers, query = await ways_of(way, client, live, token)
            async with event_source(live.url, HERE, headers=headers, query=query) as source:
                await source.next("snapshot")
                assert (await rest_of(source))[-1] == (
                    "disconnect",
                    {"code": 3005, "reason": "expired"},
                )
            token = lasting(minter, 2, zones=["*"])
        assert len(live.node.gate.revocations._watches) == 0


async def test_revoked_zones_end_the_streams_that_watch_them(
    prepared: httpx.AsyncClient, guarded: Guarded, minter: Minter
) -> None:
    """With an event that says why, and nothing that happens afterwards; others go on."""
    live, headers = guarded[1], bearer(old(minter))
    async with (
        event_source(live.url, HERE, headers=headers) as here,
        event_source(live.url, "*", headers=headers) as everything,
        event_source(live.url, ELSEWHERE, headers=headers) as elsewhere,
    ):
        await elsewhere.next("snapshot")
        await here.next("snapshot")
        await everything.next("snapshot")
        await revoke(prepared, minter, sub="ada", zones=["F1-*"])
        await rename(prepared, minter, HERE, "secret")
        for source in (here, everything):
            told = await rest_of(source)
            assert told[-1] == ("disconnect", {"code": 3507, "reason": "permission revoked"})
            assert "secret" not in str(told)
        await rename(prepared, minter, ELSEWHERE, "shown")
        assert (await elsewhere.next("changes"))["zones"][0]["zone_id"] == ELSEWHERE
    assert await status(live, ROWS[0], headers) == 403


@pytest.mark.parametrize("what", [{"sub": "ada"}, {"jti": "t"}])
async def test_a_revoked_token_s_streams_are_cut(
    prepared: httpx.AsyncClient, guarded: Guarded, minter: Minter, what: dict[str, str]
) -> None:
    """At once, whatever waits to be read."""
    headers = bearer(old(minter, jti="t"))
    async with event_source(guarded[1].url, HERE, headers=headers) as source:
        await source.next("snapshot")
        await revoke(prepared, minter, **what)
        with pytest.raises(httpx.RemoteProtocolError):
            await rest_of(source)
    assert len(guarded[1].node.gate.revocations._watches) == 0


async def test_what_is_taken_while_a_stream_begins_is_not_shown(
    prepared: httpx.AsyncClient,
    guarded: Guarded,
    minter: Minter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not even the state that was being read."""
    live = guarded[1]
    asked, answer = asyncio.Event(), asyncio.Event()
    read = live.node.change_log.read_states

    async def wait(channels: Any) -> Any:
        asked.set()
        await answer.wait()
        return await read(channels)

    monkeypatch.setattr(live.node.change_log, "read_states", wait)

    async def watch() -> list[tuple[str, Any]]:
        async with event_source(live.url, HERE, headers=bearer(old(minter))) as source:
            return await rest_of(source)

    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(watch())
        await asked.wait()
        await revoke(prepared, minter, sub="ada", zones=[HERE])
        answer.set()
    assert watching.result() == [
        ("disconnect", {"code": 3507, "reason": "permission revoked"}),
    ]


async def test_a_token_that_ends_while_a_stream_begins_shows_nothing(
    prepared: httpx.AsyncClient,
    guarded: Guarded,
    minter: Minter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There is no grace for a state that took long to be read."""
    gate = guarded[1].node.gate
    read = guarded[1].node.change_log.read_states

    async def read_late(channels: Any) -> Any:
        monkeypatch.setattr(gate._verifier, "unix_s", lambda: time.time() + 100_000)
        return await read(channels)

    monkeypatch.setattr(guarded[1].node.change_log, "read_states", read_late)
    async with event_source(guarded[1].url, HERE, headers=bearer(old(minter))) as source:
        event = await source.event()
        assert (event.name, event.data) == ("disconnect", {"code": 3005, "reason": "expired"})
        assert await rest_of(source) == []


async def test_nothing_is_read_for_who_may_not_have_it(
    prepared: httpx.AsyncClient,
    guarded: Guarded,
    minter: Minter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor is there a connection for it."""
    node = guarded[1].node

    def never(_channel: str) -> Any:
        pytest.fail("a channel was followed")

    monkeypatch.setattr(node.feed.follower, "_hold", never)
    for headers in ({}, minter.header(scope="read", zones=[ELSEWHERE])):
        assert await status(guarded[1], ROWS[0], headers) in {401, 403}
    assert len(node.connections) == 0


@pytest.mark.parametrize("bus", ["live", "down"])
async def test_it_reaches_streams_of_other_nodes(
    start_guarded: StartGuarded,
    postgres_url: str,
    own_redis: RedisServer,
    minter: Minter,
    bus: str,
) -> None:
    """By the bus, and without it by the comparison of heads, within the bound."""
    headers = bearer(old(minter))
    async with two_nodes(start_guarded, postgres_url, redis_url=own_redis.url) as [one, two]:
        await make_zones(one[0], minter)
        async with event_source(two[1].url, HERE, headers=headers) as source:
            await source.next("snapshot")
            if bus == "down":
                await own_redis.stop()
            async with asyncio.timeout(PATIENCE_S):
                began_s = time.monotonic()
                await revoke(one[0], minter, sub="ada", zones=[HERE])
                told = await rest_of(source)
                assert time.monotonic() - began_s < BOUND_S + MARGIN_S
            assert told[-1] == ("disconnect", {"code": 3507, "reason": "permission revoked"})
        await until(lambda: len(two[1].node.connections) == 0)
