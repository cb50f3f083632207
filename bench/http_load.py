"""HTTP load: keep-alive connections that each ask again as soon as they are answered."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

from bench.machine import cpu_s

LAST_ANSWERS_S: Final = 30.0
WARM_UP_S: Final = 1.0
"""What a server does once, it does not do for each request: connections, prepared statements."""
_HEAD_END: Final = b"\r\n\r\n"


class HttpLoadError(Exception):
    """A request was not answered as it was to be."""


@dataclass(slots=True)
class Answers:
    """What was answered.

    Attributes:
        count: Requests.
        delays_s: Of each, and of those that were under way at the end.
        seconds: How long it took.
        cpu_s: CPU seconds of the server.
        load_cpu_s: CPU seconds of this process, which asks.
    """

    count: int = 0
    delays_s: list[float] = field(default_factory=list)
    seconds: float = 0.0
    cpu_s: float = 0.0
    load_cpu_s: float = 0.0

    @property
    def load_share(self) -> float:
        """Of a core, that asking took: near 1 it was the load that was measured."""
        return self.load_cpu_s / self.seconds

    @property
    def per_s(self) -> float:
        """Requests a second, by the clock."""
        return self.count / self.seconds

    @property
    def per_cpu_s(self) -> float:
        """Requests per CPU second of the server."""
        return self.count / max(self.cpu_s, 0.01)

    @property
    def p99_ms(self) -> float:
        """The delay that 99 of 100 were answered in."""
        return statistics.quantiles(self.delays_s, n=100)[98] * 1000


def request(method: str, path: str, body: bytes = b"", header: str = "") -> bytes:
    """Write a request."""
    head = f"{method} {path} HTTP/1.1\r\nHost: bench\r\n"
    if header:
        head += f"{header}\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


class _Caller(asyncio.Protocol):
    """One connection: a request, its answer, the next request."""

    def __init__(self, next_request: Callable[[], bytes], status: bytes, answers: Answers) -> None:
        self._next_request = next_request
        self._status = status
        self._answers = answers
        self._head = b""
        self._left_bytes = -1
        self._asked_s = 0.0
        self._transport: asyncio.Transport | None = None
        self.is_over = False
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the first time."""
        if isinstance(transport, asyncio.Transport):
            self._transport = transport
            self._ask()

    def _ask(self) -> None:
        if self.is_over:
            self._end(None)
        elif self._transport is not None:
            self._asked_s = time.perf_counter()
            self._transport.write(self._next_request())

    def _end(self, error: Exception | None) -> None:
        if self._transport is not None:
            self._transport.abort()
        if not self.ended.done():
            if error is None:
                self.ended.set_result(None)
            else:
                self.ended.set_exception(error)

    def data_received(self, data: bytes) -> None:
        """Take a part of an answer."""
        if self._left_bytes < 0:
            self._head += data
            head, found, body = self._head.partition(_HEAD_END)
            if not found:
                return
            self._head = b""
            if not head.startswith(b"HTTP/1.1 " + self._status):
                self._end(HttpLoadError(f"{head[:60]!r} {body[:200]!r}"))
                return
            length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
            self._left_bytes = int(length or b"0") - len(body)
        else:
            self._left_bytes -= len(data)
        if self._left_bytes == 0:
            self._left_bytes = -1
            self._answers.count += 1
            self._answers.delays_s.append(time.perf_counter() - self._asked_s)
            self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        """Learn that the server hung up."""
        self._end(exc or HttpLoadError("the server closed a connection"))


async def call(
    port: int,
    requests: Sequence[Callable[[], bytes]],
    *,
    seconds: float,
    pids: Sequence[int],
    status: int = 200,
) -> Answers:
    """Send requests for so long, one at a time on each connection, and count the answers.

    Args:
        port: On loopback.
        requests: For each connection, what makes its next request.
        seconds: How long.
        pids: Whose CPU time is counted.
        status: What each is to be answered.

    Raises:
        HttpLoadError: one was answered otherwise, or not.
    """
    loop = asyncio.get_running_loop()
    answers = Answers()
    with ExitStack() as stack:
        callers = []
        began_s, began_cpu_s, began_load_s = time.monotonic(), cpu_s(pids), time.process_time()
        for next_request in requests:
            caller = _Caller(next_request, str(status).encode(), answers)
            transport, _ = await loop.create_connection(lambda one=caller: one, "127.0.0.1", port)  # type: ignore[misc]  # mypy infers no type for a default
            stack.callback(transport.abort)
            callers.append(caller)
        ended = [caller.ended for caller in callers]
        failed, _ = await asyncio.wait(ended, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        answers.seconds = time.monotonic() - began_s
        answers.cpu_s = cpu_s(pids) - began_cpu_s
        answers.load_cpu_s = time.process_time() - began_load_s
        count = answers.count
        for caller in callers:
            caller.is_over = True
        for future in failed:
            future.result()
        done, _ = await asyncio.wait(ended, timeout=LAST_ANSWERS_S)
        if len(done) < len(ended):
            raise HttpLoadError(f"{len(ended) - len(done)} answers never came")
        for future in done:
            future.result()
        answers.count = count
    return answers
