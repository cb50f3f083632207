"""Every command of the WebSocket protocol, asked with every kind of token, shown in every way."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from realtime.websocket.centrifuge_codec import METHODS
from tests.realtime.auth.conftest import StartGuarded
from tests.realtime.auth.minter import Minter, bearer
from tests.realtime.auth.token_kinds import ELSEWHERE, HERE, VALID, invalid_tokens
from tests.realtime.auth.wire_guest import dialled, entered, problem
from tests.realtime.wire_world import Talker

if TYPE_CHECKING:
    from tests.realtime.conftest import LiveNode

Guarded = tuple[httpx.AsyncClient, "LiveNode"]
DENIED, UNKNOWN = 103, 102
ABSENT = "F1-Z9"
"""A zone that doesn't exist."""


@dataclass(frozen=True)
class Row:
    """One command, and what it needs; written down apart from the service's own policy.

    Attributes:
        where: `here`: HERE; `pattern`: what F1-* grants; `all`: all zones; empty: any token.
        params: Of the command.
        fine: The error code that is answered to who may; 0: none.
    """

    where: str = ""
    params: dict[str, Any] = field(default_factory=dict)
    fine: int = 0


def on_channels(**params: Any) -> list[Row]:
    """The rows of a command that reads one channel."""
    return [
        Row("here", {"channel": f"zone:{HERE}", **params}),
        Row("pattern", {"channel": f"zone:{ABSENT}", **params}, fine=UNKNOWN),
        Row("all", {"channel": "zone:F3-Z9", **params}, fine=UNKNOWN),
        Row("all", {"channel": "zone:not an id", **params}, fine=UNKNOWN),
        Row("all", {"channel": "zones", **params}),
        Row("all", {"channel": "unassigned", **params}),
        Row("nobody", {"channel": "revocations", **params}),
        Row("nobody", {"channel": "no channel", **params}),
    ]


def whether_there_or_not(row: Row) -> Row:
    """Who watches is told without a look at the zone: one that isn't there, nobody watches."""
    is_name = " " not in row.params["channel"]
    return Row(row.where, row.params, 0 if is_name else row.fine)


def digest(row: Row) -> Row:
    return Row(row.where, {"method": "digest", "data": row.params}, row.fine)


ROWS: dict[str, list[Row]] = {
    "connect": [],
    "subscribe": [
        *on_channels(),
        *on_channels(recover=True, epoch="_", offset=7),
        *on_channels(data={"min": "abcd:9"}),
        *on_channels(join_leave=True),
    ],
    "history": [*on_channels(), *on_channels(limit=5)],
    "rpc": [*map(digest, on_channels()), Row(params={"method": "x"}, fine=104)],
    "unsubscribe": [Row(params={"channel": f"zone:{HERE}"}), Row(params={"channel": "?"})],
    "publish": [Row(params={"channel": f"zone:{HERE}", "data": {}}, fine=108)],
    "presence": list(map(whether_there_or_not, on_channels())),
    "presence_stats": list(map(whether_there_or_not, on_channels())),
    "ping": [Row()],
    "send": [Row(params={"data": {}})],
    "refresh": [Row(params={"token": ""}, fine=107)],
    "sub_refresh": [
        Row(params={"channel": f"zone:{HERE}", "token": ""}, fine=107),
        Row(params={"channel": f"zone:{HERE}", "token": "nonsense"}, fine=DENIED),
    ],
}
"""What each command needs. One that is missing fails a test. `connect` is what the ways are for."""

REACHES: dict[str, set[str]] = {
    "": {"", "here", "pattern", "all", "nobody"},
    "here": {"here"},
    "pattern": {"here", "pattern"},
    "all": {"here", "pattern", "all"},
}


def reach(kind: str) -> set[str]:
    scope, zones, _ = VALID[kind]
    if scope != "read" or "taken" in kind:
        return set()
    found = {HERE: "here", "F1-*": "pattern", "*": "all"}.get(zones[0])
    return REACHES[found] if found else set()


def test_every_command_has_a_row() -> None:
    """A command that nobody thought of is noticed."""
    assert set(ROWS) == METHODS


@pytest.mark.parametrize("kind", list(VALID))
async def test_a_token_gets_what_it_grants_and_no_more(
    prepared: httpx.AsyncClient, guarded: Guarded, minter: Minter, kind: str
) -> None:
    """Each command with each kind of valid token, whichever the parameters."""
    scope, zones, _ = VALID[kind]
    sub = "taken" if "taken" in kind else "ada"
    token = minter.token(zones=zones, scope=scope, sub=sub, iat=int(time.time()) - 60)
    async with entered(guarded[1], token) as talker:
        for method, rows in ROWS.items():
            for row in rows:
                if method == "send":
                    await talker.say({"send": row.params})
                    continue
                reply = await talker.ask(method, **row.params)
                is_allowed = not row.where or row.where in reach(kind)
                assert problem(reply) == (row.fine if is_allowed else DENIED), (method, row, reply)
                if method == "subscribe" and not problem(reply):
                    await talker.ask("unsubscribe", channel=row.params["channel"])


# Ways in


@asynccontextmanager
async def by_command(live: LiveNode, token: str | None) -> AsyncIterator[tuple[Talker, Any]]:
    async with dialled(live) as talker:
        yield talker, {} if token is None else {"token": token}


@asynccontextmanager
async def by_header(live: LiveNode, token: str | None) -> AsyncIterator[tuple[Talker, Any]]:
    headers = {} if token is None else bearer(token)
    async with dialled(live, additional_headers=headers) as talker:
        yield talker, {}


@asynccontextmanager
async def by_subprotocol(live: LiveNode, token: str | None) -> AsyncIterator[tuple[Talker, Any]]:
    offered = ["centrifuge-json", *([] if token is None else [f"bearer.{token}"])]
    names = [Subprotocol(name) for name in offered]
    async with dialled(live, subprotocols=names) as talker:
        assert talker.socket.subprotocol == "centrifuge-json"
        yield talker, {}


@asynccontextmanager
async def by_cookie(live: LiveNode, token: str | None) -> AsyncIterator[tuple[Talker, Any]]:
    headers = {} if token is None else {"Cookie": f"zonecast={token}"}
    async with dialled(live, additional_headers={**headers, "Origin": live.url}) as talker:
        yield talker, {}


WAYS = [by_command, by_header, by_subprotocol, by_cookie]


@pytest.mark.parametrize("way", WAYS)
async def test_a_valid_token_lets_in(
    prepared: httpx.AsyncClient, guarded: Guarded, minter: Minter, way: Any
) -> None:
    """Each way; the reply says how long it lasts."""
    token = minter.token(zones=[HERE], scope="read")
    async with way(guarded[1], token) as (talker, params):
        reply = (await talker.ask("connect", **params))["connect"]
        assert reply["expires"] is True
        assert 590 < reply["ttl"] <= 606
        assert (await talker.subscribe(f"zone:{HERE}"))["data"]["zone"]["zone_id"] == HERE


@pytest.mark.parametrize("way", WAYS)
async def test_without_a_valid_token_nobody_gets_in(
    prepared: httpx.AsyncClient, guarded: Guarded, minter: Minter, way: Any
) -> None:
    """No token: 101; one that has ended: 109, for another try; anything else: closed."""
    for kind, token in invalid_tokens(minter):
        async with way(guarded[1], token) as (talker, params):
            await talker.say({"id": 1, "connect": params})
            if kind in {"none", "expired"}:
                code = problem(await talker.line())
                assert code == (101 if kind == "none" else 109), kind
                await talker.say({"id": 2, "subscribe": {"channel": f"zone:{HERE}"}})
                assert await talker.closing() == (3501, "bad request"), kind
            else:
                assert await talker.closing() == (3500, "invalid token"), kind


@pytest.mark.parametrize("method", sorted(METHODS - {"connect"}))
async def test_a_command_before_connect_closes(
    prepared: httpx.AsyncClient, guarded: Guarded, minter: Minter, method: str
) -> None:
    """Also where the handshake carried a good token: it counts with `connect`."""
    headers = minter.header(zones=["*"], scope="read")
    for row in ROWS[method]:
        async with dialled(guarded[1], additional_headers=headers) as talker:
            await talker.say({"id": 1, method: row.params})
            assert (await talker.closing())[0] == 3501


async def test_a_ticket_lets_in_once(
    prepared: httpx.AsyncClient, guarded: Guarded, minter: Minter
) -> None:
    """Whom its token would; the second to show it is closed."""
    headers = minter.header(zones=[HERE], scope="read")
    ticket = (await prepared.post("/tickets", headers=headers)).json()["ticket"]
    async with dialled(guarded[1], f"?ticket={ticket}") as talker:
        assert 590 < (await talker.ask("connect"))["connect"]["ttl"] <= 606
        assert problem(await talker.ask("subscribe", channel=f"zone:{ELSEWHERE}")) == DENIED
        await talker.subscribe(f"zone:{HERE}")
    async with dialled(guarded[1], f"?ticket={ticket}") as talker:
        await talker.say({"id": 1, "connect": {}})
        assert (await talker.closing())[0] == 3500


async def test_a_token_in_the_url_is_accepted_only_where_the_settings_say(
    start_guarded: StartGuarded, sqlite_url: str, minter: Minter
) -> None:
    """As for any request."""
    query = f"?access_token={minter.token(scope='read')}"
    async with start_guarded(sqlite_url) as (_, live), dialled(live, query) as talker:
        await talker.say({"id": 1, "connect": {}})
        assert (await talker.closing())[0] == 3500
    async with (
        start_guarded(sqlite_url, token_in_query=True) as (_, live),
        dialled(live, query) as talker,
    ):
        assert "connect" in await talker.ask("connect")


async def test_the_token_of_the_command_wins(guarded: Guarded, minter: Minter) -> None:
    """A browser sends its cookie whether meant or not, perhaps a stale one, or another user's."""
    stale = minter.token(sub="eve", exp=int(time.time()) - 300)
    headers = {"Cookie": f"zonecast={stale}", "Origin": guarded[1].url}
    async with dialled(guarded[1], additional_headers=headers) as talker:
        token = minter.token(scope="read", zones=["*"])
        assert "connect" in await talker.ask("connect", token=token)
        assert "subscribe" in await talker.ask("subscribe", channel="zones")


async def test_who_was_told_what_is_missing_may_try_again(guarded: Guarded, minter: Minter) -> None:
    """On the same connection."""
    async with dialled(guarded[1]) as talker:
        assert problem(await talker.ask("connect")) == 101
        assert problem(await talker.ask("connect", token=7)) == 107
        assert "connect" in await talker.ask("connect", token=minter.token())


async def test_who_never_shows_a_token_is_cut(
    start_guarded: StartGuarded, sqlite_url: str, minter: Minter
) -> None:
    """Within the bound, however often it tries; who was let in stays."""
    async with (
        start_guarded(sqlite_url, connect_timeout_s=0.5) as (_, live),
        entered(live, minter.token(scope="read")) as inside,
        dialled(live) as talker,
    ):
        for _ in range(3):
            assert problem(await talker.ask("connect")) == 101
        assert await talker.closing() == (3502, "stale")
        assert "ping" in await inside.ask("ping")


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1"])
async def test_pages_of_other_origins_are_refused_before_the_upgrade(
    guarded: Guarded, minter: Minter, origin: str
) -> None:
    """With a good token, too, and counted."""
    headers = {**minter.header(scope="read"), "Origin": origin}
    with pytest.raises(InvalidStatus) as caught:
        async with dialled(guarded[1], additional_headers=headers):
            pass
    assert caught.value.response.status_code == 403
    assert caught.value.response.headers["content-type"] == "application/problem+json"
    read = guarded[1].node.metrics.registry.get_sample_value
    assert read("zonecast_auth_failures_total", {"reason": "origin"}) == 1


async def test_pages_of_origins_on_the_list_may_connect(
    start_guarded: StartGuarded, sqlite_url: str, minter: Minter
) -> None:
    """And those of its own."""
    listed = "https://app.example"
    async with start_guarded(sqlite_url, allowed_origins=listed) as (_, live):
        for origin in (listed, live.url):
            headers = {**minter.header(scope="read"), "Origin": origin}
            async with dialled(live, additional_headers=headers) as talker:
                assert "connect" in await talker.ask("connect")


async def test_foreign_pages_are_refused_where_no_key_is_set(live_node: LiveNode) -> None:
    """A node on somebody's own machine is not for every page that its browser opens."""
    with pytest.raises(InvalidStatus):
        async with dialled(live_node, additional_headers={"Origin": "https://evil.example"}):
            pass
    async with dialled(live_node, additional_headers={"Origin": live_node.url}) as talker:
        reply = await talker.ask("connect", token="anything")  # noqa: S106 - ignored
        assert "expires" not in reply["connect"]
        assert problem(await talker.ask("refresh", token="anything")) == 108  # noqa: S106


async def test_no_secret_reaches_the_logs(
    prepared: httpx.AsyncClient,
    guarded: Guarded,
    minter: Minter,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whichever way it was shown, and whether it was good."""
    good = minter.token(zones=[HERE], scope="read")
    bad = Minter(secret="a secret that nobody here knows of").token()  # noqa: S106
    permit = minter.token(channel=f"zone:{ELSEWHERE}")
    for way in WAYS:
        for token in (good, bad):
            async with way(guarded[1], token) as (talker, params):
                await talker.say({"id": 1, "connect": params})
                if token is good:
                    await talker.line()
                    await talker.subscribe(f"zone:{ELSEWHERE}", token=permit)
                    await talker.ask("sub_refresh", channel=f"zone:{ELSEWHERE}", token=bad)
                    await talker.ask("refresh", token=good)
                else:
                    await talker.closing()
    headers = minter.header(scope="read")
    ticket = (await prepared.post("/tickets", headers=headers)).json()["ticket"]
    async with dialled(guarded[1], f"?ticket={ticket}&access_token={good}") as talker:
        await talker.ask("connect")
    printed = "".join(capsys.readouterr())
    assert "disconnected" in printed
    for secret in (good, bad, permit, ticket, minter.secret):
        assert secret not in printed
        assert secret.rpartition(".")[2] not in printed
