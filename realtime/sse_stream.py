"""An SSE stream: what one client watches, where it is, and what is still to be written to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Final

from channels.changes import Change
from channels.events import Event, ZoneCreated, ZoneDeleted
from channels.feed import Feed, UnknownChannelError
from channels.names import DIRECTORY, zone_channel, zone_id_of
from channels.ports import UnavailableError
from channels.positions import Position
from channels.subscribers import EndReason, Start
from channels.transactions import split_ready
from realtime import sse_codec
from realtime.api.problems import Kind, ProblemError
from realtime.metrics import Metrics
from realtime.settings import Settings
from realtime.sse_codec import PositionVector, SseCodec, SseFrame
from realtime.sse_mailbox import Mailbox

TRANSPORT: Final = "sse"
_REJOIN_INTERVAL_S: Final = 1.0

GONE: Final = 2000
SHUTDOWN: Final = 3001
SLOW: Final = 3008
RECONNECT: Final = 3011
FORCED: Final = 3503
LEFT: Final = 1001
ABORTED: Final = 1006


class SseStream:
    """One client's stream: a subscriber of the hub and a connection of the node.

    Whatever the hub or the node tell it is noted at once; `chunks` alone writes and awaits.

    Args:
        feed: Where the channels are.
        codec: Shared by all streams of the node.
        settings: The bounds.
        metrics: Counts subscriptions and bytes.
        wanted: The zones' channels with the client's positions, `None` for a snapshot; or
            just the directory: then all zones, whichever there are.
        minima: Before which positions of channels nothing is told when the stream begins.

    Attributes:
        close_code: Why the stream ended, in the codes of the WebSocket protocol.
        bound: Ends the stream at once when it is rescheduled; entered by the endpoint.
    """

    def __init__(
        self,
        *,
        feed: Feed,
        codec: SseCodec,
        settings: Settings,
        metrics: Metrics,
        wanted: dict[str, Position | None],
        minima: dict[str, Position],
    ) -> None:
        self.codec = codec
        self.close_code = LEFT
        self.bound = asyncio.timeout(None)
        self._feed = feed
        self._settings = settings
        self._metrics = metrics
        self._mailbox = Mailbox(settings.slow_buffer_max_bytes)
        self._wake = asyncio.Event()
        self._takes_all = DIRECTORY in wanted
        self._wanted = wanted
        self._minima = minima
        self._attached: set[str] = set()
        self._listed: set[str] = set()
        self._kept: set[str] = set()
        self._sent = PositionVector()
        self._rejoin_at_s = 0.0
        self._parting: list[Change] = []
        self._refusal: ProblemError | None = None
        self._is_greeted = False
        self._is_ending = False

    # What the hub tells

    @property
    def congested(self) -> bool:
        """Whether too many bytes wait; `Feed.drained` is called when they no longer do."""
        return self._mailbox.congested

    def deliver(self, frame: SseFrame) -> None:
        """Queue transactions, each with the positions after it."""
        if not self._is_ending:
            self._write(frame, counted=True)

    def end_channel(self, channel: str, reason: EndReason) -> None:
        """Note that a subscription ended: it is made anew, or it was the last."""
        self._detached(channel)
        if reason is EndReason.GONE:
            if self._takes_all:
                self._sent.discard(zone_id_of(channel) or "")
                if zone_id_of(channel) in self._kept:
                    # The directory was right: in a restored database there is no such zone.
                    self._write_status()
            if zone_id_of(channel) in self._listed:
                # Made again meanwhile: the directory has already told so.
                self._wanted[channel] = None
            elif not self._takes_all and not self._attached and not self._wanted:
                self._end(GONE)
        else:
            resumes = reason is EndReason.RESUME
            self._wanted[channel] = self._sent.get(zone_id_of(channel)) if resumes else None
        self._wake.set()

    def tell_staleness(self, since_ms: int | None) -> None:
        """Queue a `status` event."""
        self._mailbox.put(sse_codec.status(since_ms=since_ms))
        self._wake.set()

    def cut(self) -> None:
        """Abort the stream: its client has not read in time."""
        self.close_code = SLOW
        self.abort()

    # What the node tells

    def farewell(self) -> None:
        """End after what is queued; the client comes back with its position."""
        self._mailbox.put(sse_codec.retry(self._settings.sse_retry_ms))
        self._end(SHUTDOWN)

    def abort(self) -> None:
        """End at once."""
        if self.close_code == LEFT:
            self.close_code = ABORTED
        if not self.bound.expired():
            self.bound.reschedule(asyncio.get_running_loop().time())

    @property
    def queued_bytes(self) -> int:
        """What waits until the client reads."""
        return self._mailbox.queued_bytes

    def dismiss(self, *, reconnect: bool) -> None:
        """End the stream as an operator wants it; a browser comes back by itself all the same."""
        self.close_code = RECONNECT if reconnect else FORCED
        self.abort()

    def close(self) -> None:
        """End all subscriptions; called once, when the client is gone."""
        self._feed.leave(self)
        self._metrics.subscriptions_changed(-len(self._attached))
        self._attached.clear()

    def _end(self, code: int) -> None:
        if not self._is_ending:
            self._is_ending = True
            self.close_code = code
        self._wake.set()

    # Subscribing

    async def join(self) -> None:
        """Subscribe to all that is wanted, and queue how it begins. Cancel-safe.

        Raises:
            UnknownChannelError: a zone was never made, or is gone and the client can't be
                brought to its end.
            UnavailableError: the database can't be asked; it stays wanted.
            ProblemError: there is more than one stream may hold.
        """
        while self._wanted:
            wanted, self._wanted = self._wanted, {}
            try:
                await self._feed.subscribe(self, wanted, self._begin, self._minima)
            except UnknownChannelError as error:
                since = wanted.pop(error.channel, None)
                self._wanted = {**wanted, **self._wanted}
                await self._retire(error, since or self._sent.get(zone_id_of(error.channel)))
            except UnavailableError:
                self._wanted = {**wanted, **self._wanted}
                raise
            if self._refusal is not None:
                raise self._refusal
        self._minima = {}

    def _begin(self, starts: Sequence[Start]) -> bool:
        """Queue how subscriptions begin: missed changes, then snapshots."""
        queue = self._parting
        snapshots = [start for start in starts if start.changes is None]
        if not self._check_bounds(snapshots):
            return False
        self._parting = []
        for start in starts:
            channel = start.replica.channel
            self._attached.add(channel)
            self._metrics.subscription_started(TRANSPORT, start)
            if channel == DIRECTORY:
                self._take_directory(set(start.replica.zones))
            elif start.changes is not None:
                queue += start.changes
                first_rev = start.position.rev - len(start.changes)
                self._mark(channel, Position(start.position.epoch, first_rev))
        self._metrics.subscriptions_changed(len(starts))
        self._greet()
        self._write_missed(queue)
        for start in snapshots:
            if start.replica.channel != DIRECTORY:
                self._write_snapshot(start)
        self._wake.set()
        return True

    def _check_bounds(self, snapshots: Sequence[Start]) -> bool:
        for start in snapshots:
            replica = start.replica
            if replica.channel == DIRECTORY:
                limit = self._settings.max_subscriptions_per_connection - 1
                if len(replica.zones) > limit:
                    detail = f"there are more than {limit} zones, the most that one stream takes"
                    self._refusal = ProblemError(Kind.INVALID, detail)
            elif len(replica.snapshot()) > self._settings.snapshot_max_bytes:
                zone_id = zone_id_of(replica.channel)
                detail = f"zone {zone_id} is too large; page through GET /users?zone_id={zone_id}"
                self._refusal = ProblemError(Kind.ANSWER_TOO_LARGE, detail)
        return self._refusal is None

    async def _retire(self, error: UnknownChannelError, since: Position | None) -> None:
        """Give up a zone that is gone, once the client is brought to its end.

        Raises:
            UnknownChannelError: that can't be done, or no zone is left.
        """
        zone_id = zone_id_of(error.channel)
        if self._takes_all:
            self._listed.discard(zone_id or "")
            self._write_status()
            return
        if since is None:
            raise error
        page = await self._feed.history(error.channel, since.rev, self._settings.resume_max_changes)
        is_complete = (
            page.head.epoch == since.epoch
            and page.floor <= since.rev
            and page.head.rev == since.rev + len(page.changes)
            and all(change.ends_channel for change in page.changes[-1:])
        )
        if not is_complete:
            raise error
        self._mark(error.channel, since)
        self._parting += page.changes
        if not self._wanted:
            if not self._attached:
                raise error
            parting, self._parting = self._parting, []
            self._write_missed(parting)

    def _detached(self, channel: str) -> None:
        if channel in self._attached:
            self._attached.discard(channel)
            self._metrics.subscriptions_changed(-1)

    # All zones

    def _take_directory(self, zone_ids: set[str]) -> None:
        self._listed = zone_ids
        for zone_id in zone_ids:
            self._want(zone_id)
        if self._is_greeted:
            self._write_status()

    def _follow_directory(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, ZoneCreated):
                self._listed.add(event.zone.zone_id)
                self._want(event.zone.zone_id)
            elif isinstance(event, ZoneDeleted):
                self._listed.discard(event.zone_id)
                self._wanted.pop(zone_channel(event.zone_id), None)
        if len(self._listed) >= self._settings.max_subscriptions_per_connection:
            self._end(ABORTED)

    def _want(self, zone_id: str) -> None:
        channel = zone_channel(zone_id)
        if channel not in self._attached:
            self._wanted.setdefault(channel, None)

    # Writing

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield what is to be written, keep-alive comments included, until the stream ends."""
        while True:
            while chunk := self._mailbox.take():
                yield chunk
                self._metrics.bytes_sent(TRANSPORT, len(chunk))
                if self._mailbox.sent():
                    self._feed.drained(self)
            if self._is_ending:
                return
            self._wake.clear()
            # Only now that all is written: snapshots can't pile up for who doesn't read.
            if not await self._rejoin():
                continue
            wait_s = self._settings.sse_keepalive_interval_s
            if self._wanted:
                wait_s = min(wait_s, _REJOIN_INTERVAL_S)
            try:
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            except TimeoutError:
                self._mailbox.put(sse_codec.KEEP_ALIVE)

    async def _rejoin(self) -> bool:
        """Subscribe to what became wanted; tell whether there is nothing to write at once."""
        loop = asyncio.get_running_loop()
        if not self._wanted or loop.time() < self._rejoin_at_s:
            return True
        try:
            await self.join()
        except UnavailableError:
            # Asked again; the hub tells the client that its picture is stale.
            self._rejoin_at_s = loop.time() + _REJOIN_INTERVAL_S
        except (UnknownChannelError, ProblemError):
            parting, self._parting = self._parting, []
            self._write_missed(parting)
            self._end(GONE)
        return not self._mailbox and not self._is_ending

    def _greet(self) -> None:
        if not self._is_greeted:
            self._is_greeted = True
            self._mailbox.put(sse_codec.retry(self._settings.sse_retry_ms))
            self._write_status()

    def _write_status(self) -> None:
        # A directory that lags behind a zone made again must not take it from who has its state.
        self._kept = set(filter(None, map(zone_id_of, self._attached))) - self._listed
        zone_ids = self._listed | self._kept if self._takes_all else None
        since_ms = self._feed.stale_since_ms
        self._mailbox.put(sse_codec.status(since_ms=since_ms, zone_ids=zone_ids))

    def _write_snapshot(self, start: Start) -> None:
        replica = start.replica
        self._mark(replica.channel, start.position)
        id_line = b"" if self._takes_all else self._sent.id_line()
        self._mailbox.put(id_line + b"event: snapshot\ndata: ", counted=False)
        self._mailbox.put(replica.snapshot(), counted=False)
        self._mailbox.put(b"\n\n", counted=False)

    def _write_missed(self, changes: Sequence[Change]) -> None:
        if changes:
            # Nothing to wait for here: the database has committed all of them.
            ordered, _ = split_ready(changes, (), {})
            self._write(self.codec.encode(ordered), counted=False)

    def _write(self, frame: SseFrame, *, counted: bool) -> None:
        for transaction in frame:
            self._sent.take(transaction.marks)
            if transaction.body:
                if not self._takes_all:
                    self._mailbox.put(self._sent.id_line(), counted=counted)
                self._mailbox.put(transaction.body, counted=counted)
            if transaction.directory and self._takes_all:
                self._follow_directory(transaction.directory)
        self._wake.set()

    def _mark(self, channel: str, position: Position) -> None:
        self._sent.set(zone_id_of(channel) or "", position)
