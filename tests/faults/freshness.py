"""Freshness: whether each committed change was received in time by whoever watched."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, field

from tests.faults.history import History
from tests.faults.timeline import Timeline


@dataclass(slots=True)
class Watching:
    """A subscription from its beginning to its end: when which revision arrived.

    Attributes:
        channel: The channel.
        timeline: What it is judged by.
        node: Where the client was connected.
        from_rev: What it began with.
        from_s: When it began.
        receipts: Times by revision.
    """

    channel: str
    timeline: Timeline
    node: str
    from_rev: int
    from_s: float
    receipts: dict[int, float] = field(default_factory=dict)


class Freshness:
    """Judges one client's subscriptions; outages that concern it put its deadlines off.

    Args:
        history: Tells outages.
        client: Its name.
        bound_s: How late a change may be.

    Attributes:
        faults: Channel, time and text of each change that was late.
    """

    def __init__(self, history: History, client: str, bound_s: float) -> None:
        self.faults: list[tuple[str, float, str]] = []
        self._history = history
        self._own = {"database", "recorder", f"client:{client}"}
        self._bound_s = bound_s
        self._outages: dict[str, tuple[list[float], list[float]]] = {}

    def judge(self, watching: Watching, to_s: float | None) -> None:
        """Judge a subscription that ended; `None`: it lasted to the end, when all was quiet."""
        channel, timeline = watching.channel, watching.timeline
        self._judge_era(watching, to_s)
        for rev in range(watching.from_rev + 1, timeline.last_rev(channel) + 1):
            committed_s = timeline.committed_s(channel, rev)
            if committed_s is None:
                return
            received_s = watching.receipts.get(rev)
            if received_s is None and to_s is not None and to_s <= committed_s + self._bound_s:
                return
            due_s = self.due_s(max(committed_s, watching.from_s), watching.node)
            if received_s is None:
                # Left out of judgement when the subscription ended first; it is caught up then.
                if to_s is not None and to_s > due_s:
                    text = f"revision {rev} did not come, {to_s - due_s + self._bound_s:.1f} s on"
                    self.faults.append((channel, due_s, text))
                return
            if received_s > due_s:
                late_s = received_s - due_s + self._bound_s
                text = f"revision {rev} came after {late_s:.1f} s"
                self.faults.append((channel, received_s, text))

    def _judge_era(self, watching: Watching, to_s: float | None) -> None:
        """Find a subscription to a lost history that lasts too long after the restore."""
        lost_s = watching.timeline.era.to_s
        if lost_s == math.inf:
            return
        due_s = self.due_s(max(lost_s, watching.from_s), watching.node)
        if to_s is None or to_s > due_s:
            text = f"a history that was lost at {lost_s:.3f} is still watched"
            self.faults.append((watching.channel, due_s, text))

    def due_s(self, from_s: float, node: str) -> float:
        """Return until when a change of `from_s` has to arrive."""
        begins, ends = self._outages_of(node)
        due_s = from_s + self._bound_s
        # Begins ascend, and so do ends: what overlaps has been merged.
        for index in range(bisect_left(ends, from_s), len(begins)):
            if begins[index] >= due_s:
                break
            due_s = max(due_s, ends[index] + self._bound_s)
        return due_s

    def _outages_of(self, node: str) -> tuple[list[float], list[float]]:
        if node not in self._outages:
            scopes = {*self._own, f"node:{node}"}
            begins: list[float] = []
            ends: list[float] = []
            concerned = [outage for outage in self._history.outages if outage.scope in scopes]
            for outage in sorted(concerned, key=lambda outage: outage.from_s):
                if ends and outage.from_s <= ends[-1]:
                    ends[-1] = max(ends[-1], outage.to_s)
                else:
                    begins.append(outage.from_s)
                    ends.append(outage.to_s)
            self._outages[node] = (begins, ends)
        return self._outages[node]
