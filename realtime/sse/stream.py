"""An event stream: one client as the hub, the node and the wheel see it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from channels.feed import UnknownChannelError
from channels.names import zone_id_of
from channels.ports import UnavailableError
from channels.subscribers import EndReason
from realtime.api.problems import ProblemError
from realtime.connections import level_of_end
from realtime.node import Node
from realtime.sse import codec as sse_codec
from realtime.sse.codec import SseCodec, SseFrame
from realtime.sse.mailbox import Mailbox
from realtime.sse.request import StreamRequest
from realtime.sse.subscriptions import TRANSPORT, Subscriptions
from realtime.sse.wheel import StreamWheel
from realtime.sse.wire import StreamConnection, Traffic, Wire

_REJOIN_INTERVAL_S: Final = 1.0

GONE: Final = 2000
SHUTDOWN: Final = 3001
EXPIRED: Final = 3005
SLOW: Final = 3008
RECONNECT: Final = 3011
FORCED: Final = 3503
LEFT: Final = 1001
ABORTED: Final = 1006

_NOWHERE: Final = Mailbox(0)
"""What closed streams write to, which they don't: a connection and its stream hold each other."""


@dataclass(frozen=True, slots=True)
class Streams:
    """What all event streams of a node have in common."""

    node: Node
    codec: SseCodec
    wheel: StreamWheel
    traffic: Traffic
    log: structlog.stdlib.BoundLogger

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None] | None:
        """Run work of a stream beside all requests; `None`: the node is about to end."""
        try:
            return self.node.tasks.create_task(work)
        except RuntimeError:
            work.close()
            return None


def streams_of(node: Node) -> Streams:
    """Make what the event streams of a node share."""
    traffic = Traffic()

    def count_traffic() -> None:
        node.metrics.bytes_sent(TRANSPORT, traffic.sent_bytes)
        traffic.sent_bytes = 0

    wheel = StreamWheel(
        keepalive_interval_s=node.settings.sse_keepalive_interval_s,
        drain_timeout_s=node.settings.slow_drain_timeout_s,
        ticked=count_traffic,
    )
    log = structlog.stdlib.get_logger("zonecast.sse").bind(transport=TRANSPORT)
    return Streams(node, SseCodec(), wheel, traffic, log)


class SseStream(Subscriptions):
    """One client's stream: a subscriber of the hub and a connection of the node.

    Whatever it is told it writes at once; a task exists only while it subscribes. Until the
    connection is taken over, what is written waits in a mailbox.

    Args:
        shared: What all streams of the node have in common.
        asked: What the client asked for.
        wire: Where it writes until `take_over`.
        peer: The client's address and port; empty: not known.

    Attributes:
        close_code: Why the stream ended, in the codes of the WebSocket protocol.
        shared: What all streams of the node have in common.
    """

    __slots__ = (
        "_expires_at_s",
        "_is_closed",
        "_is_ending",
        "_is_open",
        "_joining",
        "_opened_s",
        "_peer",
        "_wire",
        "close_code",
        "shared",
    )

    def __init__(self, shared: Streams, asked: StreamRequest, wire: Wire, peer: str) -> None:
        node = shared.node
        super().__init__(
            codec=shared.codec,
            feed=node.feed,
            settings=node.settings,
            metrics=node.metrics,
            asked=asked,
        )
        self.close_code = LEFT
        self.shared = shared
        self._wire = wire
        self._expires_at_s = asked.expires_at_s
        self._joining: asyncio.Task[None] | None = None
        self._peer = peer or None
        self._opened_s = 0.0
        self._is_open = False
        self._is_ending = False
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<SseStream {self._peer} {len(self._attached)} channels, {self._wire!r}>"

    # What the hub tells

    @property
    def congested(self) -> bool:
        """Whether too many bytes wait; `Feed.drained` is called when they no longer do."""
        return self._wire.congested

    def deliver(self, frame: SseFrame) -> None:
        """Write transactions, each with the positions after it."""
        if self._is_ending:
            return
        shared, self._sent = self._sent.write(frame)
        if shared.plain:
            self._wire.write(shared)
        if self._all is not None and frame.directory:
            self._follow_directory(self._all, frame.directory)
            self.rejoin()

    def end_channel(self, channel: str, reason: EndReason) -> None:
        """Note that a subscription ended: it is made anew, or it was the last."""
        self._detached(channel)
        zone_id = zone_id_of(channel)
        if reason is not EndReason.GONE:
            resumes = reason is EndReason.RESUME
            self._wanted[channel] = self._sent.get(zone_id) if resumes else None
        elif self._zone_is_gone(zone_id or ""):
            # Made again meanwhile: the directory has already told so.
            self._wanted[channel] = None
        elif self._all is None and not self._attached and not self._wanted:
            self._end(GONE)
        self.rejoin()

    def tell_staleness(self, since_ms: int | None) -> None:
        """Write a `status` event."""
        self.write([sse_codec.status(since_ms=since_ms)])

    def cut(self) -> None:
        """Abort the stream: its client has not read in time."""
        if not self._is_closed:
            self.close_code = SLOW
            self._abort()

    # What the node tells

    def farewell(self) -> None:
        """End after what was written; the client comes back with its position."""
        self.write([sse_codec.retry(self._settings.sse_retry_ms)])
        self._end(SHUTDOWN)

    def abort(self) -> None:
        """End at once."""
        if self.close_code == LEFT:
            self.close_code = ABORTED
        self._abort()

    def dismiss(self, *, reconnect: bool) -> None:
        """End the stream as an operator wants it; a browser comes back by itself all the same."""
        self.close_code = RECONNECT if reconnect else FORCED
        self._abort()

    def end_with(self, code: int, reason: str) -> None:
        """End with an event that says why, in the codes of the WebSocket protocol."""
        self.write([sse_codec.dismissal(code, reason)])
        self._end(code)

    def refuse_more(self) -> None:
        """End the stream: there are more zones than it may hold."""
        self._end(ABORTED)

    # What the wheel tells

    @property
    def queued_bytes(self) -> int:
        """What the client has not taken yet, as far as this process knows."""
        return self._wire.queued_bytes

    @property
    def taken_bytes(self) -> int:
        """What it has taken."""
        return self._wire.taken_bytes

    def keep_alive(self) -> None:
        """Break the silence; behind bytes that wait there is no need to."""
        if self._wire.queued_bytes:
            self.shared.wheel.watch(self)
        elif not self._is_ending:
            self._wire.write(sse_codec.KEEP_ALIVE)

    def expire(self) -> None:
        """End: the time that the stream was given is over."""
        self.end_with(EXPIRED, "expired")

    def expire_at(self, at_s: float | None) -> None:
        """End the stream at a time of the loop, up to a second later; `None`: never."""
        self._expires_at_s = at_s
        self.shared.wheel.expire_at(self, at_s)

    def rejoin(self) -> None:
        """Subscribe to what became wanted, beside everything else, as soon as that may be."""
        if (
            self._wanted
            and self._is_open
            and not self._is_ending
            and self._joining is None
            # Only when most was taken: snapshots can't pile up for who doesn't read.
            and not self._wire.is_blocked
            and not self.shared.wheel.will_retry(self)
        ):
            self._joining = self.shared.start(self._rejoin())

    async def _rejoin(self) -> None:
        try:
            await self.join()
        except UnavailableError:
            # Asked again; the hub tells the client that its picture is stale.
            self.shared.wheel.retry(self, _REJOIN_INTERVAL_S)
        except (UnknownChannelError, ProblemError):
            self.write_parting()
            self._end(GONE)
        except Exception:
            self.shared.log.exception("stream failed", peer=self._peer)
            self.abort()
        finally:
            self._joining = None

    # What the wire tells

    def blocked(self) -> None:
        """Learn that the client leaves much untaken: not for ever."""
        self.shared.wheel.watch(self)

    def drained(self) -> None:
        """Get what was missed while the stream was congested."""
        if not self._is_closed:
            self._feed.drained(self)
            self.rejoin()

    def closed(self) -> None:
        """Leave everything, as nothing can be sent any more; may be told twice."""
        if self._is_closed:
            return
        self._is_closed = self._is_ending = True
        self._wire = _NOWHERE
        if self._joining is not None:
            self._joining.cancel()
        self.leave()
        self.shared.wheel.leave(self)
        self.shared.node.connections.remove(self)
        if self._is_open:
            duration_s = asyncio.get_running_loop().time() - self._opened_s
            self._metrics.connection_closed(TRANSPORT, self.close_code, duration_s)
            self.shared.log.log(
                level_of_end(self.close_code),
                "disconnected",
                peer=self._peer,
                code=self.close_code,
                duration_s=round(duration_s, 3),
            )

    # Its life

    @property
    def is_closed(self) -> bool:
        """Whether nothing can be written any more."""
        return self._is_closed

    def take_over(self, mailbox: Mailbox, connection: StreamConnection) -> None:
        """Write to a connection from now on, first what the mailbox holds."""
        self._wire = connection
        if mailbox.is_aborted:
            connection.abort()
            return
        connection.write_parts(mailbox.take_all(), exempt=True)
        if mailbox.is_ended:
            connection.end()

    def open(self) -> None:
        """Begin: the client is told that it has a stream."""
        self._opened_s = asyncio.get_running_loop().time()
        self._is_open = True
        self.shared.log.debug("connected", peer=self._peer)
        self._metrics.connection_opened(TRANSPORT)
        wheel = self.shared.wheel
        wheel.join(self)
        wheel.expire_at(self, self._expires_at_s)
        wheel.watch(self)
        # What the hub said meanwhile.
        self.drained()

    def _end(self, code: int) -> None:
        if not self._is_ending:
            self._is_ending = True
            self.close_code = code
            self._wire.end()
            # Who doesn't read would never get there.
            self.shared.wheel.watch(self)

    def _abort(self) -> None:
        self._is_ending = True
        self._wire.abort()

    # Writing

    def write(self, parts: Sequence[bytes], *, exempt: bool = False) -> None:
        """Write bytes; `exempt`: they don't make the stream congested."""
        if not self._is_ending:
            self._wire.write_parts(parts, exempt=exempt)
