"""The ledger: the change log, the tables, and what writers and readers were answered."""

from __future__ import annotations

from tests.faults.history import History
from tests.faults.timeline import Picture, Timeline, channels_of, picture_of
from tests.faults.violations import Promise, Violation

EXPECTED_STATUSES = frozenset({0, 200, 201, 204, 304, 404, 409, 412, 503})
"""Refusals that writers who race have to expect; 0 where no answer came."""


def check_record(history: History, timeline: Timeline) -> list[Violation]:
    """Check that the log is contiguous, whole, and leads exactly from tables to tables."""
    found = []
    heads = history.final.heads
    for channel, rows in timeline.rows.items():
        expected = range(timeline.first_rev(channel) + 1, timeline.last_rev(channel) + 1)
        if sorted(rows) != list(expected):
            text = f"the log has {len(rows)} revisions instead of {expected}"
            found.append(Violation(Promise.RECORDED, text, channel=channel))
    for tx, parts in timeline.parts.items():
        spans = {timeline.rows[channel][rev].span for channel, rev in parts.items()}
        if spans != {len(parts)}:
            text = f"transaction {tx} has {len(parts)} parts and says {spans}"
            found.append(Violation(Promise.RECORDED, text, channel=min(parts)))
    for channel in channels_of(history.final):
        told = timeline.picture_at(channel, heads[channel].rev) if channel in heads else None
        truth = picture_of(history.final, channel)
        if told is None or truth is None or told.difference(truth):
            text = "the log, replayed, is not the tables"
            text += f": {told.difference(truth)}" if told and truth else ""
            found.append(Violation(Promise.RECORDED, text, channel=channel))
    return found


def check_requests(history: History, timeline: Timeline) -> list[Violation]:
    """Check that what was answered to writers and readers is true."""
    found = []
    for write in history.writes:
        if write.status not in EXPECTED_STATUSES:
            text = f"{write.action} on {write.node} was answered with {write.status}"
            found.append(Violation(Promise.SERVED, text, write.ended_s))
        rows = [timeline.rows[name].get(at.rev) for name, at in write.positions.items()]
        transactions = {row.tx if row else None for row in rows}
        parts = timeline.parts.get(next(iter(transactions)) or "", {}) if rows else {}
        if rows and parts != {name: at.rev for name, at in write.positions.items()}:
            text = f"{write.action} was answered with {write.positions}, the log has {parts}"
            found.append(Violation(Promise.RECORDED, text, write.ended_s))
    for read in history.reads:
        if read.status not in EXPECTED_STATUSES:
            text = f"a read on {read.node} was answered with {read.status}"
            found.append(Violation(Promise.SERVED, text, read.at_s, channel=read.channel))
        if not read.body:
            continue
        rev, text = state_fault(timeline, read.channel, read.body)
        if text:
            found.append(Violation(Promise.CONSISTENT, text, read.at_s, channel=read.channel))
        if rev < read.minimum.rev:
            text = f"{read.node} answered revision {rev} to min={read.minimum}"
            found.append(Violation(Promise.READ_YOUR_WRITES, text, read.at_s, channel=read.channel))
    return found


def state_fault(timeline: Timeline, channel: str, body: bytes) -> tuple[int, str]:
    """Return the revision of a state, and what is wrong with it, empty when nothing is."""
    picture, digest, rev = Picture.of_state(body)
    truth = timeline.picture_at(channel, rev)
    if truth is None:
        return rev, f"a state at revision {rev}, which there never was"
    if difference := picture.difference(truth):
        return rev, f"the state at revision {rev} has {difference}"
    if digest != truth.digest(channel):
        return rev, f"the digest at revision {rev} is {digest}, not {truth.digest(channel)}"
    return rev, ""
