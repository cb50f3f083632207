"""Readers of the users dict: now and then on some node, with and without what they have."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

import httpx

from tests.faults.gate import Target
from tests.faults.history import DictRead, Recorder
from tests.faults.workload import REQUEST_TIMEOUT_S

PAUSE_S = 0.5
"""The mean pause of a reader."""
READS_MAX = 2_000
"""Some 30 MB of dicts, if each is another."""
KNOWN_MAX = 8
ASK_NEWEST, ASK_OLD, ASK_DATABASE = 0.4, 0.2, 0.1
"""How often a reader has the newest dict, an old one, and wants none from a cache."""


class DictReaders:
    """Read until cancelled, or until there are enough reads.

    Args:
        recorder: Where reads are noted.
        read_from: Chooses a node for each read; `None` when none is up.
        random: All choices.
    """

    def __init__(
        self, recorder: Recorder, read_from: Callable[[], Target | None], random: Random
    ) -> None:
        self._recorder = recorder
        self._read_from = read_from
        self._random = random
        self._known: list[str] = []

    async def run(self, readers: int) -> None:
        """Read with several readers at once; one that waits for a hung node holds up no other."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(readers):
                tasks.create_task(self._run_reader())

    async def _run_reader(self) -> None:
        options = {"timeout": REQUEST_TIMEOUT_S, "trust_env": False, "verify": False}
        async with httpx.AsyncClient(**options) as client:  # type: ignore[arg-type]  # of several types
            while len(self._recorder.history.dict_reads) < READS_MAX:
                await asyncio.sleep(self._random.expovariate(1 / PAUSE_S))
                if (node := self._read_from()) is not None:
                    await self._read(client, node)

    def _known_etag(self) -> str:
        """Choose what to have: the newest dict, one of those before, or nothing."""
        chance = self._random.random()
        if not self._known or chance > ASK_NEWEST + ASK_OLD:
            return ""
        return self._known[-1] if chance < ASK_NEWEST else self._random.choice(self._known)

    async def _read(self, client: httpx.AsyncClient, node: Target) -> None:
        asked_etag = self._known_etag()
        use_cache = self._random.random() >= ASK_DATABASE
        url = f"http://127.0.0.1:{node.port}/users-dict"
        began_s = self._recorder.now_s()
        status, etag, body = 0, "", b""
        try:
            answer = await client.get(
                url,
                params={} if use_cache else {"use_cache": "false"},
                headers={"If-None-Match": asked_etag} if asked_etag else {},
            )
        except httpx.HTTPError:
            pass  # Whether it was answered with a right one can't be told.
        else:
            status, etag = answer.status_code, answer.headers.get("ETag", "")
            body = self._recorder.shared(answer.content) if status == 200 else b""
        if self._recorder.is_over:
            return
        if status == 200 and etag not in self._known:
            self._known = [*self._known, etag][-KNOWN_MAX:]
        ended_s = self._recorder.now_s()
        note = DictRead(began_s, ended_s, node.name, status, etag, asked_etag, use_cache, body)
        self._recorder.history.dict_reads.append(note)
