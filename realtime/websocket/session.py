"""The session: one WebSocket connection as the hub, the node and the heartbeat see it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Protocol

from channels.feed import Feed
from channels.subscribers import EndReason
from realtime.websocket.backlog import Backlog
from realtime.websocket.centrifuge_codec import CentrifugeCodec, Disconnect
from realtime.websocket.frames import frame_header
from realtime.websocket.json_codec import JSON
from realtime.websocket.protobuf_codec import PROTOBUF
from realtime.websocket.protocol import SharedFrameProtocol, WireBounds

_JOINED_MAX_BYTES: Final = 65_536
"""Replies are joined into one message up to about this size."""
_VERSION_4: Final = 0x4 << 76 | 0x2 << 62
_RANDOM_BITS: Final = (1 << 128) - 1 ^ (0xF << 76 | 0x3 << 62)


def _new_id() -> str:
    """Make up a random UUID (RFC 9562, version 4), in a fifth of the time of `uuid.uuid4`."""
    digits = (int.from_bytes(os.urandom(16)) & _RANDOM_BITS | _VERSION_4).to_bytes(16).hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


class Outbox:
    """Sessions that have something to write at the end of this tick, and what they wrote.

    Attributes:
        sent_bytes: Written since somebody looked, over all connections: cheaper than a metric
            for each.
    """

    __slots__ = ("_due", "sent_bytes")

    def __init__(self) -> None:
        self._due: list[Session] = []
        self.sent_bytes = 0

    def flush_soon(self, session: Session) -> None:
        """Flush a session at the end of this tick of the loop."""
        if not self._due:
            asyncio.get_running_loop().call_soon(self._flush)
        self._due.append(session)

    def _flush(self) -> None:
        due, self._due = self._due, []
        for session in due:
            session.flush()


class Listener(Protocol):
    """Who acts on what sessions hear. No method awaits or raises."""

    def take(self, session: Session, message: bytes) -> None:
        """Execute the commands of a message."""

    def refuse(self, session: Session, why: str) -> None:
        """End a session for what its client said."""


@dataclass(slots=True)
class House:
    """What all sessions of a node have in common.

    Attributes:
        feed: Where channels are watched.
        bounds: Of their connections.
        outbox: Counts what is written.
        subscriptions_changed: Told by how many there are more (or, negative, fewer).
        listener: Acts on what they hear.
        gone: Told of each session whose connection is gone.
    """

    feed: Feed
    bounds: WireBounds
    outbox: Outbox
    subscriptions_changed: Callable[[int], None]
    listener: Listener
    gone: Callable[[Session], None]


class _Joined:
    """Replies and pushes that become one message."""

    __slots__ = ("exempt", "parts", "size_bytes")

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.size_bytes = 0
        self.exempt = False


class Session(SharedFrameProtocol):
    """One connection as a subscriber. Nothing here awaits but `may_write`.

    What is written in one tick of the loop is joined into one message, which always goes out
    before a change that follows it, so that the order of calls is the order on the wire.

    Args:
        transport: The connection, whose handshake has been answered.
        house: What it shares with the others.
        opened_s: Now (monotonic).

    Attributes:
        client_id: Unique, shown to the client.
        is_connected: Whether the client has sent `connect`.
        close_code: Why the connection ended; `None` while it is open.
        opened_s: When it began (monotonic).
        channel_count: To how many channels the client is subscribed.
        backlog: What waits to be executed; `None`: nothing does.
        paid_until_s: Until when its commands are paid for, as their rate is counted.
    """

    __slots__ = (
        "_house",
        "_joined",
        "backlog",
        "channel_count",
        "client_id",
        "close_code",
        "is_connected",
        "opened_s",
        "paid_until_s",
    )

    codec: ClassVar[CentrifugeCodec] = JSON
    """What its client speaks; of the class, as it takes no place in a session then."""

    def __init__(self, transport: asyncio.Transport, house: House, opened_s: float) -> None:
        super().__init__(transport, house.bounds)
        self.client_id = _new_id()
        self.is_connected = False
        self.close_code: int | None = None
        self.opened_s = opened_s
        self.channel_count = 0
        self.backlog: Backlog | None = None
        self.paid_until_s = 0.0
        self._house = house
        self._joined: _Joined | None = None

    def __repr__(self) -> str:
        return f"<Session {self.client_id} {self.channel_count} channels>"

    # What the hub says

    def deliver(self, frame: bytes) -> None:
        """Write a frame that is shared with other connections at once."""
        if self._joined is not None:
            self.flush()
        # As `send_frame`, without the call: this is where a fan-out spends its time.
        if self._is_open:
            self.transport.write(frame)
            self._house.outbox.sent_bytes += len(frame)
            if self._is_burdened:
                self._weigh(len(frame))

    def end_channel(self, channel: str, reason: EndReason) -> None:
        """Tell the client that a subscription ended."""
        self.count_channel(-1)
        self.write([self.codec.encode_end(channel, reason)])

    def tell_staleness(self, since_ms: int | None) -> None:
        """Tell the client since when the picture is not verified."""
        self.write([self.codec.encode_staleness(since_ms)])

    def cut(self) -> None:
        """Abort the connection, which has not drained in time."""
        self.closed(Disconnect.SLOW.code)
        self.transport.abort()

    # What the node and the heartbeat say

    def farewell(self) -> None:
        """Tell the client to come back elsewhere, and close."""
        self.end(Disconnect.SHUTDOWN)

    def abort(self) -> None:
        """Drop the connection at once."""
        self.shutdown()

    def expired(self) -> None:
        """Close a connection that did not connect in time."""
        if not self.is_connected:
            self.end(Disconnect.STALE)

    def ping(self) -> None:
        """Ask for a sign of life, once connected."""
        # Behind bytes that wait there is no need to: who takes them lives.
        if self.is_connected and self.close_code is None and not self.writing_paused:
            self.flush()
            frames = self.codec.ping_frames
            if self.send_frame(frames):
                self._house.outbox.sent_bytes += len(frames)

    def begin_listening(self) -> None:
        """Forget the signs of life so far; before `connect` other bounds hold."""
        if self.is_connected:
            super().begin_listening()

    def check_alive(self) -> bool:
        """End a connection whose client was silent; `True`: too early to tell, ask again."""
        if self.heard or self.close_code is not None:
            return False
        if self.is_busy:
            return True
        self.end(Disconnect.NO_PONG)
        if self.writing_paused:
            # The close frame would wait behind what isn't read.
            self.transport.abort()
        return False

    # What the wire says

    def message_received(self, opcode: int, payload: bytes) -> None:
        """Execute the commands of a message; one of another encoding ends the connection."""
        codec = self.codec
        if self.close_code is not None:
            return
        if opcode != codec.opcode:
            self._house.listener.refuse(self, "a message of another encoding")
        elif payload != codec.pong:
            self._house.listener.take(self, payload)

    def writable(self) -> None:
        """Let a command go on that waits for earlier replies to be read."""
        if self.backlog is not None:
            self.backlog.wake()

    def drained(self) -> None:
        """Get what was missed while the connection was congested."""
        self._house.feed.drained(self)

    def closed(self, code: int) -> None:
        """Leave everything, as nothing can be sent any more; the first code told counts."""
        if self.close_code is not None:
            return
        self.close_code = code
        self._joined = None
        if self.backlog is not None:
            self.backlog.close()
            self.backlog = None
        if self.channel_count:
            self.count_channel(-self.channel_count)
        self._house.feed.leave(self)

    def gone(self) -> None:
        """Be forgotten."""
        self._house.gone(self)

    def end(self, why: Disconnect) -> None:
        """Close the connection with a code of ours, after all that was said before."""
        if self.close_code is None:
            self.flush()
            self.closed(why.code)
            self.send_close(why.code, why.reason)

    @property
    def queued_bytes(self) -> int:
        """What waits until the client reads."""
        joined_bytes = 0 if self._joined is None else self._joined.size_bytes
        return joined_bytes + self.transport.get_write_buffer_size()

    def dismiss(self, *, reconnect: bool) -> None:
        """End the connection as an operator wants it; who doesn't read is not waited for."""
        self.end(Disconnect.FORCED_TO_RECONNECT if reconnect else Disconnect.FORCED)
        if self.writing_paused:
            # The close frame would wait behind what isn't read.
            self.transport.abort()

    def count_channel(self, delta: int) -> None:
        """Count a subscription that the feed makes, or ended, in the same step."""
        self.channel_count += delta
        self._house.subscriptions_changed(delta)

    async def may_write(self, backlog: Backlog, timeout_s: float) -> bool:
        """Wait until the client has read enough to be answered; tell whether it did.

        Who doesn't in time is cut. Cancel-safe.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while self.writing_paused and self.close_code is None:
                    await backlog.writable()
        except TimeoutError:
            self.cut()
        return self.close_code is None

    # Writing

    def write(self, parts: Sequence[bytes], *, exempt: bool = False) -> None:
        """Add to the message that is written at the end of this tick, or before.

        Args:
            parts: One reply or push of the session's codec, in parts.
            exempt: Whether it is a state: then it doesn't make the connection congested.
        """
        if self.close_code is not None:
            return
        joined = self._joined
        if joined is None:
            joined = self._joined = _Joined()
            self._house.outbox.flush_soon(self)
        elif separator := self.codec.separator:
            joined.parts.append(separator)
            joined.size_bytes += len(separator)
        joined.parts.extend(parts)
        joined.size_bytes += sum(map(len, parts))
        joined.exempt |= exempt
        if joined.size_bytes > _JOINED_MAX_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is joined as one message."""
        joined = self._joined
        if joined is None:
            return
        self._joined = None
        header = frame_header(joined.size_bytes, self.codec.opcode)
        if self.send_parts([header, *joined.parts], exempt=joined.exempt):
            self._house.outbox.sent_bytes += len(header) + joined.size_bytes


class ProtobufSession(Session):
    """A session whose client speaks Protobuf."""

    __slots__ = ()

    codec = PROTOBUF
