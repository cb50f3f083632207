"""Tickets and the session's cookie: for browsers, which can't send a header everywhere."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from sqlalchemy import text

from realtime.auth.credentials import Credentials, Source
from realtime.auth.errors import Reason, RefusedError
from realtime.auth.principal import Principal
from tests.realtime.auth.conftest import StartGuarded
from tests.realtime.auth.minter import Minter, bearer

if TYPE_CHECKING:
    from tests.realtime.conftest import LiveNode

Guarded = tuple[httpx.AsyncClient, "LiveNode"]


async def ticket_of(client: httpx.AsyncClient, headers: dict[str, str]) -> str:
    answer = await client.post("/tickets", headers=headers)
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    ticket: str = answer.json()["ticket"]
    return ticket


async def redeem(live: LiveNode, ticket: str) -> Principal:
    return await live.node.gate.authenticate(Credentials(Source.TICKET, ticket))


async def test_a_ticket_lets_in_whom_its_token_would(guarded: Guarded, minter: Minter) -> None:
    """With the same zones and scopes, and no longer than the token."""
    client, live = guarded
    headers = minter.header(zones=["F1-*"], scope="read", jti="t")
    found = await redeem(live, await ticket_of(client, headers))
    token = headers["Authorization"].removeprefix("Bearer ")
    assert found == live.node.gate.authenticate_now(token)


async def test_a_ticket_is_good_once_on_all_nodes(
    start_guarded: StartGuarded, postgres_url: str, redis_url: str, minter: Minter
) -> None:
    """Shown to two nodes at once, again and again, it lets in exactly one."""
    given = {"redis_url": redis_url, "redis_prefix": "tickets"}
    async with (
        start_guarded(postgres_url, **given) as (client, one),
        start_guarded(postgres_url, **given) as (_, two),
    ):
        for _ in range(5):
            ticket = await ticket_of(client, minter.header())
            tries = [redeem(live, ticket) for live in (one, two, one, two)]
            results = await asyncio.gather(*tries, return_exceptions=True)
            assert sum(isinstance(result, Principal) for result in results) == 1
            refusals = [r for r in results if isinstance(r, RefusedError)]
            assert [refused.reason for refused in refusals] == [Reason.TICKET] * 3


async def test_a_ticket_ends_soon(
    start_guarded: StartGuarded, database_url: str, minter: Minter
) -> None:
    """An old one is none, and its row goes with the next one."""
    async with start_guarded(database_url, ticket_life_s=0.2) as (client, live):
        ticket = await ticket_of(client, minter.header())
        await asyncio.sleep(0.3)  # Time itself is what ends it.
        with pytest.raises(RefusedError):
            await redeem(live, ticket)
        for _ in range(2):
            await ticket_of(client, minter.header())
            await asyncio.sleep(0.3)
        async with live.node.database.reader.connect() as connection:
            assert await connection.scalar(text("SELECT count(*) FROM tickets")) == 1


async def test_a_ticket_is_not_in_the_database_as_it_is(guarded: Guarded, minter: Minter) -> None:
    """Who reads the table can't use what is in it."""
    client, live = guarded
    ticket = await ticket_of(client, minter.header())
    async with live.node.database.reader.connect() as connection:
        rows = (await connection.execute(text("SELECT * FROM tickets"))).all()
    assert len(rows) == 1
    assert ticket not in str(rows)


async def test_a_revoked_subject_s_ticket_is_good_for_nothing(
    guarded: Guarded, minter: Minter
) -> None:
    """Made before, shown after: what counts is when it is shown."""
    client, live = guarded
    ticket = await ticket_of(client, minter.header(iat=int(time.time()) - 60))
    admin = minter.header(sub="root", scope="admin")
    assert (await client.post("/admin/revoke", json={"sub": "ada"}, headers=admin)).is_success
    with pytest.raises(RefusedError) as caught:
        await redeem(live, ticket)
    assert caught.value.reason is Reason.REVOKED


async def test_there_may_be_so_many_tickets_and_no_more(
    start_guarded: StartGuarded, database_url: str, minter: Minter
) -> None:
    """The one too many is told to come later; one that was used makes room."""
    async with start_guarded(database_url, tickets_max=2) as (client, live):
        first = await ticket_of(client, minter.header())
        await ticket_of(client, minter.header())
        full = await client.post("/tickets", headers=minter.header())
        assert full.status_code == 503
        assert full.headers["retry-after"]
        await redeem(live, first)
        await ticket_of(client, minter.header())


@pytest.mark.parametrize("ticket", ["x", "x" * 10_000, "é", "'; DROP TABLE tickets; --"])
async def test_what_is_no_ticket_lets_nobody_in(guarded: Guarded, ticket: str) -> None:
    """Whatever it is."""
    _, live = guarded
    with pytest.raises(RefusedError):
        await redeem(live, ticket)


async def test_a_ticket_is_no_good_for_ordinary_requests(guarded: Guarded, minter: Minter) -> None:
    """It stands in URLs, which are logged; who can send a header sends the token."""
    client, live = guarded
    ticket = await ticket_of(client, minter.header(scope="read"))
    answer = await client.get("/zones", params={"ticket": ticket})
    assert answer.status_code == 401
    assert answer.json()["reason"] == "not_here"
    assert (await redeem(live, ticket)).subject == "ada"


async def test_a_token_in_the_url_is_accepted_only_where_the_settings_say(
    start_guarded: StartGuarded, sqlite_url: str, minter: Minter
) -> None:
    """By default it is refused, in words."""
    token = minter.token(scope="read")
    for allowed, expected in ((False, 401), (True, 200)):
        async with start_guarded(sqlite_url, token_in_query=allowed) as (client, _):
            answer = await client.get("/zones", params={"access_token": token})
            assert answer.status_code == expected
            assert token not in answer.text


async def open_session(client: httpx.AsyncClient, headers: dict[str, str]) -> httpx.Response:
    answer = await client.post("/session", headers=headers)
    assert answer.status_code == 204, answer.text
    return answer


async def test_a_session_s_cookie_is_out_of_reach_of_scripts_and_other_sites(
    guarded: Guarded, minter: Minter
) -> None:
    """HttpOnly, SameSite, for as long as the token."""
    client, _ = guarded
    cookie = (await open_session(client, minter.header(scope="read"))).headers["set-cookie"]
    for attribute in ("HttpOnly", "SameSite=strict", "Path=/", "Max-Age=6"):
        assert attribute in cookie
    assert (await client.get("/zones")).status_code == 200
    gone = await client.delete("/session")
    assert "Max-Age=0" in gone.headers["set-cookie"]
    assert (await client.get("/zones")).status_code == 401


async def test_over_https_the_cookie_is_bound_to_the_host(
    start_guarded: StartGuarded, sqlite_url: str, minter: Minter
) -> None:
    """By default it is Secure, with the prefix that no other host can set."""
    async with start_guarded(sqlite_url, session_cookie_secure=True) as (client, _):
        answer = await client.post("/session", headers=minter.header())
        assert answer.headers["set-cookie"].startswith("__Host-zonecast=")
        assert "Secure" in answer.headers["set-cookie"]


OWN, FOREIGN = {"origin": "{url}"}, {"origin": "https://evil.example"}


@pytest.mark.parametrize(
    ("method", "headers", "expected"),
    [
        ("GET", {}, 200),
        ("GET", OWN, 200),
        ("GET", FOREIGN, 401),
        ("GET", {"origin": "null"}, 401),
        ("POST", OWN, 201),
        ("POST", {}, 401),
        ("POST", FOREIGN, 403),
        ("POST", {"origin": "null"}, 403),
    ],
)
async def test_a_cookie_counts_only_for_pages_of_the_service(
    guarded: Guarded, minter: Minter, method: str, headers: dict[str, str], expected: int
) -> None:
    """A browser may send it for anybody's page; the Origin tells whose."""
    client, live = guarded
    token = minter.token(zones=["*"], scope="read write")
    headers = {name: value.format(url=live.url) for name, value in headers.items()}
    headers["cookie"] = f"other=1; zonecast={token}; more=2"
    body: dict[str, Any] = {"zone_id": "A", "name": "x"}
    answer = await client.request(
        method, "/zones", headers=headers, json=body if method == "POST" else None
    )
    assert answer.status_code == expected, answer.text


async def test_a_header_wins_over_a_cookie(guarded: Guarded, minter: Minter) -> None:
    """What was meant counts, not what the browser adds."""
    client, _ = guarded
    cookie = {"cookie": f"zonecast={minter.token(scope='read')}"}
    assert (await client.get("/zones", headers=cookie)).status_code == 200
    both = {**cookie, **bearer("nonsense")}
    assert (await client.get("/zones", headers=both)).status_code == 401


@pytest.mark.parametrize("value", ["Bearer", "Basic YTpi", "token", "Bearer a b", "bearer\tx"])
async def test_a_header_in_another_form_is_refused(guarded: Guarded, value: str) -> None:
    """In words that say how."""
    client, _ = guarded
    answer = await client.get("/zones", headers={"Authorization": value})
    assert answer.status_code == 401
    assert answer.json()["reason"] == "malformed"


async def test_a_token_too_long_for_a_cookie_is_told(guarded: Guarded, minter: Minter) -> None:
    """A browser would drop it and say nothing."""
    client, _ = guarded
    zones = [f"Zone-{number:04}" for number in range(250)]
    answer = await client.post("/session", headers=minter.header(zones=zones))
    assert answer.status_code == 422
