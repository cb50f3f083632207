"""The validator: judges a recorded history by the promises, without having been there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from channels.names import DIRECTORY
from channels.positions import Position
from tests.faults.dict_freshness import check_dicts
from tests.faults.freshness import Freshness, Watching
from tests.faults.history import (
    ClientLog,
    Closed,
    Frame,
    History,
    Opened,
    Published,
    Refused,
    Subscribed,
    Told,
    Unsubscribed,
)
from tests.faults.ledger import check_record, check_requests, state_fault
from tests.faults.timeline import Eras, Picture, Timeline, channels_of, picture_of
from tests.faults.told import check_told, merged
from tests.faults.violations import Bounds, Promise, Violation

GONE = 2000
SLACK_S = 1.0
"""Commits are seen by polling, a little later than by clients."""
TEMPORARY, UNKNOWN = 100, 102
HANDED_ON_WITHIN_S = 1.0
"""How long an SDK may take to hand on, one by one, what it received as one."""


@dataclass(slots=True)
class View:
    """What a client has of one channel."""

    position: Position | None = None
    picture: Picture = field(default_factory=Picture)
    is_subscribed: bool = False
    is_ended: bool = False
    watching: Watching | None = None
    owed: dict[int, float] = field(default_factory=dict)
    recovers_to: int = 0


def validate(history: History, bounds: Bounds | None = None) -> list[Violation]:
    """Return all violations in a history, oldest first."""
    bounds = bounds or Bounds()
    eras = Eras(history)
    found = [violation for timeline in eras.timelines for violation in check_record(timeline)]
    found += check_told(history)
    found += check_dicts(history, eras, bounds.staleness_s)
    found += check_requests(history, eras)
    for client in history.clients:
        walk = ClientWalk(history, eras, bounds, client)
        walk.run()
        found += walk.violations
    return sorted(found, key=lambda violation: violation.at_s)


class ClientWalk:
    """Goes through what one client received, and keeps what it should have by now."""

    def __init__(self, history: History, eras: Eras, bounds: Bounds, client: ClientLog) -> None:
        self.violations: list[Violation] = []
        self._eras = eras
        self._away = [outage for outage in history.outages if outage.scope == "database"]
        self._bounds = bounds
        self._client = client
        self._views: dict[str, View] = {}
        self._at_s = 0.0
        self._node = ""
        self._opened_s = 0.0
        self._goes_on = False
        self._live: list[tuple[float, Published]] = []
        self._apart_s = 0.0 if client.shows_frames else HANDED_ON_WITHIN_S
        self._outages = merged(
            outage for outage in history.outages if outage.scope in {"database", "recorder"}
        )
        self._freshness = Freshness(history, client.name, bounds.staleness_s)

    def run(self) -> None:
        """Judge the whole log."""
        for frame in self._client.frames:
            self._take_frame(frame)
        for view in self._views.values():
            self._stop_watching(view, None)
        self._check_end()
        for channel, at_s, text in self._freshness.faults:
            found = Violation(Promise.FRESH, text, at_s, self._client.name, channel)
            self.violations.append(found)

    def _fault(self, promise: Promise, channel: str, text: str) -> None:
        self.violations.append(Violation(promise, text, self._at_s, self._client.name, channel))

    def _timeline(self, channel: str) -> Timeline:
        """Return what a channel is judged by: the era of the client's position."""
        return self._eras.of_position(self._views[channel].position)

    def _take_frame(self, frame: Frame) -> None:
        self._check_whole(frame.at_s - self._apart_s)
        self._at_s = frame.at_s
        for item in frame.items:
            match item:
                case Opened(node, since):
                    self._open(node, since)
                case Closed():
                    self._end_all(self._views)
                case Told(_, zone_ids):
                    if zone_ids is not None:
                        self._end_all(self._views.keys() - {f"zone:{name}" for name in zone_ids})
                case _:
                    self._take_item(self._views.setdefault(item.channel, View()), item)

    def _take_item(self, view: View, item: Subscribed | Published | Unsubscribed | Refused) -> None:
        match item:
            case Subscribed():
                self._subscribe(view, item)
            case Published():
                self._publish(view, item)
                if not self._is_recovered(view, item):
                    self._live.append((self._at_s, item))
            case Unsubscribed(channel, code):
                if code == UNKNOWN:
                    # What SDKs make of a refusal.
                    self._check_refusal(channel, code, self._opened_s)
                self._unsubscribe(view, channel, code)
            case Refused(channel, code, asked_s):
                self._check_refusal(channel, code, self._opened_s if asked_s is None else asked_s)

    def _check_refusal(self, channel: str, code: int, asked_s: float) -> None:
        """Find a refusal for good, and a zone called unknown that was there all the time."""
        if code == TEMPORARY:
            return
        from_s, to_s = asked_s - SLACK_S, self._at_s + SLACK_S
        # What happened to zones while nobody watched the heads is seen later.
        is_dark = any(begin_s < to_s and end_s > from_s for begin_s, end_s in self._outages)
        if code != UNKNOWN or (
            not is_dark
            and any(era.has_throughout(channel, from_s, to_s) for era in self._eras.timelines)
        ):
            self._fault(Promise.SERVED, channel, f"subscribing was refused with {code}")

    def _open(self, node: str, since: dict[str, Position]) -> None:
        self._node, self._opened_s, self._goes_on = node, self._at_s, bool(since)
        self._end_all(self._views)
        for channel, position in since.items():
            view = self._views.setdefault(channel, View(position))
            if not view.is_ended:
                view.is_subscribed = True
                self._watch(view, channel, position)

    def _watch(self, view: View, channel: str, position: Position) -> None:
        self._stop_watching(view, self._at_s)
        timeline = self._eras.of_position(position)
        view.watching = Watching(channel, timeline, self._node, position.rev, self._at_s)

    def _stop_watching(self, view: View, at_s: float | None) -> None:
        if view.watching is not None:
            self._freshness.judge(view.watching, at_s)
            view.watching = None

    def _is_recovered(self, view: View, item: Published) -> bool:
        """Tell whether it is something that was missed; that isn't yet live."""
        if item.rev <= view.recovers_to:
            return True
        committed_s = self._timeline(item.channel).committed_s(item.channel, item.rev)
        return self._goes_on and (committed_s or 0) < self._opened_s + SLACK_S

    def _end_all(self, channels: Iterable[str]) -> None:
        for channel in channels:
            self._end(self._views[channel])

    def _end(self, view: View) -> None:
        view.is_subscribed = False
        view.owed.clear()
        self._stop_watching(view, self._at_s)

    def _unsubscribe(self, view: View, channel: str, code: int) -> None:
        if code == GONE and view.is_subscribed and not view.is_ended:
            # Where its history was renewed meanwhile, the last change can't be had; that the
            # zone is gone has to be true all the same.
            rev, by_s = view.position.rev if view.position else 0, self._at_s + SLACK_S
            timeline = self._timeline(channel)
            later = self._eras.timelines[timeline.number + 1 :]
            if not timeline.ended_between(channel, rev, by_s) and not any(
                era.lacks_zone(channel, by_s) for era in later
            ):
                self._fault(Promise.GAPLESS, channel, "gone, which it was not")
        self._end(view)

    def _subscribe(self, view: View, item: Subscribed) -> None:
        # On the same connection, or to whom gave its position, nothing goes back.
        known = view.position if view.is_subscribed else item.since
        view.is_subscribed, view.is_ended = True, False
        view.owed.clear()
        view.recovers_to = item.rev if item.missed is None else 0
        if item.state is None:
            self._recover(view, item)
        else:
            self._begin_anew(view, item, item.state)
            self._check_onward(item, known)
        self._watch(view, item.channel, view.position or Position(item.epoch, item.rev))

    def _begin_anew(self, view: View, item: Subscribed, state: bytes) -> None:
        rev, text = state_fault(self._eras.of(item.epoch), item.channel, state)
        if text or rev != item.rev:
            text = text or f"a state at revision {rev} in a reply that says {item.rev}"
            self._fault(Promise.CONSISTENT, item.channel, text)
        view.picture, _, _ = Picture.of_state(state)
        view.position = Position(item.epoch, item.rev)

    def _check_onward(self, item: Subscribed, known: Position | None) -> None:
        """Check that a state is not older than what the client had, and that it needed one."""
        is_back = known is not None and known.epoch == item.epoch and item.rev < known.rev
        is_lost = self._eras.of(item.epoch).number < self._eras.of_position(known).number
        if known is not None and (is_back or is_lost):
            text = f"a state at revision {item.rev} for a client at {known.rev}"
            text += ", of a history that it knew to be lost" if is_lost else ""
            self._fault(Promise.ORDERED, item.channel, text)
        if item.since is not None and self._should_recover(item, item.since):
            text = f"{item.since} was not recovered at {item.rev}"
            self._fault(Promise.RESUMABLE, item.channel, text)

    def _should_recover(self, item: Subscribed, since: Position) -> bool:
        head = self._eras.of(item.epoch).era.final.heads.get(item.channel)
        missed = item.rev - since.rev
        # Floors only rise: what is retained at the end was retained then.
        return (
            head is not None
            and since.epoch == item.epoch
            and since.rev >= head.floor
            and 0 <= missed <= self._bounds.resume_max_changes
            and not self._is_database_away()
        )

    def _is_database_away(self) -> bool:
        """Tell whether a node can't read the log just now, and gives the state that it has."""
        return any(outage.from_s <= self._at_s <= outage.to_s + SLACK_S for outage in self._away)

    def _recover(self, view: View, item: Subscribed) -> None:
        if view.position is None or item.epoch != view.position.epoch:
            text = f"recovered in epoch {item.epoch} from {view.position}"
            self._fault(Promise.RESUMABLE, item.channel, text)
            view.position = Position(item.epoch, item.rev)
            return
        if item.missed is None:
            return
        revs = [change.rev for change in item.missed]
        if item.since is not None and revs != list(range(item.since.rev + 1, item.rev + 1)):
            text = f"recovered from {item.since} to {item.rev} with revisions {revs}"
            self._fault(Promise.RESUMABLE, item.channel, text)
        for change in item.missed:
            self._publish(view, change)

    def _publish(self, view: View, item: Published) -> None:
        position = view.position
        if position is None or not view.is_subscribed:
            text = f"revision {item.rev} without a subscription"
            self._fault(Promise.GAPLESS, item.channel, text)
            return
        if item.rev != position.rev + 1:
            text = f"revision {item.rev} after {position.rev}"
            receipts = view.watching.receipts if view.watching else {}
            if item.rev > position.rev:
                promise = Promise.GAPLESS
            elif item.rev in receipts or item.rev == position.rev:
                promise = Promise.UNIQUE
            else:
                promise = Promise.ORDERED
            self._fault(promise, item.channel, text)
        timeline = self._eras.of(position.epoch)
        if not timeline.matches(item):
            self._fault(Promise.CONSISTENT, item.channel, f"revision {item.rev} is not the log's")
        rest_s = view.owed.pop(item.rev, None)
        # An event stream resumes by itself what it could not get whole from the database.
        resumes = self._client.make == "sse" and self._is_database_away()
        if rest_s is not None and not resumes:
            late_s = self._at_s - rest_s
            text = f"revision {item.rev} came {late_s:.3f} s after the rest of {item.tx}"
            self._fault(Promise.ATOMIC, item.channel, text)
        view.position = Position(position.epoch, item.rev)
        view.picture.apply(item.channel, timeline.events(item.events))
        view.is_ended = view.is_ended or timeline.ends_channel(item.channel, item.rev)
        if view.watching is not None:
            view.watching.receipts[item.rev] = self._at_s
        if view.is_ended:
            self._stop_watching(view, self._at_s)

    def _check_whole(self, by_s: float) -> None:
        """Note what of a live transaction is still owed; it may only come as a new state."""
        due = [live for live in self._live if live[0] <= by_s]
        self._live = self._live[len(due) :]
        for at_s, item in due:
            timeline = self._timeline(item.channel)
            for channel, rev in timeline.parts.get(item.tx, {}).items():
                view = self._views.get(channel)
                if view is None or not view.is_subscribed or view.is_ended:
                    continue
                # Who is still in a lost era there gets the state anew.
                is_of_era = self._timeline(channel) is timeline
                if is_of_era and view.position is not None and view.position.rev < rev:
                    view.owed.setdefault(rev, at_s)

    def _check_end(self) -> None:
        """Compare what the client ends with, and what it should watch, with the tables."""
        final = self._eras.last.era.final
        zones = {f"zone:{zone_id}" for zone_id in final.zones}
        wanted = zones if self._client.wanted is None else self._client.wanted
        for channel in sorted(wanted & {*channels_of(final), DIRECTORY}):
            view = self._views.get(channel, View())
            truth = picture_of(final, channel) or Picture()
            head = final.position(channel)
            if not view.is_subscribed or view.is_ended:
                self._fault(Promise.CONVERGENT, channel, "the client ends without a subscription")
            elif view.position != head:
                text = f"the client ends at {view.position}, the database is at {head}"
                self._fault(Promise.CONVERGENT, channel, text)
            elif difference := view.picture.difference(truth):
                self._fault(Promise.CONVERGENT, channel, f"the client ends with {difference}")
            elif view.picture.digest(channel) != truth.digest(channel):
                self._fault(Promise.CONVERGENT, channel, "the digests differ")
