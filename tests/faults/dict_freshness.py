"""The users dict over HTTP, judged: each was a state of the database, and not too old a one."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from channels.names import DIRECTORY
from tests.faults.freshness import Freshness
from tests.faults.history import DictRead, History, Json
from tests.faults.timeline import Eras, Timeline
from tests.faults.violations import Promise, Violation

EXPECTED_STATUSES = frozenset({0, 200, 304, 503})
SLACK_S = 1.0
"""Commits are seen by polling, a little later than by readers."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a transaction made of a user: as the dict has it, by its global id; `None`: gone.

    `committed_s` is by when, infinite when that was never seen.
    """

    version: int
    entry: tuple[str, Json] | None
    parts: dict[str, int] = field(default_factory=dict)
    committed_s: float = -math.inf


@dataclass(slots=True)
class Verdict:
    """What a dict is in an era.

    Attributes:
        fault: Why it is none of its states; empty when it is one.
        newest_s: By when the last change that it shows was committed.
        missing_s: By when the first that it lacks was; infinite when it lacks none.
        missing: Which one that is.
    """

    fault: str = ""
    newest_s: float = -math.inf
    missing_s: float = math.inf
    missing: str = ""


class DictTimeline:
    """The lives of all users in an era, to judge dicts by.

    Args:
        eras: All eras.
        timeline: The one.
        base: The users before anything happened.
    """

    def __init__(self, eras: Eras, timeline: Timeline, base: dict[int, Json]) -> None:
        self._eras = eras
        self._timeline = timeline
        self._lives: dict[int, list[Step]] = defaultdict(list)
        self._verdicts: dict[str, Verdict] = {}
        for user_id, user in base.items():
            self._lives[user_id].append(Step(user["version"], _entry(user)))
        for tx in timeline.parts:
            self._take(timeline.parts[tx])
        for life in self._lives.values():
            life.sort(key=lambda step: step.version)

    def _take(self, parts: dict[str, int]) -> None:
        """Add a transaction; who left one channel and entered another has moved."""
        committed_s = min(self._committed_s(channel, rev) for channel, rev in parts.items())
        for user_id, (version, entry) in self._effects(parts).items():
            self._lives[user_id].append(Step(version, entry, parts, committed_s))

    def _effects(self, parts: dict[str, int]) -> dict[int, tuple[int, tuple[str, Json] | None]]:
        left: dict[int, tuple[int, tuple[str, Json] | None]] = {}
        there: dict[int, tuple[int, tuple[str, Json] | None]] = {}
        for channel, rev in parts.items():
            if channel == DIRECTORY:
                continue
            for event in self._timeline.events(self._timeline.rows[channel][rev].events):
                if event["type"] == "left":
                    left[event["user_id"]] = (event["version"], None)
                elif event["type"] in {"entered", "changed"}:
                    user = event["user"]
                    there[user["id"]] = (user["version"], _entry(user))
        return left | there

    def _committed_s(self, channel: str, rev: int) -> float:
        """Return by when a revision was committed, be it in an era that began like this one."""
        found_s = math.inf
        for timeline in reversed(self._eras.timelines[: self._timeline.number + 1]):
            committed_s = timeline.committed_s(channel, rev)
            found_s = min(found_s, math.inf if committed_s is None else committed_s)
            if rev > timeline.era.from_revs.get(channel, 0):
                break
        return found_s

    def judge(self, etag: str, body: bytes) -> Verdict:
        """Find where in this era a dict is."""
        if etag not in self._verdicts:
            self._verdicts[etag] = self._judge(body)
        return self._verdicts[etag]

    def _judge(self, body: bytes) -> Verdict:
        shown: dict[int, tuple[str, Json]] = {
            entry["id"]: (key, entry) for key, entry in msgspec.json.decode(body).items()
        }
        for user_id, entry in shown.items():
            if all(step.entry != entry for step in self._lives.get(user_id, ())):
                return Verdict(f"user {user_id} never was {entry}")
        verdict = Verdict()
        reached: dict[str, int] = {}
        lacked: dict[str, int] = {}
        absent = [user_id for user_id in self._lives if user_id not in shown]
        # Who is absent is yet to come or gone already: the others tell what is over.
        for user_id in [*shown, *absent]:
            life = self._lives[user_id]
            count = _steps_over(life, shown.get(user_id), reached)
            if not count and not life[0].parts:
                return Verdict(f"user {user_id} is missing")
            if count is not None:
                self._note(verdict, user_id, life, count, reached, lacked)
        for channel in reached.keys() & lacked.keys():
            if reached[channel] >= lacked[channel]:
                verdict.fault = f"{channel} is at {reached[channel]} without {lacked[channel]}"
        return verdict

    def _note(
        self,
        verdict: Verdict,
        user_id: int,
        life: list[Step],
        count: int,
        reached: dict[str, int],
        lacked: dict[str, int],
    ) -> None:
        """Note the last step that a dict shows of a user, and the next, which it lacks."""
        if count:
            last = life[count - 1]
            for channel, rev in last.parts.items():
                reached[channel] = max(reached.get(channel, 0), rev)
            if last.committed_s < math.inf:
                verdict.newest_s = max(verdict.newest_s, last.committed_s)
        if count < len(life):
            lacking = life[count]
            for channel, rev in lacking.parts.items():
                lacked[channel] = min(lacked.get(channel, rev), rev)
            if lacking.committed_s < verdict.missing_s:
                what = "is deleted" if lacking.entry is None else f"has version {lacking.version}"
                verdict.missing_s, verdict.missing = lacking.committed_s, f"user {user_id} {what}"


def _entry(user: Json) -> tuple[str, Json]:
    """Return what the dict has of a user, with its key."""
    names = ("id", "name", "zone_id", "version")
    return str(user["global_id"]), {name: user[name] for name in names}


def _steps_over(
    life: list[Step], shown: tuple[str, Json] | None, reached: dict[str, int]
) -> int | None:
    """Return how many steps of a user's life are over in a dict; `None`: that is not known."""
    if shown is not None:
        return next(number for number, step in enumerate(life, 1) if step.entry == shown)
    if life[-1].entry is not None:
        return 0
    parts = life[0].parts
    is_begun = any(reached.get(channel, 0) >= rev for channel, rev in parts.items())
    return len(life) if is_begun or not parts else None


def check_dicts(history: History, eras: Eras, staleness_s: float) -> list[Violation]:
    """Check that each users dict was a state that there was, and fresh; so for what 304 means."""
    if not history.dict_reads:
        return []
    return list(_Check(history, eras, staleness_s).run())


class _Check:
    """Judges all reads of a history."""

    def __init__(self, history: History, eras: Eras, staleness_s: float) -> None:
        self._history = history
        self._eras = eras
        self._freshness = Freshness(history, "", staleness_s)
        self._dicts = [
            DictTimeline(eras, timeline, history.base.users) for timeline in eras.timelines
        ]
        self._bodies = {read.etag: read.body for read in history.dict_reads if read.status == 200}

    def run(self) -> Iterator[Violation]:
        """Judge all."""
        for read in self._history.dict_reads:
            promise, text = self._judge(read)
            if text:
                text = f"{read.node} answered {read.status} with the users dict: {text}"
                yield Violation(promise, text, read.ended_s)

    def _judge(self, read: DictRead) -> tuple[Promise, str]:
        if read.status not in EXPECTED_STATUSES:
            return Promise.SERVED, "an error"
        if read.status not in {200, 304}:
            return Promise.SERVED, ""
        if read.status == 304 and read.etag != read.asked_etag:
            return Promise.CONSISTENT, f"{read.etag} for who has {read.asked_etag or 'none'}"
        body = self._bodies.get(read.etag)
        if body is None or (read.body and read.body != body):
            return Promise.CONSISTENT, f"{read.etag} is of no dict, or of two"
        # What is the same in two eras is judged by the one that it is good in.
        found = [
            self._judge_in(timeline, read, body)
            for timeline in self._eras.timelines
            if timeline.era.from_s <= read.ended_s
        ]
        if any(not text for _, text in found) or self._is_from_before(read):
            return Promise.SERVED, ""
        # A dict that is too old says more than one that never was.
        return next((one for one in reversed(found) if one[0] is Promise.FRESH), found[-1])

    def _judge_in(self, timeline: Timeline, read: DictRead, body: bytes) -> tuple[Promise, str]:
        """Judge a dict by an era that had begun."""
        era = timeline.era
        verdict = self._dicts[timeline.number].judge(read.etag, body)
        if verdict.fault:
            return Promise.CONSISTENT, verdict.fault
        if self._is_ahead(verdict.newest_s, read.ended_s):
            return Promise.CONSISTENT, f"a change that was committed {verdict.newest_s:.3f}"
        if self._is_late(era.to_s, read):
            return Promise.FRESH, f"of a history that was lost at {era.to_s:.3f}"
        if self._is_late(verdict.missing_s, read):
            return Promise.FRESH, f"{verdict.missing} since {verdict.missing_s:.3f}"
        return Promise.FRESH, ""

    def _is_late(self, since_s: float, read: DictRead) -> bool:
        """Tell whether what happened at `since_s` had to be known; at once to the database."""
        if since_s == math.inf:
            return False
        due_s = self._freshness.due_s(since_s, read.node) if read.use_cache else since_s
        return due_s < read.began_s

    def _is_ahead(self, committed_s: float, ended_s: float) -> bool:
        """Tell whether a commit was not there yet; what nobody saw may have been there longer."""
        return committed_s > ended_s + SLACK_S and not any(
            outage.scope in {"database", "recorder"}
            and outage.from_s < committed_s
            and outage.to_s > ended_s
            for outage in self._history.outages
        )

    def _is_from_before(self, read: DictRead) -> bool:
        """Tell whether it may be of what came before the base, which nobody recorded."""
        return not self._is_late(self._history.began_s, read)
