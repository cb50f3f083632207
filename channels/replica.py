"""The replica: one channel's state as this node holds it, and its most recent changes."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Any

import msgspec

from channels.changes import Change, ChannelState
from channels.digest import digest_state
from channels.encoded_users import EncodedUsers
from channels.events import (
    Changed,
    Entered,
    Event,
    Left,
    User,
    Zone,
    ZoneChanged,
    ZoneCreated,
    ZoneDeleted,
)
from channels.names import DIRECTORY
from channels.positions import Position

_encoder = msgspec.json.Encoder()


def encode_state(state: ChannelState) -> bytes:
    """Encode a state as clients get it: `{channel, epoch, rev, zone, users, digest}`.

    The directory has `zones` in place of `zone` and `users`. Users and zones are ordered by
    id, so that equal states are equal bytes.
    """
    body: dict[str, Any] = {
        "channel": state.channel,
        "epoch": state.position.epoch,
        "rev": state.position.rev,
    }
    if state.channel == DIRECTORY:
        body["zones"] = [state.zones[zone_id] for zone_id in sorted(state.zones)]
    else:
        body["zone"] = state.zone
        body["users"] = [state.users[user_id] for user_id in sorted(state.users)]
    body["digest"] = digest_state(state)
    return _encoder.encode(body)


class GapError(Exception):
    """A change that does not follow directly on what the replica has."""


class Replica:
    """The state of one channel at exactly `position`, with the changes that led there.

    Nothing here awaits: whoever changes it decides first and does I/O elsewhere.
    """

    __slots__ = (
        "_digest",
        "_encoded",
        "_recent",
        "_snapshot",
        "channel",
        "epoch",
        "rev",
        "users",
        "zone",
        "zones",
    )

    def __init__(
        self,
        state: ChannelState,
        *,
        recent_max_changes: int,
        encoded: EncodedUsers | None = None,
    ) -> None:
        self.channel = state.channel
        self._recent: deque[Change] = deque(maxlen=recent_max_changes)
        self._take(state, encoded)

    def __repr__(self) -> str:
        return f"<Replica {self.channel} {self.position} {len(self.users)} users>"

    def _take(self, state: ChannelState, encoded: EncodedUsers | None) -> None:
        self.epoch = state.position.epoch
        self.rev = state.position.rev
        self.zone: Zone | None = state.zone
        self.users: dict[int, User] = state.users
        self.zones: dict[str, Zone] = state.zones
        self._encoded = encoded or EncodedUsers(state.users.values())
        self._snapshot: bytes | None = None
        self._digest: str | None = None

    @property
    def position(self) -> Position:
        """Where the replica is."""
        return Position(self.epoch, self.rev)

    @property
    def oldest_resumable_rev(self) -> int:
        """The revision from which on `changes_after` knows everything, 0 or more."""
        return self._recent[0].rev - 1 if self._recent else self.rev

    def reset(self, state: ChannelState, encoded: EncodedUsers | None = None) -> None:
        """Begin anew from a state read from the database; the recent changes are forgotten."""
        self._recent.clear()
        self._take(state, encoded)

    def apply(self, change: Change) -> None:
        """Apply the change that follows directly on the present position.

        Raises:
            GapError: it doesn't follow, or is of another epoch; the replica is untouched.
        """
        if change.epoch != self.epoch or change.rev != self.rev + 1:
            raise GapError
        for event in change.events:
            self._apply_event(event)
        self.rev = change.rev
        self._recent.append(change)
        self._snapshot = None
        self._digest = None

    def _apply_event(self, event: Event) -> None:
        match event:
            case Entered(user) | Changed(user):
                self._encoded.put(user, self.users.get(user.id))
                self.users[user.id] = user
            case Left(user_id):
                before = self.users.pop(user_id, None)
                if before is not None:
                    self._encoded.drop(before)
            case ZoneCreated(zone) | ZoneChanged(zone):
                if self.channel == DIRECTORY:
                    self.zones[zone.zone_id] = zone
                else:
                    self.zone = zone
            case ZoneDeleted(zone_id):
                if self.channel == DIRECTORY:
                    self.zones.pop(zone_id, None)
                else:
                    self.zone = None

    def remember(self, older: Sequence[Change]) -> None:
        """Prepend changes read from the log, ascending, which end where the memory begins.

        Others than those are ignored: the memory never holds a hole.
        """
        if not older or older[-1].rev != self.oldest_resumable_rev or older[-1].epoch != self.epoch:
            return
        room = (self._recent.maxlen or 0) - len(self._recent)
        if room > 0:
            self._recent.extendleft(reversed(older[-room:]))

    def changes_after(self, rev: int) -> tuple[Change, ...] | None:
        """Return the changes after `rev` up to now, `None` when they are not all remembered."""
        if rev > self.rev or rev < self.oldest_resumable_rev:
            return None
        if rev == self.rev:
            return ()
        return tuple(islice(self._recent, rev - self.oldest_resumable_rev, None))

    def state(self) -> ChannelState:
        """Return the present state; the dicts are the replica's own, to be read at once."""
        return ChannelState(self.channel, self.position, self.zone, self.users, self.zones)

    def snapshot(self) -> bytes:
        """Return the state as clients get it, encoded once for each revision and shared."""
        if self._snapshot is None:
            state = self.state()
            is_directory = self.channel == DIRECTORY
            self._snapshot = encode_state(state) if is_directory else self._encoded.body(state)
        return self._snapshot

    def digest(self) -> str:
        """Return the state's digest, made once for each revision."""
        if self._digest is None:
            is_directory = self.channel == DIRECTORY
            self._digest = digest_state(self.state()) if is_directory else self._encoded.digest
        return self._digest
