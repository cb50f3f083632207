"""The truth in memory: users and zones with heads and a change log, as a database keeps them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, repeat
from typing import TypeVar

import msgspec

from channels.changes import Change, ChangePage, ChannelState, Transaction
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
from channels.names import DIRECTORY, UNASSIGNED, zone_channel, zone_id_of
from channels.ports import UnavailableError
from channels.positions import Position

Answer = TypeVar("Answer")
Pace = tuple[float, float]
"""Seconds that a question is under way, and then its answer."""


@dataclass
class Head:
    """A channel's head in the truth."""

    epoch: str
    rev: int = 0
    floor: int = 0


class Truth:
    """Users and zones with a change log, as the database keeps them; a `ChangeLog`.

    `down` makes every question fail, `failing` those of a kind (state, changes, heads);
    `gate` holds questions until it is set; `paces` tells how long each next one takes, but
    `due_paces` precede it, by kind. `identity` is the database's, a part of every epoch.
    A page of changes holds `page_max_changes`, an answer `answer_max_states`. `questions` counts
    those for states, however many channels each is about.
    """

    def __init__(self, zones: Sequence[str]) -> None:
        self.heads = {name: Head("e1") for name in (DIRECTORY, UNASSIGNED)}
        self.zones: dict[str, Zone] = {}
        self.users: dict[int, User] = {}
        self.rows: dict[tuple[str, int], Change] = {}
        self.down = False
        self.identity = ""
        self.gate = asyncio.Event()
        self.gate.set()
        self.failing: set[str] = set()
        self.paces: Iterator[Pace] = repeat((0, 0))
        self.due_paces: dict[str, list[Pace]] = {}
        self.page_max_changes = 1_000
        self.answer_max_states = 1_000
        self.asked: list[tuple[str, str]] = []
        self.questions = 0
        self._tx = count(1)
        for zone_id in zones:
            self.zones[zone_id] = Zone(zone_id, zone_id, {})
            self.heads[zone_channel(zone_id)] = Head("e1")

    # What is committed

    def commit(self, moves: Sequence[tuple[int, str | None]]) -> Transaction:
        """Move users (made when new) in one transaction, and return what was committed."""
        events: dict[str, list[Event]] = {}
        self._move(moves, events)
        return self._record(events)

    def _move(
        self, moves: Sequence[tuple[int, str | None]], events: dict[str, list[Event]]
    ) -> None:
        for user_id, zone_id in moves:
            old = self.users.get(user_id)
            version = 1 if old is None else old.version + 1
            user = User(user_id, user_id, f"user {user_id}", zone_id, {}, version)
            self.users[user_id] = user
            if old is not None and old.zone_id == zone_id:
                events.setdefault(zone_channel(zone_id), []).append(Changed(user))
                continue
            if old is not None:
                left = Left(user_id, version)
                events.setdefault(zone_channel(old.zone_id), []).append(left)
            events.setdefault(zone_channel(zone_id), []).append(Entered(user))

    def delete_zone(self, zone_id: str, move_to: str | None) -> Transaction:
        """Delete a zone and move its users in the same transaction."""
        events: dict[str, list[Event]] = {zone_channel(zone_id): []}
        for user in [u for u in self.users.values() if u.zone_id == zone_id]:
            moved = msgspec.structs.replace(user, zone_id=move_to, version=user.version + 1)
            self.users[user.id] = moved
            events[zone_channel(zone_id)].append(Left(user.id, moved.version))
            events.setdefault(zone_channel(move_to), []).append(Entered(moved))
        del self.zones[zone_id]
        events[zone_channel(zone_id)].append(ZoneDeleted(zone_id))
        events[DIRECTORY] = [ZoneDeleted(zone_id)]
        return self._record(events)

    def create_zone(
        self, zone_id: str, epoch: str, moves: Sequence[tuple[int, str | None]] = ()
    ) -> Transaction:
        """Make a zone, perhaps again, and move users in the same transaction."""
        zone = self.zones[zone_id] = Zone(zone_id, zone_id, {})
        head = self.heads.setdefault(zone_channel(zone_id), Head(epoch))
        head.epoch, head.floor = epoch, head.rev
        events: dict[str, list[Event]] = {DIRECTORY: [ZoneCreated(zone)]}
        self._move(moves, events)
        return self._record(events)

    def rename_zone(self, zone_id: str, name: str) -> Transaction:
        """Change a zone's name."""
        zone = self.zones[zone_id] = Zone(zone_id, name, {})
        return self._record(
            {zone_channel(zone_id): [ZoneChanged(zone)], DIRECTORY: [ZoneChanged(zone)]}
        )

    def _record(self, events: dict[str, list[Event]]) -> Transaction:
        tx = f"t{next(self._tx)}"
        for channel in events:
            self.heads[channel].rev += 1
        parts = tuple((channel, self.heads[channel].rev) for channel in sorted(events))
        changes = tuple(
            Change.of_events(
                channel,
                self.position(channel),
                tx,
                0,
                tuple(events[channel]),
                parts if len(parts) > 1 else (),
            )
            for channel, _ in parts
        )
        for change in changes:
            self.rows[change.channel, change.rev] = change
        return Transaction(tx, 0, changes)

    def renew_epochs(self, epoch: str) -> None:
        """Make another history of what is there."""
        for head in self.heads.values():
            head.epoch = epoch
            head.floor = head.rev

    def compact(self, channel: str, floor: int) -> None:
        """Forget changes up to `floor`."""
        self.heads[channel].floor = floor

    # What is

    def position(self, channel: str) -> Position:
        """Return where a channel is."""
        head = self.heads[channel]
        return Position(head.epoch + self.identity, head.rev)

    def state(self, channel: str) -> ChannelState | None:
        """Return the truth about a channel."""
        zone_id = zone_id_of(channel)
        if channel not in self.heads or (zone_id is not None and zone_id not in self.zones):
            return None
        position = self.position(channel)
        if channel == DIRECTORY:
            return ChannelState(channel, position, None, {}, dict(self.zones))
        users = {u.id: u for u in self.users.values() if u.zone_id == zone_id}
        zone = None if zone_id is None else self.zones[zone_id]
        return ChannelState(channel, position, zone, users, {})

    def page(self, channel: str, since_rev: int, limit: int) -> ChangePage | None:
        """Return retained changes of a channel."""
        head = self.heads.get(channel)
        if head is None:
            return None
        position = self.position(channel)
        first = max(since_rev, head.floor) + 1
        last = min(head.rev, first + min(limit, self.page_max_changes) - 1)
        rows = [self.rows[channel, rev] for rev in range(first, last + 1)]
        # The log's rows carry no epoch: they are told with the head's.
        changes = tuple(
            row if row.epoch == position.epoch else replace(row, epoch=position.epoch)
            for row in rows
        )
        return ChangePage(position, head.floor, changes)

    # What is asked

    async def _ask(self, kind: str, channel: str, answer: Callable[[], Answer]) -> Answer:
        self.asked.append((kind, channel))
        due = self.due_paces.get(kind)
        before_s, after_s = due.pop(0) if due else next(self.paces)
        await asyncio.sleep(before_s)
        await self.gate.wait()
        self._refuse_if_down(kind)
        found = answer()
        if after_s:
            await asyncio.sleep(after_s)
            self._refuse_if_down(kind)
        return found

    def _refuse_if_down(self, kind: str) -> None:
        if self.down or kind in self.failing:
            raise UnavailableError("database", "it is down")

    async def read_state(self, channel: str) -> ChannelState | None:
        return await self._ask("state", channel, lambda: self.state(channel))

    async def read_states(self, channels: Sequence[str]) -> dict[str, ChannelState | None]:
        self.questions += 1
        few = channels[: self.answer_max_states]
        self.asked += [("state", channel) for channel in few[1:]]
        return await self._ask("state", few[0], lambda: {name: self.state(name) for name in few})

    async def read_changes(self, channel: str, since_rev: int, limit: int) -> ChangePage | None:
        return await self._ask("changes", channel, lambda: self.page(channel, since_rev, limit))

    async def read_heads(self, channels: Sequence[str]) -> dict[str, Position]:
        return await self._ask(
            "heads",
            ",".join(channels),
            lambda: {name: self.position(name) for name in channels if name in self.heads},
        )
