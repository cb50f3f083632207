"""A watched zone: what the client holds of it, moved on change by change."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from channels.changes import Change
from channels.digest import digest_users
from channels.events import Changed, Entered, Left, User, Zone, ZoneChanged, ZoneDeleted
from channels.names import zone_channel
from channels.positions import Position
from realtime.client.errors import LostChangesError
from realtime.client.messages import Publication, SnapshotBody
from realtime.client.updates import ZoneState


class WatchedZone:
    """One zone, as it is known now. It moves on while the watch goes on.

    Attributes:
        zone_id: Which zone.
        channel: Its channel's name.
        position: Up to where it is known; `None` before its first state, and while it is read anew.
        epoch: The history that it was last known in.
        zone: Its name and attributes; `None` before its first state and when it was deleted.
        is_gone: Whether it was deleted, or isn't granted any more.
        held: Who is in it by its own channel alone, by id: what the digest covers.
    """

    __slots__ = ("_outdated", "channel", "epoch", "held", "is_gone", "position", "zone", "zone_id")

    def __init__(self, zone_id: str) -> None:
        self.zone_id = zone_id
        self.channel = zone_channel(zone_id)
        self.position: Position | None = None
        self.epoch: str | None = None
        self.zone: Zone | None = None
        self.is_gone = False
        self.held: dict[int, User] = {}
        self._outdated: set[int] = set()

    def __repr__(self) -> str:
        return f"<WatchedZone {self.zone_id} {self.position} {len(self.held)} users>"

    @property
    def users(self) -> Mapping[int, User]:
        """Who is in the zone, by id.

        While zones are caught up with one by one, their channels can tell of one user twice: who
        is known elsewhere by a newer `version` is left out here.
        """
        if not self._outdated:
            return MappingProxyType(self.held)
        return {id_: user for id_, user in self.held.items() if id_ not in self._outdated}

    def digest(self) -> str:
        """Digest what is held; equal to the database's at the same position."""
        return digest_users((user.id, user.version) for user in self.held.values())

    def state(self) -> ZoneState | None:
        """Return what is held now, to be kept; `None` before the first state."""
        if self.position is None:
            return None
        return ZoneState(self.zone_id, self.position, self.zone, dict(self.held))

    def covers(self, position: Position) -> bool:
        """Tell whether it is at a position or beyond."""
        return self.position is not None and self.position.covers(position)

    def outdate(self, user_id: int, *, is_outdated: bool) -> None:
        """Hide a user who is known elsewhere by a newer version, or show them again."""
        if is_outdated and user_id in self.held:
            self._outdated.add(user_id)
        else:
            self._outdated.discard(user_id)

    def replace(self, body: SnapshotBody) -> None:
        """Begin anew from a state.

        Raises:
            LostChangesError: its digest is not that of its users; it is to be read anew.
        """
        if digest_users((user.id, user.version) for user in body.users) != body.digest:
            self.forget()
            raise LostChangesError(f"zone {self.zone_id}: the state is not what its digest says")
        self.held = {user.id: user for user in body.users}
        self.zone = body.zone
        self.position = Position(body.epoch, body.rev)
        self.epoch = body.epoch
        self.is_gone = False
        self._outdated.clear()

    def forget(self) -> None:
        """Ask for the state anew, next time; what is held stays to be seen until then."""
        self.position = None

    def clear(self) -> None:
        """Hold nothing: the zone is gone."""
        self.held = {}
        self.zone = None
        self.position = None
        self.is_gone = True
        self._outdated.clear()

    def take(self, publication: Publication) -> Change | None:
        """Apply a change; return it, or `None` when it is not new.

        Raises:
            LostChangesError: it does not follow on what is held.
        """
        at = self.position
        if at is not None and publication.offset <= at.rev:
            return None
        if at is None or publication.offset != at.rev + 1:
            raise LostChangesError(f"zone {self.zone_id}: a change is missing after {at}")
        change = publication.change(self.channel, at.epoch)
        for event in change.events:
            match event:
                case Entered(user) | Changed(user):
                    self.held[user.id] = user
                case Left(user_id):
                    self.held.pop(user_id, None)
                    self._outdated.discard(user_id)
                case ZoneChanged(zone):
                    self.zone = zone
                case ZoneDeleted():
                    self.zone = None
        self.position = change.position
        self.is_gone = change.ends_channel
        return change
