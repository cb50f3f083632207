"""The wheel of event streams: turns, tries again, ends, and cuts, each in time."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from typing import Any

from realtime.sse.wheel import StreamWheel
from tests.channels.virtual_time import run_in_virtual_time

INTERVAL_S = 15.0
DRAIN_S = 30.0
TICK_S = 0.25


class TimedStream:
    """A stream that notes when it was told what."""

    def __init__(self) -> None:
        self.queued_bytes = 0
        self.taken_bytes = 0
        self.told: list[tuple[str, float]] = []

    def _note(self, what: str) -> None:
        self.told.append((what, asyncio.get_running_loop().time()))

    def times(self, what: str) -> list[float]:
        """Return when it was told this."""
        return [at_s for told, at_s in self.told if told == what]

    def keep_alive(self) -> None:
        """Note it."""
        self._note("keep alive")

    def rejoin(self) -> None:
        """Note it."""
        self._note("rejoin")

    def expire(self) -> None:
        """Note it."""
        self._note("expire")

    def cut(self) -> None:
        """Note it."""
        self._note("cut")


def in_virtual_time(body: Callable[[StreamWheel, list[str]], Coroutine[Any, Any, None]]) -> None:
    """Run a test with a wheel in virtual time."""

    async def run() -> None:
        ticks: list[str] = []
        wheel = StreamWheel(
            keepalive_interval_s=INTERVAL_S,
            drain_timeout_s=DRAIN_S,
            ticked=lambda: ticks.append("tick"),
        )
        await body(wheel, ticks)

    run_in_virtual_time(run())


def test_each_stream_has_its_turn_once_an_interval_and_not_all_at_once() -> None:
    """However many begin together, a tick has its share of them."""

    async def body(wheel: StreamWheel, _ticks: list[str]) -> None:
        streams = [TimedStream() for _ in range(600)]
        began_s = asyncio.get_running_loop().time()
        for stream in streams:
            wheel.join(stream)
        await asyncio.sleep(3 * INTERVAL_S + TICK_S)
        at_once: dict[float, int] = {}
        for stream in streams:
            times_s = [began_s, *stream.times("keep alive")]
            assert len(times_s) >= 4
            assert all(b - a <= INTERVAL_S + TICK_S / 2 for a, b in itertools.pairwise(times_s))
            at_once[times_s[1]] = at_once.get(times_s[1], 0) + 1
        assert max(at_once.values()) < 50

    in_virtual_time(body)


def test_who_takes_nothing_is_cut_and_who_takes_little_is_not() -> None:
    """Every byte taken begins the wait anew; who took all is watched no more."""

    async def body(wheel: StreamWheel, _ticks: list[str]) -> None:
        stuck, slow, done = (TimedStream() for _ in range(3))
        began_s = asyncio.get_running_loop().time()
        for stream in (stuck, slow, done):
            stream.queued_bytes = 9
            wheel.join(stream)
            wheel.watch(stream)
            wheel.watch(stream)
        for _ in range(4):
            await asyncio.sleep(DRAIN_S / 2)
            slow.taken_bytes += 1
            done.queued_bytes = 0
        (cut_s,) = stuck.times("cut")
        assert DRAIN_S <= cut_s - began_s <= DRAIN_S + 2 * TICK_S
        assert slow.times("cut") == done.times("cut") == []
        await asyncio.sleep(2 * DRAIN_S)
        assert len(slow.times("cut")) == 1
        assert done.times("cut") == []

    in_virtual_time(body)


def test_a_stream_tries_again_when_it_was_to_and_once() -> None:
    """Until then it is known to wait."""

    async def body(wheel: StreamWheel, _ticks: list[str]) -> None:
        stream = TimedStream()
        wheel.join(stream)
        began_s = asyncio.get_running_loop().time()
        wheel.retry(stream, 1)
        assert wheel.will_retry(stream)
        await asyncio.sleep(INTERVAL_S)
        (at_s,) = stream.times("rejoin")
        assert 1 <= at_s - began_s <= 1 + 2 * TICK_S
        assert not wheel.will_retry(stream)

    in_virtual_time(body)


def test_a_stream_ends_when_its_time_is_over_unless_it_was_given_more() -> None:
    """At most a second late, and never early; also when the time was over before."""

    async def body(wheel: StreamWheel, _ticks: list[str]) -> None:
        brief, renewed, late, timeless = (TimedStream() for _ in range(4))
        began_s = asyncio.get_running_loop().time()
        for stream in (brief, renewed, late, timeless):
            wheel.join(stream)
        wheel.expire_at(brief, began_s + 10.5)
        wheel.expire_at(renewed, began_s + 10.5)
        wheel.expire_at(late, began_s - 60)
        wheel.expire_at(timeless, began_s + 10.5)
        wheel.expire_at(timeless, None)
        await asyncio.sleep(5)
        wheel.expire_at(renewed, began_s + 20)
        await asyncio.sleep(60)
        for stream, due_s in ((brief, 10.5), (renewed, 20.0), (late, 0.0)):
            (at_s,) = stream.times("expire")
            assert due_s <= at_s - began_s <= due_s + 1 + 2 * TICK_S
        assert timeless.times("expire") == []

    in_virtual_time(body)


def test_who_has_left_is_told_nothing_and_the_last_one_stops_the_wheel() -> None:
    """An empty wheel has no timer: virtual time would find it."""

    async def body(wheel: StreamWheel, ticks: list[str]) -> None:
        stream = TimedStream()
        stream.queued_bytes = 1
        wheel.join(stream)
        wheel.watch(stream)
        wheel.retry(stream, 1)
        wheel.expire_at(stream, asyncio.get_running_loop().time() + 1)
        wheel.leave(stream)
        wheel.leave(stream)
        assert len(ticks) == 1, "what was counted is told at the end"
        for join in (wheel.watch, lambda one: wheel.retry(one, 1)):
            join(stream)
        assert not wheel.will_retry(stream)
        await asyncio.sleep(10 * INTERVAL_S)
        assert stream.told == []
        assert len(ticks) == 1
        assert len(wheel) == 0
        # One that comes later is served as the first one was.
        wheel.join(stream)
        await asyncio.sleep(INTERVAL_S + TICK_S)
        assert stream.times("keep alive")
        wheel.leave(stream)

    in_virtual_time(body)
