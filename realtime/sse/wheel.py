"""The wheel: one timer for all event streams of a node, whatever they wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import randrange
from typing import Final, Protocol

_TICK_S: Final = 0.25
_MIN_TICK_S: Final = 0.05


class Stream(Protocol):
    """What the wheel turns for. Hashable by identity; no method awaits or raises."""

    @property
    def queued_bytes(self) -> int:
        """What the client has not taken yet, as far as this process knows."""

    @property
    def taken_bytes(self) -> int:
        """What it has taken; only grows."""

    def keep_alive(self) -> None:
        """Break the silence."""

    def rejoin(self) -> None:
        """Subscribe to what is wanted."""

    def expire(self) -> None:
        """End: the time that it was given is over."""

    def cut(self) -> None:
        """End at once: the client takes nothing."""


class StreamWheel:
    """Keeps streams alive, has them try again, ends them in time, and cuts who takes nothing.

    Streams are spread over slots, one of which has its turn at each tick, so that many that
    begin together are not kept alive together. It turns only while there are streams.

    Args:
        keepalive_interval_s: Between two turns of a stream.
        drain_timeout_s: How long a watched stream may take nothing, up to a tick more.
        ticked: Called at each tick and when the last stream leaves.
    """

    def __init__(
        self,
        *,
        keepalive_interval_s: float,
        drain_timeout_s: float,
        ticked: Callable[[], None],
    ) -> None:
        self._tick_s = max(_MIN_TICK_S, min(_TICK_S, keepalive_interval_s, drain_timeout_s / 2))
        self._slot_count = max(1, int(keepalive_interval_s / self._tick_s))
        self._drain_timeout_s = drain_timeout_s
        self._ticked = ticked
        self._slots: dict[int, dict[Stream, None]] = {}
        self._slot_of: dict[Stream, int] = {}
        self._next_slot = 0
        self._watched: dict[Stream, tuple[int, float]] = {}
        self._retries: dict[Stream, float] = {}
        self._expiries: dict[int, dict[Stream, None]] = {}
        self._expiry_of: dict[Stream, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._slot_of)

    def join(self, stream: Stream) -> None:
        """Turn for a stream from now on; its first turn comes within one interval."""
        slot = randrange(self._slot_count)  # noqa: S311 - spreads load, keeps no secret
        self._slots.setdefault(slot, {})[stream] = None
        self._slot_of[stream] = slot
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._tick_s, self._tick, loop)

    def leave(self, stream: Stream) -> None:
        """Forget a stream; unknown ones are ignored."""
        slot = self._slot_of.pop(stream, None)
        if slot is None:
            return
        del self._slots[slot][stream]
        if not self._slots[slot]:
            del self._slots[slot]
        self._watched.pop(stream, None)
        self._retries.pop(stream, None)
        self._drop_expiry(stream)
        if not self._slot_of and self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._ticked()

    def watch(self, stream: Stream) -> None:
        """Cut a stream whose client takes nothing from now on, while anything is left to take."""
        if stream in self._slot_of and stream not in self._watched:
            until_s = asyncio.get_running_loop().time() + self._drain_timeout_s
            self._watched[stream] = (stream.taken_bytes, until_s)

    def retry(self, stream: Stream, after_s: float) -> None:
        """Have a stream try to rejoin later, and not before."""
        if stream in self._slot_of:
            self._retries[stream] = asyncio.get_running_loop().time() + after_s

    def will_retry(self, stream: Stream) -> bool:
        """Tell whether a stream is to try again later."""
        return stream in self._retries

    def expire_at(self, stream: Stream, at_s: float | None) -> None:
        """End a stream at a time of the loop, or up to a second later; `None`: never."""
        self._drop_expiry(stream)
        if at_s is not None and stream in self._slot_of:
            # Never in a second that has been looked at.
            second = max(int(at_s), int(asyncio.get_running_loop().time())) + 1
            self._expiries.setdefault(second, {})[stream] = None
            self._expiry_of[stream] = second

    def _drop_expiry(self, stream: Stream) -> None:
        second = self._expiry_of.pop(stream, None)
        if second is not None:
            streams = self._expiries[second]
            del streams[stream]
            if not streams:
                del self._expiries[second]

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(self._tick_s, self._tick, loop)
        now_s = loop.time()
        self._expire(now_s)
        self._cut_stuck(now_s)
        for stream in [one for one, at_s in self._retries.items() if at_s <= now_s]:
            del self._retries[stream]
            stream.rejoin()
        for stream in list(self._slots.get(self._next_slot, ())):
            stream.keep_alive()
        self._next_slot = (self._next_slot + 1) % self._slot_count
        self._ticked()

    def _expire(self, now_s: float) -> None:
        for second in [one for one in self._expiries if one <= now_s]:
            for stream in self._expiries.pop(second):
                del self._expiry_of[stream]
                stream.expire()

    def _cut_stuck(self, now_s: float) -> None:
        for stream, (taken_bytes, until_s) in list(self._watched.items()):
            if not stream.queued_bytes:
                del self._watched[stream]
            elif stream.taken_bytes > taken_bytes:
                self._watched[stream] = (stream.taken_bytes, now_s + self._drain_timeout_s)
            elif now_s >= until_s:
                del self._watched[stream]
                stream.cut()
