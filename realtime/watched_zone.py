"""A watched zone: what a client of ours holds of it, and the messages that bring it there."""

from __future__ import annotations

from typing import Any

import msgspec

from channels.changes import Change, ChannelState
from channels.digest import digest_users
from channels.events import Event, User, Zone, encode_events
from channels.names import zone_channel
from channels.positions import Position
from channels.replica import Replica


class SnapshotBody(msgspec.Struct, frozen=True):
    """A zone's state, as the subscribe reply and the snapshot event have it."""

    channel: str
    epoch: str
    rev: int
    zone: Zone | None
    users: list[User]
    digest: str


class TransactionBody(msgspec.Struct, frozen=True):
    """What a publication says."""

    tx: str
    events: tuple[Event, ...]


class Publication(msgspec.Struct, frozen=True):
    """One transaction's effect on one channel."""

    data: TransactionBody
    offset: int
    time: int = 0


class SubscribeReply(msgspec.Struct, frozen=True):
    """How a subscription begins: the missed changes, or the state."""

    epoch: str
    offset: int = 0
    recovered: bool = False
    publications: tuple[Publication, ...] = ()
    data: SnapshotBody | None = None


class ErrorReply(msgspec.Struct, frozen=True):
    """Why a command failed."""

    code: int
    message: str = ""
    temporary: bool = False


class ConnectReply(msgspec.Struct, frozen=True):
    """How the connection is."""

    ping: int = 25


class UnsubscribePush(msgspec.Struct, frozen=True):
    """Why a subscription ended."""

    code: int
    reason: str = ""


class StatusBody(msgspec.Struct, frozen=True):
    """Whether the picture is verified."""

    state: str
    since: int | None = None


class MessagePush(msgspec.Struct, frozen=True):
    """What the service tells the connection."""

    data: StatusBody


class Push(msgspec.Struct, frozen=True):
    """What comes unasked."""

    channel: str = ""
    pub: Publication | None = None
    unsubscribe: UnsubscribePush | None = None
    message: MessagePush | None = None


class ServerMessage(msgspec.Struct, frozen=True):
    """One line from the service; with nothing in it, a ping."""

    id: int = 0
    error: ErrorReply | None = None
    connect: ConnectReply | None = None
    subscribe: SubscribeReply | None = None
    push: Push | None = None


class LostChangesError(Exception):
    """A change is missing between what the client has and what came, or the state is wrong."""


class WatchedZone:
    """One zone as a client materialises it, merged by revision.

    Attributes:
        zone_id: Which zone.
        replica: Its state; `None` before the first snapshot.
        is_gone: Whether it was deleted.
    """

    def __init__(self, zone_id: str) -> None:
        self.zone_id = zone_id
        self.replica: Replica | None = None
        self.is_gone = False

    def __repr__(self) -> str:
        return f"<WatchedZone {self.zone_id} {self.position}>"

    @property
    def channel(self) -> str:
        """The channel's name."""
        return zone_channel(self.zone_id)

    @property
    def position(self) -> Position | None:
        """Where it is, `None` before the first snapshot."""
        return None if self.replica is None else self.replica.position

    @property
    def users(self) -> dict[int, User]:
        """Who is in it, by id."""
        return {} if self.replica is None else self.replica.users

    def digest(self) -> str:
        """Digest what is held; equal to the database's at the same position."""
        return digest_users((user.id, user.version) for user in self.users.values())

    def take_snapshot(self, body: SnapshotBody) -> None:
        """Begin anew from a state.

        Raises:
            LostChangesError: its digest is not that of its users.
        """
        users = {user.id: user for user in body.users}
        position = Position(body.epoch, body.rev)
        state = ChannelState(self.channel, position, body.zone, users, {})
        self.replica = Replica(state, recent_max_changes=0)
        self.is_gone = False
        if self.digest() != body.digest:
            self.replica = None
            raise LostChangesError

    def take(self, publication: Publication) -> Change | None:
        """Apply a change; return it, or `None` when it is not new.

        Raises:
            LostChangesError: it does not follow on what is held.
        """
        replica = self.replica
        if replica is None:
            raise LostChangesError
        if publication.offset <= replica.rev:
            return None
        if publication.offset != replica.rev + 1:
            raise LostChangesError
        position = Position(replica.epoch, publication.offset)
        data = publication.data
        change = Change.of_events(self.channel, position, data.tx, publication.time, data.events)
        replica.apply(change)
        self.is_gone = change.ends_channel
        return change


def document_of(zone: WatchedZone) -> dict[str, Any]:
    """Return a zone's state with the keys of the wire."""
    replica = zone.replica
    position = zone.position
    return {
        "channel": zone.channel,
        "zone_id": zone.zone_id,
        "epoch": None if position is None else position.epoch,
        "rev": None if position is None else position.rev,
        "zone": None if replica is None else replica.zone,
        "users": [zone.users[user_id] for user_id in sorted(zone.users)],
        "digest": zone.digest(),
    }


def document_of_changes(changes: list[Change]) -> dict[str, Any]:
    """Return one transaction's changes with the keys of the wire."""
    return {
        "tx": changes[0].tx,
        "zones": [
            {
                "zone_id": change.channel.partition(":")[2],
                "epoch": change.epoch,
                "rev": change.rev,
                "events": msgspec.Raw(encode_events(change.events)),
            }
            for change in changes
        ],
    }
