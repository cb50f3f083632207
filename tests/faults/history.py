"""The history of a scenario: what every client received, what was written, what the truth is.

Everything is in the order in which it happened, with times of one monotonic clock. Clients of
all makes are brought to the same few items, so that one validator judges them all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from channels.positions import Position
from tests.faults.eras import Era, HeadTimes, LogRow, Tables

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Opened:
    """A connection was made; an event stream goes on from the positions `since`."""

    node: str
    since: dict[str, Position] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Closed:
    """A connection ended, and with it all its subscriptions."""

    code: int


@dataclass(frozen=True, slots=True)
class Published:
    """A change arrived; `events` is the JSON array as it was sent."""

    channel: str
    rev: int
    tx: str
    events: bytes


@dataclass(frozen=True, slots=True)
class Subscribed:
    """A subscription began, or a state came anew on one that goes on.

    Attributes:
        channel: The channel.
        epoch: Of the reply.
        rev: Of the reply: what follows is `rev + 1`.
        since: The position that the client gave.
        state: The state as it was sent; `None` when the subscription was recovered.
        missed: The changes that were missed; `None` where they follow as `Published`.
    """

    channel: str
    epoch: str
    rev: int
    since: Position | None = None
    state: bytes | None = None
    missed: tuple[Published, ...] | None = ()


@dataclass(frozen=True, slots=True)
class Unsubscribed:
    """A subscription ended: 0 when the client asked for that, else the server's code."""

    channel: str
    code: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A subscription was refused with an error; `asked_s` is when it was asked for, if known."""

    channel: str
    code: int
    asked_s: float | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """The server told how fresh the picture is, and perhaps which zones there are at all.

    `since_s` is since when it is stale, on the recorder's clock.
    """

    state: str
    zone_ids: frozenset[str] | None = None
    since_s: float | None = None


Item = Opened | Closed | Published | Subscribed | Unsubscribed | Refused | Told


@dataclass(frozen=True, slots=True)
class Frame:
    """What arrived as one: its time, the number of its connection, its items in order."""

    at_s: float
    connection: int
    items: tuple[Item, ...]


@dataclass(slots=True)
class ClientLog:
    """All that one client received.

    Attributes:
        name: Whose it is.
        make: What kind of client.
        shows_frames: Whether frames are those of the wire; an SDK hands on changes singly.
        frames: In the order of arrival.
        wanted: The channels that it watches at the end; `None`: all zones.
    """

    name: str
    make: str
    shows_frames: bool = True
    frames: list[Frame] = field(default_factory=list)
    wanted: set[str] | None = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Write:
    """A request that writes: 0 as the status says that its answer never came."""

    began_s: float
    ended_s: float
    node: str
    action: str
    status: int
    positions: dict[str, Position] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Read:
    """A read of a zone at `minimum` or later; `body` is the state, if one came."""

    at_s: float
    node: str
    channel: str
    minimum: Position
    status: int
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class DictRead:
    """A read of the users dict, of which `asked_etag` was known, if any; `body` is it, if it came.

    With 304 it is the dict of `etag`; with `use_cache` a cached one will do.
    """

    began_s: float
    ended_s: float
    node: str
    status: int
    etag: str = ""
    asked_etag: str = ""
    use_cache: bool = True
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Outage:
    """A time for which delivery is not promised.

    Attributes:
        from_s: Its beginning.
        to_s: Its end.
        scope: `database` or `recorder` (everybody), `node:<name>`, or `client:<name>`.
        cause: Why.
    """

    from_s: float
    to_s: float
    scope: str
    cause: str


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that was broken on purpose, and mended."""

    name: str
    from_s: float
    to_s: float


@dataclass(slots=True)
class History:
    """All of a scenario.

    Attributes:
        base: The tables before anything happened.
        final: The tables at the end, with nobody writing.
        log: The change log after `base`, by channel and revision.
        kept_rows: Rows of the log that were pruned, as they were.
        head_times: When each channel was first seen at which revision.
        lost: The eras before the last; `final`, `log`, `kept_rows` and `head_times` are the
            last era's.
        from_s: When the last era began.
        from_revs: Where the last era parts from the one before.
    """

    base: Tables = field(default_factory=Tables)
    final: Tables = field(default_factory=Tables)
    log: list[LogRow] = field(default_factory=list)
    kept_rows: list[LogRow] = field(default_factory=list)
    lost: list[Era] = field(default_factory=list)
    from_s: float = 0.0
    from_revs: dict[str, int] = field(default_factory=dict)
    clients: list[ClientLog] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    dict_reads: list[DictRead] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    outages: list[Outage] = field(default_factory=list)
    head_times: HeadTimes = field(default_factory=HeadTimes)
    began_s: float = 0.0

    def eras(self) -> list[Era]:
        """Return all eras, in their order."""
        last = Era(
            from_s=self.from_s,
            from_revs=self.from_revs,
            final=self.final,
            log=self.log,
            kept_rows=self.kept_rows,
            head_times=self.head_times,
        )
        return [*self.lost, last]

    def begin_era(self, at_s: float, from_revs: dict[str, int]) -> Era:
        """Begin an era, with the database down; return the lost one, its end to be filled in.

        Args:
            at_s: The time.
            from_revs: Where the heads will be, or a little lower.
        """
        era = Era(
            from_s=self.from_s,
            to_s=at_s,
            from_revs=self.from_revs,
            kept_rows=list(self.kept_rows),
            head_times=self.head_times,
        )
        self.lost.append(era)
        self.from_s, self.from_revs, self.head_times = at_s, from_revs, HeadTimes()
        return era


class Recorder:
    """Writes a history while it happens.

    Args:
        now_s: The clock.

    Attributes:
        history: What was written.
        is_over: Nothing more is written: what clients do on their way out is no matter.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self.now_s = now_s
        self.history = History(began_s=now_s())
        self.is_over = False
        self._bodies: dict[bytes, bytes] = {}

    def client(self, name: str, make: str, *, shows_frames: bool = True) -> ClientRecorder:
        """Begin the log of a client."""
        log = ClientLog(name, make, shows_frames)
        self.history.clients.append(log)
        return ClientRecorder(self, log)

    def shared(self, body: bytes) -> bytes:
        """Return equal bytes as one object: all clients receive the same."""
        return self._bodies.setdefault(body, body)

    def outage(self, from_s: float, scope: str, cause: str) -> None:
        """Note an outage that ends now."""
        self.history.outages.append(Outage(from_s, self.now_s(), scope, cause))


class ClientRecorder:
    """Writes the log of one client.

    Attributes:
        log: What was written.
        positions: Where the client is, by channel, as it would resume.
        subscribed: The channels that it has now.
    """

    def __init__(self, recorder: Recorder, log: ClientLog) -> None:
        self.log = log
        self.positions: dict[str, Position] = {}
        self.subscribed: set[str] = set()
        self._recorder = recorder
        self._connection = 0

    def frame(self, items: Iterable[Item]) -> None:
        """Write what just arrived as one."""
        found = tuple(items)
        if not found or self._recorder.is_over:
            return
        for item in found:
            self._follow(item)
        self.log.frames.append(Frame(self._recorder.now_s(), self._connection, found))

    def _follow(self, item: Item) -> None:
        match item:
            case Opened(_, since):
                self._connection += 1
                self.subscribed = set(since)
            case Closed():
                self.subscribed.clear()
            case Subscribed(channel, epoch, rev, _, _, missed):
                self.subscribed.add(channel)
                if missed is not None:
                    self.positions[channel] = Position(epoch, rev)
            case Unsubscribed(channel):
                self.subscribed.discard(channel)
            case Published(channel, rev) if channel in self.positions:
                self.positions[channel] = Position(self.positions[channel].epoch, rev)
            case _:
                pass

    def told(self, data: Json) -> Told:
        """Make an item of what a server says of its picture."""
        zone_ids = frozenset(data["zones"]) if "zones" in data else None
        since_ms = data["since"]
        if since_ms is None:
            return Told(data["state"], zone_ids)
        age_s = time.time() - since_ms / 1000
        return Told(data["state"], zone_ids, self._recorder.now_s() - age_s)

    def published(self, channel: str, rev: int, tx: str, events: bytes) -> Published:
        """Make an item that shares its events with those of all other clients."""
        return Published(channel, rev, tx, self._recorder.shared(events))
