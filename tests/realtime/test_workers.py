"""The supervisor of workers: it hears signals, whatever its workers do."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import uvicorn

from realtime.workers import Worker
from tests.nodes import running_nodes

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator

    from tests.nodes import NodeProcess


class Importing(Worker):
    """A worker that doesn't get further than its imports."""

    def target(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer nobody, until it is killed."""
        signal.pause()


def test_a_worker_that_does_not_answer_is_not_waited_for() -> None:
    """It counts as alive until it was asked in vain for as long as it may be silent."""
    worker = Importing(uvicorn.Config("nothing:here", log_config=None), [])
    worker.start()
    try:
        began_s = time.monotonic()
        assert worker.is_alive(timeout=3_600)
        assert worker.is_alive(timeout=3_600)
        assert time.monotonic() - began_s < 1_800
        assert not worker.is_alive(timeout=0)
    finally:
        worker.kill()
        worker.join()
    assert not worker.is_alive(timeout=3_600)


def _workers(supervisor: int) -> list[int]:
    """Return the processes that it made to run work: Python's resource tracker is none."""
    text = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text()
    children = [int(child) for child in text.split()]
    return [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.fixture
async def two_workers(
    postgres_url: str, redis_url: str, tmp_path: Path
) -> AsyncIterator[NodeProcess]:
    """Serve with two workers that have half a second for a drain."""
    urls = {"database_url": postgres_url, "redis_url": redis_url}
    bounds = {"workers": 2, "pool_size": 5, "shutdown_timeout_s": 0.5}
    async with running_nodes(tmp_path, 1, {**urls, **bounds}) as (node,):
        yield node


async def test_a_worker_that_hangs_does_not_keep_its_supervisor_from_stopping(
    two_workers: NodeProcess, tmp_path: Path
) -> None:
    """It is killed once the bounds of a shutdown are over."""
    hung = (await asyncio.to_thread(_workers, two_workers.pid))[0]
    os.kill(hung, signal.SIGSTOP)
    os.kill(two_workers.pid, signal.SIGTERM)
    assert await two_workers.wait_exit() == 0
    log = await asyncio.to_thread((tmp_path / "node-1" / "server.log").read_text)
    last = json.loads(log.splitlines()[-1])
    assert {"event": "worker did not stop, killed", "pid": hung}.items() <= last.items()
