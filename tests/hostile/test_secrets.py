"""Secrets of every kind, given to a node in every way: nothing that it says of itself holds one."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import structlog
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from realtime.logs import configure_logging
from tests.realtime.auth.minter import SECRET, Minter, bearer
from tests.realtime.auth.wire_guest import dialled
from tests.realtime.conftest import LiveNode, serving, settings_of_test
from tests.realtime.wire_world import until
from tests.secrets_in_output import secrets_in

DATABASE_PASSWORD = "hunter2-of-the-database"  # noqa: S105 - to be looked for
REDIS_PASSWORD = "hunter2-of-redis"  # noqa: S105 - to be looked for


@pytest.fixture(params=["json", "console"])
def log(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    """Where the lines of this process go, all of them, as a served node writes them."""
    root, config = logging.getLogger(), structlog.get_config()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logging("debug", request.param, stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**config)


def with_password(url: str) -> str:
    """Put a password into the URL of a database that asks for none."""
    parts = urlsplit(url)
    user = parts.username or "postgres"
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{user}:{DATABASE_PASSWORD}@{host}").geturl()


async def knock_by_websocket(live: LiveNode, token: str) -> None:
    """Show a token over WebSocket in every way, also where it is not taken."""
    ways: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("", {}, {"connect": {"token": token}}),
        ("", {"additional_headers": bearer(token)}, {"connect": {}}),
        (f"?access_token={token}", {}, {"connect": {}}),
        (f"?ticket={token}", {}, {"connect": {}}),
        ("", {"additional_headers": {"Cookie": f"zonecast={token}"}}, {"connect": {}}),
        (
            "",
            {"subprotocols": [Subprotocol("centrifuge-json"), Subprotocol(f"bearer.{token}")]},
            {"connect": {}},
        ),
        ("", {}, {"refresh": {"token": token}}),
    ]
    for query, options, command in ways:
        with contextlib.suppress(ConnectionClosed, InvalidStatus):
            async with dialled(live, query, **options) as talker:
                await talker.say({"id": 1, **command})
                await talker.say({"id": 2, "subscribe": {"channel": "zone:A", "token": token}})
                await talker.say({"id": 3, "sub_refresh": {"channel": "zone:A", "token": token}})
                await talker.say({"id": 4, "ping": {}})
                while "ping" not in await talker.line():
                    pass


async def knock_by_http(client: httpx.AsyncClient, token: str) -> list[httpx.Response]:
    """Show a token over HTTP in every way, on paths that are there, fail, and are not."""
    ways: list[dict[str, Any]] = [
        {"headers": bearer(token)},
        {"headers": {"Authorization": f"Basic {token}"}},
        {"params": {"access_token": token}},
        {"params": {"ticket": token, "zone": "A"}},
        {"headers": {"Cookie": f"zonecast={token}", "Sec-Fetch-Site": "same-origin"}},
    ]
    answers = []
    for way in ways:
        for path in ("/zones", "/users-dict", "/nothing", "/users/x", "/admin/channels"):
            answers += [await client.get(path, **way)]
        async with client.stream("GET", "/sse", **{**way, "params": {"zone": "none"}}) as stream:
            await stream.aread()
            answers.append(stream)
        answers.append(await client.post("/zones", json={"zone_id": "A", "name": "A"}, **way))
        answers.append(await client.post("/zones", content=b"{" + token.encode(), **way))
    return answers


async def test_no_secret_is_in_logs_metrics_or_errors(postgres_url: str, log: io.StringIO) -> None:
    """Keys, passwords in URLs, tokens good and bad, tickets and cookies."""
    minter = Minter()
    settings = settings_of_test(
        database_url=with_password(postgres_url),
        # Nobody listens there: the failures are told.
        redis_url=f"redis://:{REDIS_PASSWORD}@127.0.0.1:1/0",
        token_in_query=True,
        redis_timeout_s=0.2,
        **minter.settings(),
    )
    everything: dict[str, Any] = {"zones": ["*"], "scope": "read write admin"}
    good, bad = minter.token(sub="ada", **everything), minter.token(sub="ada", exp=1, **everything)
    tokens = [good, bad, good[:-6] + "AAAAAA", "hunter2-as-a-token"]
    async with serving(settings) as live:
        async with httpx.AsyncClient(base_url=live.url, trust_env=False) as client:
            ticket = (await client.post("/tickets", headers=bearer(good))).json()["ticket"]
            session = await client.post("/session", headers=bearer(good))
            cookie = session.cookies["zonecast"]
            client.cookies.clear()
            answers = []
            for token in [*tokens, ticket, cookie]:
                answers += await knock_by_http(client, token)
                await knock_by_websocket(live, token)
            for path in ("/metrics", "/admin/connections", "/readyz", "/healthz"):
                answers.append(await client.get(path, headers=bearer(good)))
            said = [answer.text + str(answer.headers.raw) for answer in answers]
        await until(lambda: "Redis does not serve" in log.getvalue())
    assert {200, 201, 401, 404} <= {answer.status_code for answer in answers}
    log_text = log.getvalue() + repr(settings) + json.dumps(settings.model_dump(), default=str)
    assert "disconnected" in log_text
    for what in (SECRET, DATABASE_PASSWORD, REDIS_PASSWORD, *tokens, ticket, cookie):
        assert what not in log_text
        # An answer may quote the path that was asked for; no path is a place for a token.
        assert not [text for text in said if what in text and what not in {ticket}]
    assert not secrets_in(log_text)
