"""The module that nodes serve, `zonecast.js`, in Node: with tokens that end, and without any."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from tests.clients.screens import javascript
from tests.clients.served_module import Watch, moved, named
from tests.clients.test_recovery import Writer, writer_at
from tests.nodes import NodeProcess
from tests.realtime.auth.minter import Minter

GRACE_S = 4.0


@pytest.mark.timeout(300)
async def test_a_token_is_renewed_before_it_ends(
    guarded_node: NodeProcess, watch: Watch, transport: str
) -> None:
    """On a WebSocket nothing is interrupted; an event stream is resumed with the new one."""
    minter = Minter()
    everything = {"zones": ["*"], "scope": "read write"}
    async with writer_at(guarded_node) as client:
        client.headers.update(minter.header(**everything))
        writer = Writer(client)
        await writer.set_up()
        token = minter.token(**everything, exp=int(time.time()) + 5)
        async with watch(
            guarded_node.port, ["A", "B"], transport=transport, token=token, renews=True
        ) as screen:
            screen.say({"do": "token", "token": minter.token(**everything)})
            await screen.until(lambda events: len(named("token wanted")(events)) == 2)
            if transport == "sse":
                await screen.until(named("status", connections=2, state="live"))
            start = len(screen.events)
            await asyncio.sleep(GRACE_S)  # The first token has ended by now, and its grace.
            await writer.move(1, "B")
            await screen.until(lambda events: any(moved(1, "B")(e) for e in events), start)
            status = (await screen.report())["status"]
            assert status["connections"] == (1 if transport == "websocket" else 2)
            assert status["snapshots"] == 0


async def test_who_has_no_token_is_told_so_and_left_alone(
    guarded_node: NodeProcess, node: Path, transport: str
) -> None:
    """It is closed with the reason, and asks no more."""
    async with javascript(node, "zonecast_screen.mjs") as screen:
        url = f"http://127.0.0.1:{guarded_node.port}"
        screen.say({"do": "watch", "url": url, "zones": ["A"], "transport": transport})
        (closed,) = named("status", state="closed")(
            await screen.until(named("status", state="closed"))
        )
        assert closed["error"]["code"] == (101 if transport == "websocket" else 401)
