"""The session: one WebSocket connection as the hub, the node and the heartbeat see it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Protocol
from uuid import uuid4

from channels.feed import Feed
from channels.subscribers import EndReason
from realtime.centrifuge_codec import (
    PING_FRAMES,
    CentrifugeJsonCodec,
    Disconnect,
    encode_end,
    encode_staleness,
    frame_header,
)

_JOINED_MAX_BYTES: Final = 65_536
"""Replies are joined into one message up to about this size."""


class Wire(Protocol):
    """What a session needs of its connection; `SharedFrameProtocol` says what each means."""

    congested: bool
    heard: bool
    writable: asyncio.Event
    disconnected: bool

    @property
    def is_busy(self) -> bool:
        """Whether silence says nothing."""

    @property
    def queued_bytes(self) -> int:
        """What waits until the peer reads."""

    def send_frame(self, frame: bytes) -> bool:
        """Write a serialised frame."""

    def send_parts(self, parts: Sequence[bytes], *, exempt: bool) -> bool:
        """Write a frame given in parts."""

    def begin_listening(self) -> None:
        """Look for a sign of life from now on."""

    def end(self, code: int, reason: str) -> None:
        """Send a close frame."""

    def abort(self) -> None:
        """Drop the connection."""


class Traffic:
    """Bytes written since somebody looked, over all connections: cheaper than a metric each."""

    __slots__ = ("sent_bytes",)

    def __init__(self) -> None:
        self.sent_bytes = 0


class Session:
    """One connection as a subscriber. Nothing here awaits but `may_write`.

    Lines written in one tick of the loop are joined into one message, which always goes out
    before a change that follows it, so that the order of calls is the order on the wire.

    Args:
        wire: The connection.
        codec: Shared with all sessions of the application.
        feed: Where channels are watched.
        traffic: Counts what is written.
        subscriptions_changed: Told by how many there are more (or, negative, fewer).

    Attributes:
        client_id: Unique, shown to the client.
        channels: What the client is subscribed to.
        is_connected: Whether the client has sent `connect`.
        close_code: Why the connection ended; `None` while it is open.
    """

    __slots__ = (
        "_feed",
        "_flush_is_due",
        "_lines",
        "_lines_are_exempt",
        "_lines_bytes",
        "_subscriptions_changed",
        "_traffic",
        "_wire",
        "channels",
        "client_id",
        "close_code",
        "codec",
        "is_connected",
    )

    def __init__(
        self,
        wire: Wire,
        *,
        codec: CentrifugeJsonCodec,
        feed: Feed,
        traffic: Traffic,
        subscriptions_changed: Callable[[int], None],
    ) -> None:
        self.client_id = str(uuid4())
        self.codec = codec
        self.channels: set[str] = set()
        self.is_connected = False
        self.close_code: int | None = None
        self._wire = wire
        self._feed = feed
        self._traffic = traffic
        self._subscriptions_changed = subscriptions_changed
        self._lines: list[bytes] = []
        self._lines_bytes = 0
        self._lines_are_exempt = False
        self._flush_is_due = False

    def __repr__(self) -> str:
        return f"<Session {self.client_id} {len(self.channels)} channels>"

    # What the hub says

    @property
    def congested(self) -> bool:
        """Whether left-over bytes pass the limit."""
        return self._wire.congested

    def deliver(self, frame: bytes) -> None:
        """Write a frame that is shared with other connections at once."""
        if self._lines:
            self.flush()
        if self._wire.send_frame(frame):
            self._traffic.sent_bytes += len(frame)

    def end_channel(self, channel: str, reason: EndReason) -> None:
        """Tell the client that a subscription ended."""
        self.remove_channel(channel)
        self.write([encode_end(channel, reason)])

    def tell_staleness(self, since_ms: int | None) -> None:
        """Tell the client since when the picture is not verified."""
        self.write([encode_staleness(since_ms)])

    def cut(self) -> None:
        """Abort the connection, which has not drained in time."""
        self.closed(Disconnect.SLOW.code)
        self._wire.abort()

    # What the node and the wire say

    def farewell(self) -> None:
        """Tell the client to come back elsewhere, and close."""
        self.end(Disconnect.SHUTDOWN)

    def abort(self) -> None:
        """Drop the connection at once."""
        self.closed(1006)
        self._wire.abort()

    def drained(self) -> None:
        """Get what was missed while the connection was congested."""
        self._feed.drained(self)

    def closed(self, code: int) -> None:
        """Leave everything, as nothing can be sent any more; the first code told counts."""
        if self.close_code is None:
            self.close_code = code
            self._lines.clear()
            self._subscriptions_changed(-len(self.channels))
            self.channels.clear()
            self._feed.leave(self)

    def end(self, why: Disconnect) -> None:
        """Close the connection with a code of ours, after all that was said before."""
        if self.close_code is None:
            self.flush()
            self.closed(why.code)
            self._wire.end(why.code, why.reason)

    @property
    def queued_bytes(self) -> int:
        """What waits until the client reads."""
        return self._lines_bytes + self._wire.queued_bytes

    def dismiss(self, *, reconnect: bool) -> None:
        """End the connection as an operator wants it; who doesn't read is not waited for."""
        self.end(Disconnect.FORCED_TO_RECONNECT if reconnect else Disconnect.FORCED)
        if not self._wire.writable.is_set():
            # The close frame would wait behind what isn't read.
            self._wire.abort()

    # What the client has

    def add_channel(self, channel: str) -> None:
        """Note a subscription, which the feed makes in the same step."""
        self.channels.add(channel)
        self._subscriptions_changed(1)

    def remove_channel(self, channel: str) -> bool:
        """Forget a subscription; tell whether there was one."""
        if channel not in self.channels:
            return False
        self.channels.discard(channel)
        self._subscriptions_changed(-1)
        return True

    # Whether the client lives

    def ping(self) -> None:
        """Ask for a sign of life, once connected."""
        # Behind bytes that wait there is no need to: who takes them lives.
        if self.is_connected and self.close_code is None and self._wire.writable.is_set():
            self.flush()
            if self._wire.send_frame(PING_FRAMES):
                self._traffic.sent_bytes += len(PING_FRAMES)

    def begin_listening(self) -> None:
        """Forget the signs of life so far; before `connect` other bounds hold."""
        if self.is_connected:
            self._wire.begin_listening()

    def check_alive(self) -> bool:
        """End a connection whose client was silent; `True`: too early to tell, ask again."""
        if self._wire.heard or self.close_code is not None:
            return False
        if self._wire.is_busy:
            return True
        self.end(Disconnect.NO_PONG)
        if not self._wire.writable.is_set():
            # The close frame would wait behind what isn't read.
            self._wire.abort()
        return False

    async def may_write(self, timeout_s: float) -> bool:
        """Wait until the client has read enough to be answered; tell whether it did.

        Who doesn't in time is cut. Cancel-safe.
        """
        if not self._wire.writable.is_set():
            try:
                async with asyncio.timeout(timeout_s):
                    await self._wire.writable.wait()
            except TimeoutError:
                self.cut()
        return self.close_code is None

    # Writing

    def write(self, line: Sequence[bytes], *, exempt: bool = False) -> None:
        """Add a line to the message that is written at the end of this tick, or before.

        Args:
            line: A JSON object, in parts.
            exempt: Whether it is a state: then it doesn't make the connection congested.
        """
        if self.close_code is not None:
            return
        if self._lines:
            self._lines.append(b"\n")
            self._lines_bytes += 1
        self._lines.extend(line)
        self._lines_bytes += sum(map(len, line))
        self._lines_are_exempt |= exempt
        if self._lines_bytes > _JOINED_MAX_BYTES:
            self.flush()
        elif not self._flush_is_due:
            self._flush_is_due = True
            asyncio.get_running_loop().call_soon(self._flush_if_due)

    def _flush_if_due(self) -> None:
        self._flush_is_due = False
        self.flush()

    def flush(self) -> None:
        """Write the joined lines as one message."""
        if not self._lines:
            return
        header = frame_header(self._lines_bytes)
        if self._wire.send_parts([header, *self._lines], exempt=self._lines_are_exempt):
            self._traffic.sent_bytes += len(header) + self._lines_bytes
        self._lines = []
        self._lines_bytes = 0
        self._lines_are_exempt = False
