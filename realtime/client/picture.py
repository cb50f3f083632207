"""The picture: all watched zones, moved on by what the service says. No I/O, nothing awaits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final

import msgspec

from channels.changes import Change
from channels.events import Changed as UserChanged
from channels.events import Entered, Left
from channels.names import zone_id_of
from channels.positions import Position
from channels.transactions import side_by_side
from realtime.client.errors import LostChangesError, ZoneRefusedError
from realtime.client.homes import Homes
from realtime.client.messages import ErrorReply, Publication, Push, ServerMessage, SubscribeReply
from realtime.client.updates import Changed, Gone, Reason, Replaced, State, Status, Update
from realtime.client.zone import WatchedZone

LAST_CODE_OF_THE_END: Final = 2499
"""Unsubscribed with a higher code, a client is to subscribe again."""
STATE_INVALIDATED: Final = 2502


class Picture:
    """The watched zones, and the conversation about them on the present connection.

    Args:
        zone_ids: What is watched from the beginning: a refusal of one of them is final.
        subscribe_later: Called with a zone that was refused for the moment.

    Attributes:
        zones: The zones by id.
        status: How good the picture is.
        resumed: How many subscriptions went on from where they were.
        renewed: How many had to begin anew, after they had been known.
        fault: Why this connection can't be used any longer; a new one mends it.
    """

    def __init__(
        self, zone_ids: Iterable[str], subscribe_later: Callable[[WatchedZone], None]
    ) -> None:
        self.zones = {zone_id: WatchedZone(zone_id) for zone_id in zone_ids}
        self.status = Status("connecting")
        self._subscribe_later = subscribe_later
        self._named = set(self.zones)
        self._minima: dict[str, Position] = {}
        self._due: list[tuple[str, WatchedZone]] = []
        self._awaited: dict[int, WatchedZone] = {}
        self._postponed: set[str] = set()
        self._unanswered: set[int] = set()
        self._subscribed: set[str] = set()
        self._held_back: list[ServerMessage] = []
        self._homes = Homes()
        self._is_connected = False
        self._node_stale_since_ms: int | None = None
        self._lost_at_ms: int | None = None
        self.fault: LostChangesError | None = None
        self.resumed = 0
        self.renewed = 0

    # What is to be watched

    def add(self, zone_id: str, minimum: Position | None = None) -> WatchedZone:
        """Watch one more zone, from `minimum` on or later; a watched one stays as it is."""
        if minimum is not None:
            self._minima[zone_id] = minimum
        zone = self.zones.get(zone_id)
        if zone is None or zone.is_gone:
            self._named.discard(zone_id)
            zone = self.zones[zone_id] = WatchedZone(zone_id)
            self.subscribe(zone)
        return zone

    def remove(self, zone_id: str) -> None:
        """Watch a zone no longer."""
        zone = self.zones.pop(zone_id, None)
        if zone is None:
            return
        self._named.discard(zone_id)
        self._minima.pop(zone_id, None)
        self._postponed.discard(zone_id)
        for user_id in zone.held:
            self._homes.left(zone, user_id)
        if not zone.is_gone and self._is_connected:
            self._due.append(("unsubscribe", zone))
        self._subscribed.discard(zone_id)

    def subscribe(self, zone: WatchedZone) -> None:
        """Have a zone subscribed, unless it has ended or there is no connection."""
        if self._is_connected and self.zones.get(zone.zone_id) is zone and not zone.is_gone:
            self._due.append(("subscribe", zone))

    def subscribe_again(self, zone: WatchedZone) -> None:
        """Have a zone subscribed that was refused for the moment, unless a new connection or
        another call has done it."""
        if zone.zone_id in self._postponed and self.zones.get(zone.zone_id) is zone:
            self._postponed.discard(zone.zone_id)
            self.subscribe(zone)

    @property
    def is_complete(self) -> bool:
        """Whether every zone's state is there."""
        return all(zone.position is not None for zone in self.zones.values() if not zone.is_gone)

    # The connection

    def connected(self) -> list[Update]:
        """Begin on a new connection."""
        self._is_connected = True
        self.fault = None
        for zone in self.zones.values():
            self.subscribe(zone)
        return self._told(())

    def lost(self) -> list[Update]:
        """Note that there is no connection any more. What was held back is not lost: it is
        asked for again."""
        if self._is_connected and self._lost_at_ms is None:
            self._lost_at_ms = self._node_stale_since_ms or time.time_ns() // 1_000_000
        self._is_connected = False
        self._node_stale_since_ms = None
        for collection in (self._due, self._awaited, self._postponed, self._unanswered):
            collection.clear()
        self._subscribed.clear()
        self._held_back.clear()
        return self._told(())

    def retold(self) -> list[Update]:
        """Tell how good the picture is, if that has changed by what is to be watched."""
        return self._told(())

    def take_commands(self, take_id: Callable[[], int], max_commands: int) -> list[bytes]:
        """Return the commands that are due, the first of them."""
        due, self._due = self._due[:max_commands], self._due[max_commands:]
        return [self._command(take_id(), method, zone) for method, zone in due]

    def _command(self, command_id: int, method: str, zone: WatchedZone) -> bytes:
        fields: dict[str, object] = {"channel": zone.channel}
        if method == "subscribe":
            self._awaited[command_id] = zone
            self._unanswered.add(command_id)
            if zone.position is not None:
                at = zone.position
                fields |= {"recover": True, "epoch": at.epoch, "offset": at.rev}
            minimum = self._minima.get(zone.zone_id)
            if minimum is not None:
                fields["data"] = {"min": str(minimum)}
        return msgspec.json.encode({"id": command_id, method: fields})

    # What the service says

    @property
    def is_holding_back(self) -> bool:
        """Whether what came waits for replies, to be shown with them at once."""
        return bool(self._held_back)

    def take(self, messages: Sequence[ServerMessage]) -> list[Update]:
        """Take the lines of one message.

        While replies to subscribes are awaited everything is held back, so that zones which are
        caught up with one by one are seen to change at one moment, and the parts of one
        transaction come together.

        Raises:
            ZoneRefusedError: a zone named at the beginning isn't to be had.
        """
        self._held_back += messages
        self._unanswered.difference_update(message.id for message in messages)
        return [] if self._unanswered else self.release()

    def release(self) -> list[Update]:
        """Apply what was held back; replies that are not there are waited for no longer.

        Raises:
            ZoneRefusedError: a zone named at the beginning isn't to be had.
        """
        messages, self._held_back = self._held_back, []
        self._unanswered.clear()
        told = _Told()
        self._homes.begin_batch()
        try:
            for message in messages:
                self._apply(message, told)
        except LostChangesError as error:
            # What was applied before is told all the same, as it is asked for no more.
            self.fault = error
        return self._told(told.updates(self.zones))

    def _apply(self, message: ServerMessage, told: _Told) -> None:
        zone = self._awaited.pop(message.id, None)
        if zone is None:
            if message.push is not None:
                self._push(message.push, told)
        elif self.zones.get(zone.zone_id) is not zone:
            pass  # Removed meanwhile.
        elif message.error is not None:
            self._refused(zone, message.error, told)
        elif message.subscribe is not None:
            self._begin(zone, message.subscribe, told)

    def _begin(self, zone: WatchedZone, reply: SubscribeReply, told: _Told) -> None:
        self._subscribed.add(zone.zone_id)
        self._minima.pop(zone.zone_id, None)
        if reply.data is None:
            if zone.position is None or not reply.recovered:
                raise LostChangesError(f"zone {zone.zone_id}: neither a state nor changes came")
            self.resumed += 1
            for publication in reply.publications:
                self._change(zone, publication, told)
            return
        before, epoch = zone.held, zone.epoch
        zone.replace(reply.data)
        is_other_history = epoch is not None and epoch != zone.epoch
        self._homes.renewed(zone.zone_id, is_other_history=is_other_history)
        for user_id in before:
            if user_id not in zone.held:
                self._homes.left(zone, user_id)
        for user_id in zone.held:
            self._homes.entered(zone, user_id)
        self.renewed += epoch is not None
        told.reasons[zone.zone_id] = "first" if epoch is None else "renewed"

    def _change(self, zone: WatchedZone, publication: Publication, told: _Told) -> None:
        change = zone.take(publication)
        if change is None:
            return
        told.changes.append(change)
        for event in change.events:
            if isinstance(event, Entered | UserChanged) and event.user.id in zone.held:
                self._homes.entered(zone, event.user.id)
            elif isinstance(event, Left):
                self._homes.left(zone, event.user_id, event.version)

    def _push(self, push: Push, told: _Told) -> None:
        if push.message is not None:
            body = push.message.data
            self._node_stale_since_ms = body.since if body.state == "stale" else None
        zone_id = zone_id_of(push.channel)
        if zone_id is None or zone_id not in self._subscribed:
            # Of a subscription that was ended meanwhile.
            return
        zone = self.zones[zone_id]
        if push.pub is not None:
            self._change(zone, push.pub, told)
        if push.unsubscribe is not None:
            self._subscribed.discard(zone_id)
            if push.unsubscribe.code <= LAST_CODE_OF_THE_END:
                self._end(zone, push.unsubscribe.code, push.unsubscribe.reason, told)
                return
            if push.unsubscribe.code == STATE_INVALIDATED:
                zone.forget()
            self.subscribe(zone)

    def _refused(self, zone: WatchedZone, error: ErrorReply, told: _Told) -> None:
        if error.temporary:
            self._postponed.add(zone.zone_id)
            self._subscribe_later(zone)
        elif zone.zone_id in self._named and zone.epoch is None:
            raise ZoneRefusedError(zone.zone_id, error.code, error.message)
        else:
            self._end(zone, error.code, error.message, told)

    def _end(self, zone: WatchedZone, code: int, reason: str, told: _Told) -> None:
        for user_id in zone.held:
            self._homes.left(zone, user_id)
        zone.clear()
        told.reasons.pop(zone.zone_id, None)
        told.gone.append(Gone(zone.zone_id, code, reason))

    def _told(self, updates: Sequence[Update]) -> list[Update]:
        """Tell how good the picture is, where that has changed, and then what has come."""
        status = self._status()
        if status == self.status:
            return list(updates)
        self.status = status
        return [status, *updates]

    def _status(self) -> Status:
        if not self._is_connected:
            return Status("connecting", self._lost_at_ms)
        if self._due or self._awaited or self._postponed:
            return Status("catching_up", self._lost_at_ms)
        self._lost_at_ms = None
        state: State = "live" if self._node_stale_since_ms is None else "stale"
        return Status(state, self._node_stale_since_ms)


@dataclass(slots=True)
class _Told:
    """What one batch of messages comes to."""

    changes: list[Change] = field(default_factory=list)
    reasons: dict[str, Reason] = field(default_factory=dict)
    gone: list[Gone] = field(default_factory=list)

    def updates(self, zones: Mapping[str, WatchedZone]) -> list[Update]:
        """Return the transactions, then the states; what a state sums up isn't told twice."""
        updates: list[Update] = []
        changes = [c for c in self.changes if zone_id_of(c.channel) not in self.reasons]
        for _, parts in groupby(side_by_side(changes), key=lambda change: change.tx):
            updates.append(Changed(tuple(parts)))
        for reason in dict.fromkeys(self.reasons.values()):
            replaced = [zones[zone_id] for zone_id, why in self.reasons.items() if why == reason]
            states = tuple(state for zone in replaced if (state := zone.state()) is not None)
            updates.append(Replaced(states, reason))
        return [*updates, *self.gone]
