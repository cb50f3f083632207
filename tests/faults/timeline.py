"""The timeline: the change log of a history, replayed to any revision of any channel."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from zlib import crc32

import msgspec

from channels.names import DIRECTORY, UNASSIGNED, zone_channel, zone_id_of
from channels.positions import Position
from tests.faults.eras import Era, LogRow, Tables
from tests.faults.history import History, Json, Opened, Published, Subscribed


@dataclass(slots=True)
class Picture:
    """The state of a channel: the users and the zone, or in the directory the zones."""

    users: dict[int, Json] = field(default_factory=dict)
    zone: Json | None = None
    zones: dict[str, Json] = field(default_factory=dict)

    @classmethod
    def of_state(cls, body: bytes) -> tuple[Picture, str, int]:
        """Read a state as clients get it; returns its digest and its revision, too."""
        state = msgspec.json.decode(body)
        users = {user["id"]: user for user in state.get("users", [])}
        zones = {zone["zone_id"]: zone for zone in state.get("zones", [])}
        return cls(users, state.get("zone"), zones), state["digest"], state["rev"]

    def apply(self, channel: str, events: list[Json]) -> None:
        """Apply the events of one change."""
        for event in events:
            match event["type"]:
                case "entered" | "changed":
                    self.users[event["user"]["id"]] = event["user"]
                case "left":
                    self.users.pop(event["user_id"], None)
                case "zone_created" | "zone_changed" if channel == DIRECTORY:
                    self.zones[event["zone"]["zone_id"]] = event["zone"]
                case "zone_changed":
                    self.zone = event["zone"]
                case "zone_deleted":
                    self.zones.pop(event["zone_id"], None)
                    self.zone = None

    def copy(self) -> Picture:
        """Return one that moves on by itself."""
        return Picture(dict(self.users), self.zone, dict(self.zones))

    def digest(self, channel: str) -> str:
        """Digest it as `docs/protocol.md` has it, independently of the service's code."""
        texts = [f"{user['id']}:{user['version']}" for user in self.users.values()]
        if channel == DIRECTORY:
            texts = list(self.zones)
        return f"{len(texts)}-{sum(crc32(text.encode()) for text in texts) % 2**32:08x}"

    def difference(self, other: Picture) -> str:
        """Tell in a few words where it differs from another; empty when it doesn't."""
        found = [] if self.zone == other.zone else [f"zone {self.zone} instead of {other.zone}"]
        found += _differences("user", self.users, other.users)
        found += _differences("zone", self.zones, other.zones)
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        return "; ".join(found[:3]) + more


def epoch_of(body: bytes) -> str:
    """Return the epoch of a state, empty when it tells none."""
    epoch: str = msgspec.json.decode(body).get("epoch", "")
    return epoch


def _differences(what: str, mine: dict[Any, Json], others: dict[Any, Json]) -> list[str]:
    return [
        f"{what} {key}: {mine.get(key)} instead of {others.get(key)}"
        for key in sorted({*mine, *others})
        if mine.get(key) != others.get(key)
    ]


def picture_of(tables: Tables, channel: str) -> Picture | None:
    """Return a channel's state in the tables; `None`: the zone doesn't exist."""
    if channel == DIRECTORY:
        return Picture(zones=dict(tables.zones))
    zone_id = zone_id_of(channel)
    if zone_id is not None and zone_id not in tables.zones:
        return None
    users = {key: user for key, user in tables.users.items() if user["zone_id"] == zone_id}
    return Picture(users, tables.zones.get(zone_id or ""))


def channels_of(tables: Tables) -> list[str]:
    """List the channels that exist in the tables."""
    return [DIRECTORY, UNASSIGNED, *(zone_channel(zone_id) for zone_id in tables.zones)]


class Timeline:
    """The truth of an era at each revision.

    Args:
        base: The tables before anything happened.
        era: What came of them.
        number: Which era it is, from 0.
    """

    def __init__(self, base: Tables, era: Era, number: int = 0) -> None:
        self._base = base
        self.era = era
        self.number = number
        self.rows: dict[str, dict[int, LogRow]] = defaultdict(dict)
        self.parts: dict[str, dict[str, int]] = defaultdict(dict)
        self._read_rows()
        self._lives = self._read_lives()
        self._cursors: dict[str, tuple[int, Picture]] = {}
        self._kept: dict[tuple[str, int], Picture] = {}
        self.events = cache(self._decode)

    def _read_rows(self) -> None:
        """Index the log, and what was pruned; of that only what this era has not put anew."""
        for row in [*self.era.kept_rows, *self.era.log]:
            if self.first_rev(row.channel) < row.rev <= self.last_rev(row.channel):
                self.rows[row.channel][row.rev] = row
        for channel, rows in self.rows.items():
            for row in rows.values():
                self.parts[row.tx][channel] = row.rev

    def _decode(self, events: bytes) -> list[Json]:
        decoded: list[Json] = msgspec.json.decode(events)
        return decoded

    def _read_lives(self) -> dict[str, list[Json]]:
        """List, for each zone id, how the zone was at the beginning of each of its lives."""
        lives: dict[str, list[Json]] = defaultdict(list)
        for zone_id, zone in self._base.zones.items():
            lives[zone_id].append(zone)
        for _, row in sorted(self.rows[DIRECTORY].items()):
            for event in msgspec.json.decode(row.events):
                if event["type"] == "zone_created":
                    lives[event["zone"]["zone_id"]].append(event["zone"])
        return lives

    def first_rev(self, channel: str) -> int:
        """Return the revision of a channel before anything happened."""
        head = self._base.heads.get(channel)
        return head.rev if head else 0

    def last_rev(self, channel: str) -> int:
        """Return the revision of a channel at the end."""
        head = self.era.final.heads.get(channel)
        return head.rev if head else 0

    def committed_s(self, channel: str, rev: int) -> float | None:
        """Return by when a revision was committed; `None`: that was never seen."""
        return self.era.head_times.committed_s(channel, rev)

    def matches(self, item: Published) -> bool:
        """Tell whether a change is exactly the log's."""
        row = self.rows[item.channel].get(item.rev)
        if row is None or row.tx != item.tx:
            return False
        return row.events == item.events or self.events(row.events) == self.events(item.events)

    def picture_at(self, channel: str, rev: int) -> Picture | None:
        """Return the state at a revision, not to be changed; `None`: there never was one."""
        first = self.first_rev(channel)
        if not first <= rev <= max(first, self.last_rev(channel)):
            return None
        if (channel, rev) not in self._kept:
            at_rev, picture = self._cursors.get(channel, (rev + 1, Picture()))
            if at_rev > rev:
                at_rev, picture = first, (picture_of(self._base, channel) or Picture()).copy()
            for number in range(at_rev + 1, rev + 1):
                if (row := self.rows[channel].get(number)) is None:
                    return None
                picture.apply(channel, self.events(row.events))
            self._cursors[channel] = (rev, picture)
            self._kept[channel, rev] = self._with_zone(channel, rev, picture.copy())
        return self._kept[channel, rev]

    def _with_zone(self, channel: str, rev: int, picture: Picture) -> Picture:
        """Add what the channel itself doesn't tell: how its zone was when it was made."""
        zone_id = zone_id_of(channel)
        if zone_id is not None and picture.zone is None:
            first = self.first_rev(channel)
            deaths = sum(
                any(event["type"] == "zone_deleted" for event in self.events(row.events))
                for number, row in self.rows[channel].items()
                if first < number <= rev
            )
            lives = self._lives[zone_id]
            picture.zone = lives[deaths] if deaths < len(lives) else None
        return picture

    def ended_between(self, channel: str, after_rev: int, by_s: float) -> bool:
        """Tell whether the zone ended after a revision, and by a time."""
        for rev in range(after_rev + 1, self.last_rev(channel) + 1):
            committed_s = self.committed_s(channel, rev)
            if committed_s is None or committed_s > by_s:
                return False
            if self.ends_channel(channel, rev):
                return True
        return False

    def ends_channel(self, channel: str, rev: int) -> bool:
        """Tell whether a revision is the end of its zone."""
        row = self.rows[channel].get(rev)
        if row is None or channel == DIRECTORY:
            return False
        return any(event["type"] == "zone_deleted" for event in self.events(row.events))

    def has_throughout(self, channel: str, from_s: float, to_s: float) -> bool:
        """Tell whether a channel was there, in this era's own part, all the time between two."""
        if not self.era.from_s <= from_s <= to_s < self.era.to_s:
            return False
        zone_id = zone_id_of(channel)
        if zone_id is None:
            return True
        times = self.era.head_times
        revs = range(times.rev_by(DIRECTORY, from_s), times.rev_by(DIRECTORY, to_s) + 1)
        pictures = [self.picture_at(DIRECTORY, rev) for rev in revs]
        return all(picture is not None and zone_id in picture.zones for picture in pictures)

    def lacks_zone(self, channel: str, by_s: float) -> bool:
        """Tell whether the zone was missing in this era's own part, for a moment before a time."""
        if by_s < self.era.from_s:
            return False
        zone_id = zone_id_of(channel)
        first = max(self.first_rev(DIRECTORY), self.era.from_revs.get(DIRECTORY, 0))
        for rev in range(first, self.era.head_times.rev_by(DIRECTORY, by_s) + 1):
            picture = self.picture_at(DIRECTORY, rev)
            if picture is not None and zone_id not in picture.zones:
                return True
        return False


class Eras:
    """The timelines of all eras of a history, and which of them an epoch belongs to.

    Epochs are noted as the heads are watched from outside. One that was there for so short that
    it was missed belongs to the era in which somebody first knew of it.
    """

    def __init__(self, history: History) -> None:
        self.timelines = [
            Timeline(history.base, era, number) for number, era in enumerate(history.eras())
        ]
        self._of_epoch = {
            epoch: timeline for timeline in self.timelines for epoch in timeline.era.epochs()
        }
        if len(self.timelines) > 1:
            self._note_first_sights(history)

    @property
    def last(self) -> Timeline:
        """The one that all must end in."""
        return self.timelines[-1]

    def of(self, epoch: str) -> Timeline:
        """Return the timeline of an epoch."""
        return self._of_epoch.get(epoch, self.last)

    def of_position(self, position: Position | None) -> Timeline:
        """Return the timeline of a position, the last one's without."""
        return self.last if position is None else self.of(position.epoch)

    def _note_first_sights(self, history: History) -> None:
        sights = [
            (write.ended_s, at) for write in history.writes for at in write.positions.values()
        ]
        for client in history.clients:
            for frame in client.frames:
                for item in frame.items:
                    if isinstance(item, Subscribed):
                        sights.append((frame.at_s, Position(item.epoch, item.rev)))
                    elif isinstance(item, Opened):
                        sights += [(frame.at_s, at) for at in item.since.values()]
        for at_s, position in sorted(sights, key=lambda sight: sight[0]):
            if position.epoch not in self._of_epoch:
                self._of_epoch[position.epoch] = self._at(at_s)

    def _at(self, at_s: float) -> Timeline:
        return next(one for one in self.timelines if at_s < one.era.to_s)
