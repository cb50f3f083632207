"""Peers do the work they are compared for: everybody gets every change, each once."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial

import pytest

from bench.crowd import gathered
from bench.machine import Cores, MissingError
from bench.peers import servers
from bench.stage import Ground, Side
from tests.processes import Scratch

CHANGES = 40
SUBSCRIBERS = 3

PEERS: dict[str, Callable[[Ground], AbstractAsyncContextManager[Side]]] = {
    "C": servers.limit,
    "nchan": servers.nchan,
    "nchan, streams": partial(servers.nchan, is_sse=True),
    "node ws": servers.node_ws,
    "socket.io": servers.socket_io,
    "websockets.broadcast": servers.websockets_broadcast,
    "uvicorn": servers.naive,
    "sse-starlette": partial(servers.naive, is_sse=True),
}


@pytest.fixture
async def ground() -> AsyncIterator[Ground]:
    """A core and room for peers."""
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("requires a C compiler: install gcc and libc6-dev")
    scratch = Scratch()
    try:
        yield Ground(Cores.of_machine(), scratch)
    finally:
        scratch.close()


@pytest.fixture(params=PEERS)
async def peer(request: pytest.FixtureRequest, ground: Ground) -> AsyncIterator[Side]:
    """A peer that runs."""
    async with AsyncExitStack() as stack:
        try:
            side = await stack.enter_async_context(PEERS[request.param](ground))
        except MissingError as error:
            # Not `requires`: nobody needs a peer but who compares with it.
            pytest.skip(f"left out: {error}")
        yield side


async def test_a_peer_hands_every_change_to_everybody_once(ground: Ground, peer: Side) -> None:
    """Blocks arrive whole, however they are joined."""
    async with gathered(ground.folder, peer.crowd, SUBSCRIBERS) as crowd:
        await crowd.begin()
        await peer.publisher.publish(1)
        await crowd.wait_done(1)
        await peer.publisher.publish(CHANGES - 1)
        await crowd.wait_done(CHANGES)
        report = await crowd.report()
    assert report["deliveries"] == SUBSCRIBERS * CHANGES
