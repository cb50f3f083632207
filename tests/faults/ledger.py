"""The ledger: the change log, the tables, and what writers and readers were answered."""

from __future__ import annotations

from collections.abc import Iterator

from tests.faults.history import History
from tests.faults.timeline import Eras, Picture, Timeline, channels_of, epoch_of, picture_of
from tests.faults.violations import Promise, Violation

EXPECTED_STATUSES = frozenset({0, 200, 201, 204, 304, 404, 409, 412, 503})
"""Refusals that writers who race have to expect; 0 where no answer came."""


def check_record(timeline: Timeline) -> list[Violation]:
    """Check that the log is contiguous, whole, and leads exactly from tables to tables."""
    found = []
    final = timeline.era.final
    heads = final.heads
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
    for channel in channels_of(final):
        told = timeline.picture_at(channel, heads[channel].rev) if channel in heads else None
        truth = picture_of(final, channel)
        if told is None or truth is None or told.difference(truth):
            text = "the log, replayed, is not the tables"
            text += f": {told.difference(truth)}" if told and truth else ""
            found.append(Violation(Promise.RECORDED, text, channel=channel))
    return found


def check_requests(history: History, eras: Eras) -> list[Violation]:
    """Check that what was answered to writers and readers is true."""
    return [*_check_writes(history, eras), *_check_reads(history, eras)]


def _check_writes(history: History, eras: Eras) -> Iterator[Violation]:
    for write in history.writes:
        if write.status not in EXPECTED_STATUSES:
            text = f"{write.action} on {write.node} was answered with {write.status}"
            yield Violation(Promise.SERVED, text, write.ended_s)
        # A restore loses what was acknowledged; before it, it was there.
        timeline = eras.of_position(next(iter(write.positions.values()), None))
        rows = [timeline.rows[name].get(at.rev) for name, at in write.positions.items()]
        transactions = {row.tx if row else None for row in rows}
        parts = timeline.parts.get(next(iter(transactions)) or "", {}) if rows else {}
        if rows and parts != {name: at.rev for name, at in write.positions.items()}:
            text = f"{write.action} was answered with {write.positions}, the log has {parts}"
            yield Violation(Promise.RECORDED, text, write.ended_s)


def _check_reads(history: History, eras: Eras) -> Iterator[Violation]:
    for read in history.reads:
        if read.status not in EXPECTED_STATUSES:
            text = f"a read on {read.node} was answered with {read.status}"
            yield Violation(Promise.SERVED, text, read.at_s, channel=read.channel)
        if not read.body:
            continue
        timeline, asked = eras.of(epoch_of(read.body)), eras.of_position(read.minimum)
        rev, text = state_fault(timeline, read.channel, read.body)
        if text:
            yield Violation(Promise.CONSISTENT, text, read.at_s, channel=read.channel)
        is_lost = timeline.number < asked.number
        if is_lost or (timeline is asked and rev < read.minimum.rev):
            text = f"{read.node} answered revision {rev} to min={read.minimum}"
            text += ", of a history that was lost" if is_lost else ""
            yield Violation(Promise.READ_YOUR_WRITES, text, read.at_s, channel=read.channel)


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
