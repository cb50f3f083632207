"""The token of a command: from the environment, a file that may be renewed, or an option."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Annotated, Final

import httpx
import typer

from realtime.client import Token
from realtime.client.tokens import TokenSource

TOKEN_VARIABLE: Final = "ZONECAST_TOKEN"  # noqa: S105 - a name.

TokenOption = Annotated[
    str | None,
    typer.Option(
        "--token",
        envvar=TOKEN_VARIABLE,
        show_envvar=False,
        help="A token, where the service asks for one. Others on this machine can read an option: "
        f"better set {TOKEN_VARIABLE}, or give --token-file.",
    ),
]
TokenFileOption = Annotated[
    Path | None,
    typer.Option(help="A file with the token, read again when the token has ended."),
]


def given_token(token: str | None, token_file: Path | None) -> Token | None:
    """Return the token that a command was given: itself, or what reads it from its file.

    Raises:
        BadParameter: the file can't be read, or holds none.
    """
    if token_file is None:
        return token.strip() if token and token.strip() else None
    try:
        _read(token_file)
    except PermissionError as error:
        raise typer.BadParameter(str(error), param_hint="--token-file") from None

    async def read() -> str:
        return await asyncio.to_thread(_read, token_file)

    return read


def _read(path: Path) -> str:
    try:
        text = path.read_text("ascii").strip()
    except OSError as error:
        raise PermissionError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        text = ""
    if not text or len(text.split()) != 1:
        raise PermissionError(f"no token in {path}")
    return text


class BearerAuth(httpx.Auth):
    """Sends the token with each request, and asks its source again after a 401."""

    def __init__(self, token: Token) -> None:
        self._source: TokenSource | None = None if isinstance(token, str) else token
        self._token = token if isinstance(token, str) else ""

    async def async_auth_flow(
        self, request: httpx.Request
    ) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Add the header; once more with another token, when there is one."""
        if self._source is not None and not self._token:
            self._token = await self._source()
        request.headers["Authorization"] = f"Bearer {self._token}"
        response = yield request
        if response.status_code == 401 and self._source is not None:
            refused, self._token = self._token, await self._source()
            if self._token != refused:
                request.headers["Authorization"] = f"Bearer {self._token}"
                yield request


def auth_of(token: Token | None) -> BearerAuth | None:
    """Return what signs requests with a token; `None`: nothing does."""
    return None if token is None else BearerAuth(token)
