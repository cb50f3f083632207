"""The token of a command: where it comes from, and that it is renewed and never shown."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from realtime.bearer import given_token
from realtime.service_api import http_client
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
    async with (
        start_guarded(sqlite_url) as (_, live),
        http_client(live.url, given_token(None, file)) as client,
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
