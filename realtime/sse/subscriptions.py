"""The subscriptions of an event stream: what it watches, what it is to watch, and how it begins."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from channels.changes import Change
from channels.events import Event, ZoneCreated, ZoneDeleted
from channels.feed import Feed, UnknownChannelError
from channels.names import DIRECTORY, zone_channel, zone_id_of
from channels.ports import UnavailableError
from channels.positions import Position
from channels.subscribers import EndReason, Start
from channels.transactions import split_ready
from realtime.api.problems import Kind, ProblemError
from realtime.metrics import Metrics
from realtime.settings import Settings
from realtime.sse import codec as sse_codec
from realtime.sse.codec import NOTHING_SENT, PositionVector, SilentVector, SseCodec, SseFrame
from realtime.sse.request import StreamRequest

TRANSPORT: Final = "sse"
_NO_MINIMA: Final[Mapping[str, Position]] = MappingProxyType({})


@dataclass(slots=True)
class AllZones:
    """What a stream of all zones knows of the directory.

    Attributes:
        listed: The zones that it lists.
        kept: Those that were shown although it doesn't.
    """

    listed: set[str] = field(default_factory=set)
    kept: set[str] = field(default_factory=set)


class Subscriptions(ABC):
    """The channels of one stream.

    Args:
        codec: Shared by all streams of the node.
        feed: Where the channels are.
        settings: The bounds.
        metrics: Counts subscriptions.
        asked: What the client asked for.
    """

    __slots__ = (
        "_all",
        "_attached",
        "_feed",
        "_is_greeted",
        "_metrics",
        "_minima",
        "_parting",
        "_refusal",
        "_sent",
        "_settings",
        "_wanted",
        "codec",
    )

    def __init__(
        self,
        *,
        codec: SseCodec,
        feed: Feed,
        settings: Settings,
        metrics: Metrics,
        asked: StreamRequest,
    ) -> None:
        self.codec = codec
        self._feed = feed
        self._settings = settings
        self._metrics = metrics
        self._wanted = asked.wanted
        self._minima: Mapping[str, Position] = asked.minima
        self._attached: set[str] = set()
        self._all = AllZones() if DIRECTORY in asked.wanted else None
        self._sent: PositionVector = NOTHING_SENT if self._all is None else SilentVector()
        self._parting: Sequence[Change] = ()
        self._refusal: ProblemError | None = None
        self._is_greeted = False

    # What a stream is beside its subscriptions

    @property
    @abstractmethod
    def is_closed(self) -> bool:
        """Whether nothing can be written any more."""

    @property
    @abstractmethod
    def congested(self) -> bool:
        """Whether too many bytes wait; `Feed.drained` is called when they no longer do."""

    @abstractmethod
    def deliver(self, frame: SseFrame) -> None:
        """Write transactions, each with the positions after it."""

    @abstractmethod
    def end_channel(self, channel: str, reason: EndReason) -> None:
        """Note that a subscription ended: it is made anew, or it was the last."""

    @abstractmethod
    def tell_staleness(self, since_ms: int | None) -> None:
        """Write a `status` event."""

    @abstractmethod
    def cut(self) -> None:
        """Abort the stream: its client has not read in time."""

    @abstractmethod
    def write(self, parts: Sequence[bytes], *, exempt: bool = False) -> None:
        """Write bytes; `exempt`: they don't make the stream congested."""

    @abstractmethod
    def refuse_more(self) -> None:
        """End the stream: there are more zones than it may hold."""

    # Subscribing

    async def join(self) -> None:
        """Subscribe to all that is wanted, and write how it begins. Cancel-safe.

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
        self._minima = _NO_MINIMA

    def _begin(self, starts: Sequence[Start]) -> bool:
        """Write how subscriptions begin: missed changes, then snapshots."""
        snapshots = [start for start in starts if start.changes is None]
        if self.is_closed or not self._check_bounds(snapshots):
            return False
        queue, self._parting = list(self._parting), ()
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
        parts = [*self._greeting(), *self._missed(queue)]
        for start in snapshots:
            if start.replica.channel != DIRECTORY:
                parts += self._snapshot(start)
        self.write(parts, exempt=True)
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
        if self._all is not None:
            self._all.listed.discard(zone_id_of(error.channel) or "")
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
        self._parting = [*self._parting, *page.changes]
        if not self._wanted:
            if not self._attached:
                raise error
            self.write_parting()

    def write_parting(self) -> None:
        """Write the last changes of zones that are gone, where nothing else is to begin."""
        parting, self._parting = self._parting, ()
        self.write(self._missed(parting), exempt=True)

    def _detached(self, channel: str) -> None:
        if channel in self._attached:
            self._attached.discard(channel)
            self._metrics.subscriptions_changed(-1)

    def leave(self) -> None:
        """End all subscriptions."""
        self._feed.leave(self)
        self._metrics.subscriptions_changed(-len(self._attached))
        self._attached.clear()

    # All zones

    def _take_directory(self, zone_ids: set[str]) -> None:
        if self._all is not None:
            self._all.listed = zone_ids
            for zone_id in zone_ids:
                self._want(zone_id)
            if self._is_greeted:
                self._write_status()

    def _follow_directory(self, directory: AllZones, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, ZoneCreated):
                directory.listed.add(event.zone.zone_id)
                self._want(event.zone.zone_id)
            elif isinstance(event, ZoneDeleted):
                directory.listed.discard(event.zone_id)
                self._wanted.pop(zone_channel(event.zone_id), None)
        if len(directory.listed) >= self._settings.max_subscriptions_per_connection:
            self.refuse_more()

    def _want(self, zone_id: str) -> None:
        channel = zone_channel(zone_id)
        if channel not in self._attached:
            self._wanted.setdefault(channel, None)

    def _zone_is_gone(self, zone_id: str) -> bool:
        """Forget where a zone was; tell whether it was made again meanwhile."""
        if self._all is None:
            return False
        self._sent = self._sent.discard(zone_id)
        if zone_id in self._all.kept:
            # The directory was right: in a restored database there is no such zone.
            self._write_status()
        return zone_id in self._all.listed

    # What is written

    def _greeting(self) -> list[bytes]:
        if self._is_greeted:
            return []
        self._is_greeted = True
        return [sse_codec.retry(self._settings.sse_retry_ms), self._status()]

    def _write_status(self) -> None:
        self.write([self._status()])

    def _status(self) -> bytes:
        zone_ids: set[str] | None = None
        if self._all is not None:
            # A directory that lags behind a zone made again must not take it from who has its
            # state.
            shown = set(filter(None, map(zone_id_of, self._attached)))
            self._all.kept = shown - self._all.listed
            zone_ids = self._all.listed | self._all.kept
        return sse_codec.status(since_ms=self._feed.stale_since_ms, zone_ids=zone_ids)

    def _snapshot(self, start: Start) -> list[bytes]:
        replica = start.replica
        self._mark(replica.channel, start.position)
        return [self._sent.id_line + b"event: snapshot\ndata: ", replica.snapshot(), b"\n\n"]

    def _missed(self, changes: Sequence[Change]) -> list[bytes]:
        if not changes:
            return []
        # Nothing to wait for here: the database has committed all of them.
        ordered, _ = split_ready(changes, (), {})
        shared, self._sent = self._sent.write(self.codec.encode(ordered))
        return [shared.plain]

    def _mark(self, channel: str, position: Position) -> None:
        self._sent = self._sent.set(zone_id_of(channel) or "", position)
