"""Changes: what one committed transaction did, channel by channel."""

from __future__ import annotations

from dataclasses import dataclass, field

from channels.events import Event, User, Zone, ZoneDeleted, decode_events, encode_events
from channels.names import zone_id_of
from channels.positions import Position

Part = tuple[str, int]
"""`(channel, rev)`: the place of a transaction on one of the channels that it changed."""


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """One transaction's effect on one channel.

    Attributes:
        channel: The channel's name.
        epoch: The epoch that clients see.
        rev: The revision that this change makes, 1 or more.
        tx: The transaction, the same on all its channels.
        time_ms: When it was recorded, Unix milliseconds.
        events: What happened, in the order in which it is to be applied.
        events_json: The same as the JSON array that clients get.
        parts: All channels of the transaction with their revisions, this one included;
            empty when this is the only one. Never shown to clients: who may see one zone
            need not know of another.
        trace: The step that it comes from here, as `traceparent` of W3C; empty: nobody traces.
    """

    channel: str
    epoch: str
    rev: int
    tx: str
    time_ms: int
    events: tuple[Event, ...]
    events_json: bytes = field(repr=False)
    parts: tuple[Part, ...] = ()
    trace: str = ""

    @classmethod
    def of_events(
        cls,
        channel: str,
        position: Position,
        tx: str,
        time_ms: int,
        events: tuple[Event, ...],
        parts: tuple[Part, ...] = (),
    ) -> Change:
        """Make a change from events, encoding them."""
        events_json = encode_events(events)
        return cls(channel, position.epoch, position.rev, tx, time_ms, events, events_json, parts)

    @classmethod
    def of_json(
        cls,
        channel: str,
        position: Position,
        tx: str,
        time_ms: int,
        events_json: bytes,
        parts: tuple[Part, ...] = (),
    ) -> Change:
        """Make a change from encoded events, decoding them once.

        Raises:
            msgspec.DecodeError: the JSON is no array of events.
        """
        events = decode_events(events_json)
        return cls(channel, position.epoch, position.rev, tx, time_ms, events, events_json, parts)

    @property
    def position(self) -> Position:
        """Where the channel is after this change."""
        return Position(self.epoch, self.rev)

    @property
    def ends_channel(self) -> bool:
        """Whether this change deletes the zone whose own channel this is."""
        return (
            zone_id_of(self.channel) is not None
            and bool(self.events)
            and isinstance(self.events[-1], ZoneDeleted)
        )


@dataclass(frozen=True, slots=True)
class Transaction:
    """All changes of one committed transaction, as the capture hands them on.

    Attributes:
        tx: The transaction's id.
        time_ms: When it was recorded, Unix milliseconds.
        changes: One for each channel, each with the same `parts`.
        committed_s: `time.monotonic()` right after the commit, for the delay measured.
    """

    tx: str
    time_ms: int
    changes: tuple[Change, ...]
    committed_s: float = 0.0

    @property
    def positions(self) -> dict[str, Position]:
        """Where each changed channel is after this transaction."""
        return {change.channel: change.position for change in self.changes}


@dataclass(frozen=True, slots=True)
class ChannelState:
    """A channel as it is at exactly one position, read in one database snapshot.

    Attributes:
        channel: The channel's name.
        position: The position at which this is the state.
        zone: The zone on its own channel, else `None`.
        users: The users in the zone (or unassigned), by id; empty for the directory.
        zones: The zones of the directory, by zone id; empty elsewhere.
    """

    channel: str
    position: Position
    zone: Zone | None
    users: dict[int, User]
    zones: dict[str, Zone]


@dataclass(frozen=True, slots=True)
class ChangePage:
    """Retained changes of a channel, with the head that they lead towards, from one snapshot.

    Attributes:
        head: Where the channel is in the database.
        floor: Changes up to this revision are no longer retained.
        changes: Ascending and contiguous from the revision asked for; may end before the
            head when there are more than were asked for.
    """

    head: Position
    floor: int
    changes: tuple[Change, ...]
