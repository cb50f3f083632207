"""The token of a command: where it comes from, and that it is renewed and never shown."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import typer

from realtime.bearer import given_token
from realtime.client import Gone, Position, TokenRefusedError, WatchOptions, ZoneRefusedError, watch
from realtime.service_api import http_client
from realtime.top import Top
from tests.processes import free_port
from tests.realtime.auth.conftest import StartGuarded
from tests.realtime.auth.minter import Minter
from tests.realtime.command_line import zonecast

USAGE = 2


async def test_a_token_of_a_file_is_read_again_when_it_was_refused(
    sqlite_url: str, start_guarded: StartGuarded, minter: Minter, tmp_path: Path
) -> None:
    """Whoever renews the file need not restart the command."""
    file = tmp_path / "token"
    await asyncio.to_thread(file.write_text, "not.a.token\n")
    token = minter.token(zones=["*"], scope="read")
    given = await asyncio.to_thread(given_token, None, file)
    async with (
        start_guarded(sqlite_url) as (_, live),
        http_client(live.url, given) as client,
    ):
        assert (await client.get("/zones")).status_code == 401
        await asyncio.to_thread(file.write_text, token + "\n")
        assert (await client.get("/zones")).status_code == 200


async def test_a_given_token_is_sent_as_it_is(
    sqlite_url: str, start_guarded: StartGuarded, minter: Minter
) -> None:
    """Without the blanks around it."""
    token = given_token(f" {minter.token(zones=['*'], scope='read')}\n", None)
    async with start_guarded(sqlite_url) as (_, live), http_client(live.url, token) as client:
        assert (await client.get("/zones")).status_code == 200


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda path: None, "cannot read"),
        (lambda path: path.write_text(""), "no token in"),
        (lambda path: path.write_text("secret words"), "no token in"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "no token in"),
    ],
    ids=["missing", "empty", "two words", "binary"],
)
def test_a_file_without_a_token_is_refused(
    write: Callable[[Path], object], reason: str, tmp_path: Path
) -> None:
    """The message names the file and shows nothing of it."""
    file = tmp_path / "token"
    write(file)
    with pytest.raises(typer.BadParameter, match=f"{reason} {file}") as error:
        given_token(None, file)
    assert "secret" not in str(error.value)


def test_an_unreadable_token_file_is_a_usage_error(tmp_path: Path) -> None:
    """One line, and nobody is asked."""
    url = f"http://127.0.0.1:{free_port()}"
    file = tmp_path / "token"
    code, printed, errors = zonecast("watch", "A", "--url", url, "--token-file", str(file))
    assert (code, printed, errors.count("\n")) == (USAGE, "", 1)
    assert f"cannot read {file}" in errors


async def test_nodes_that_ask_for_tokens_want_one_of_an_administrator(
    sqlite_url: str, start_guarded: StartGuarded, minter: Minter
) -> None:
    """What they answer to others is shown."""
    async with start_guarded(sqlite_url) as (_, live):
        async with Top([live.url], minter.token(zones=["*"], scope="read")) as top:
            await top.look()
        assert "403" in (top.nodes[0].error or "")
        async with Top([live.url], minter.token(zones=["*"], scope="admin")) as top:
            await top.look()
        assert top.nodes[0].error is None


async def furnish(client: httpx.AsyncClient, minter: Minter) -> None:
    """Make the zones A and B."""
    client.headers.update(minter.header(zones=["*"], scope="read write admin", sub="root"))
    for zone_id in ("A", "B"):
        zone = {"zone_id": zone_id, "name": zone_id}
        assert (await client.post("/zones", json=zone)).status_code == 201


async def test_a_watch_shows_its_token_and_one_that_is_not_good_ends_it(
    sqlite_url: str, start_guarded: StartGuarded, minter: Minter
) -> None:
    """None, a made-up one, an ended one, and one that doesn't grant the zone."""
    async with start_guarded(sqlite_url) as (client, live):
        await furnish(client, minter)
        async with watch(live.url, ["A"], token=minter.token(zones=["A"], scope="read")) as zones:
            assert zones["A"].position is not None
        ended = minter.token(zones=["*"], scope="read", exp=1_700_000_000, iat=1_699_999_000)
        for token in (None, "made.up.token", ended):
            with pytest.raises(TokenRefusedError) as refused:
                await watch(live.url, ["A"], token=token).__aenter__()
            assert "made.up" not in str(refused.value)
        with pytest.raises(ZoneRefusedError) as denied:
            await watch(live.url, ["B"], token=minter.token(zones=["A"], scope="read")).__aenter__()
        assert denied.value.code == 103


async def test_a_watch_renews_its_token_in_place(
    sqlite_url: str, start_guarded: StartGuarded, minter: Minter
) -> None:
    """Before it ends, on the same connection."""
    given: list[str] = []
    renewed = asyncio.Event()

    async def token() -> str:
        given.append(minter.token(zones=["A"], scope="read", exp=int(time.time()) + 3))
        if len(given) >= 3:
            renewed.set()
        return given[-1]

    async with start_guarded(sqlite_url) as (client, live):
        await furnish(client, minter)
        async with watch(live.url, ["A"], token=token) as zones:
            await renewed.wait()
            changed = await client.patch("/zones/A", json={"name": "Hall"})
            header = changed.headers["Zonecast-Positions"].split(", ")
            positions = dict(item.split("=") for item in header)
            assert await zones.wait_for({"A": Position.parse(positions["zone:A"])}, 10)
            assert zones.connections == 1


async def test_a_revoked_zone_is_told_as_gone_and_the_others_go_on(
    sqlite_url: str, start_guarded: StartGuarded, minter: Minter
) -> None:
    """Nothing of it is shown any more."""
    async with start_guarded(sqlite_url) as (client, live):
        await furnish(client, minter)
        token = minter.token(zones=["*"], scope="read", sub="eve")
        options = WatchOptions(backoff_max_s=0.2)
        async with watch(live.url, ["A", "B"], token=token, options=options) as zones:
            revoked = {"sub": "eve", "zones": ["A"]}
            assert (await client.post("/admin/revoke", json=revoked)).status_code == 204
            while not isinstance(update := await anext(zones), Gone):
                pass
            assert update.zone_id == "A"
            assert not zones["A"].users
            assert not zones["B"].is_gone
