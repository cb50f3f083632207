"""Whole transactions: which changes may go out together, and in which order."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from channels.changes import Change


def split_ready(
    queue: Sequence[Change], watched: Collection[str], revs: Mapping[str, int]
) -> tuple[list[Change], list[Change]]:
    """Part a queue into what may be sent in one frame now and what has to wait.

    A change waits when its transaction has a part on another watched channel that this node
    has not applied yet, or that itself waits; whatever follows it on its channel waits, too.

    Args:
        queue: Changes, ascending within each channel.
        watched: The channels of the connection that matter here.
        revs: Up to where the queue goes on each watched channel; a part beyond is missing. What
            is not there has all its parts.

    Returns:
        Ready changes with those of a transaction side by side, each channel still ascending;
        and the waiting ones in the order of the queue.
    """
    if not any(change.parts for change in queue):
        return list(queue), []
    blocked_from = _blocked(queue, watched, revs)
    ready = [c for c in queue if c.channel not in blocked_from or c.rev < blocked_from[c.channel]]
    waiting = (
        [c for c in queue if c.channel in blocked_from and c.rev >= blocked_from[c.channel]]
        if blocked_from
        else []
    )
    return side_by_side(ready), waiting


def _blocked(
    queue: Sequence[Change], watched: Collection[str], revs: Mapping[str, int]
) -> dict[str, int]:
    """Return, for each channel that has to wait, the first revision that does."""
    blocked_from: dict[str, int] = {}

    def is_missing(channel: str, rev: int) -> bool:
        if channel not in watched:
            return False
        if revs.get(channel, rev) < rev:
            return True
        return channel in blocked_from and blocked_from[channel] <= rev

    grew = True
    while grew:
        grew = False
        for change in queue:
            first = blocked_from.get(change.channel)
            if first is not None and first <= change.rev:
                continue
            if any(is_missing(channel, rev) for channel, rev in change.parts):
                blocked_from[change.channel] = change.rev
                grew = True
    return blocked_from


def side_by_side(ready: Sequence[Change]) -> list[Change]:
    """Order changes so that each transaction's stand together.

    Heads are locked until commit, so transactions that share channels come in the same order
    on each of them: there is always one whose changes all are next on their channels.
    """
    by_tx: dict[str, list[Change]] = {}
    for change in ready:
        by_tx.setdefault(change.tx, []).append(change)
    if len(by_tx) == len(ready):
        return list(ready)
    next_rev: dict[str, list[int]] = {}
    for change in reversed(ready):
        next_rev.setdefault(change.channel, []).append(change.rev)
    ordered: list[Change] = []
    while by_tx:
        left = len(by_tx)
        for tx, changes in list(by_tx.items()):
            if all(next_rev[change.channel][-1] == change.rev for change in changes):
                for change in changes:
                    next_rev[change.channel].pop()
                ordered += changes
                del by_tx[tx]
        if len(by_tx) == left:
            # Only a log rewritten by hand can be cyclic; the order within channels is kept.
            return list(ready)
    return ordered
