"""Clients that show tokens over WebSocket, command by command."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from websockets.asyncio.client import connect

from tests.realtime.encodings import offered
from tests.realtime.wire_world import Json, Talker

if TYPE_CHECKING:
    from tests.realtime.conftest import LiveNode


@asynccontextmanager
async def dialled(live: LiveNode, query: str = "", **options: Any) -> AsyncIterator[Talker]:
    """Open a connection and say nothing."""
    options.setdefault("subprotocols", offered())
    async with connect(live.ws_url + query, ping_interval=None, proxy=None, **options) as socket:
        yield Talker(socket)


@asynccontextmanager
async def entered(live: LiveNode, token: str, **options: Any) -> AsyncIterator[Talker]:
    """Open a connection whose token is taken."""
    async with dialled(live, **options) as talker:
        reply = await talker.ask("connect", token=token)
        assert reply["connect"]["expires"] is True, reply
        yield talker


def problem(reply: Json) -> int:
    """Return the code of an error reply; 0: it is none."""
    code: int = reply.get("error", {}).get("code", 0)
    return code


async def push(talker: Talker) -> Json:
    """Return the next line, which is a push."""
    line = await talker.line()
    found: Json = line["push"]
    return found
