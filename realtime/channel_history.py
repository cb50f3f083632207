"""Channel history: which retained changes a `history` command asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from channels.changes import Change, ChangePage
from channels.feed import Feed
from channels.positions import Position
from realtime.websocket.centrifuge_codec import HistoryRequest, Since, read_position

_MAX_TRIES: Final = 3


class UnrecoverableError(Exception):
    """The history doesn't reach back to the position asked for, or never had it."""


async def read_history(
    feed: Feed, request: HistoryRequest, *, max_changes: int, max_bytes: int
) -> tuple[Position, Sequence[Change]]:
    """Read what a client asks for: the head, and changes oldest first, or newest first in reverse.

    Args:
        feed: Asked for pages of the change log.
        request: `limit` 0 asks only for the head, a negative one for as much as may be.
        max_changes: The most that is returned at once.
        max_bytes: Events that are returned at once, but for a single change that has more.

    Raises:
        UnrecoverableError: `since` is of another epoch, in the future, or compacted.
        UnknownChannelError: there is no such channel.
        UnavailableError: the database cannot be asked.
    """
    limit = max_changes if request.limit < 0 else min(request.limit, max_changes)
    since_rev = _since_rev(request.since)
    page = await feed.history(request.channel, since_rev or 0, max(limit, 1))
    if request.since is not None:
        _check(request.since, page)
    if limit == 0:
        return page.head, ()
    if request.reverse:
        head, changes = await _newest_first(feed, request.channel, since_rev, limit, page)
    else:
        if since_rev is None:
            page = await _from_floor(feed, request.channel, limit, page)
        head, changes = page.head, page.changes
    return head, _fitting(changes, max_bytes)


def _fitting(changes: Sequence[Change], max_bytes: int) -> Sequence[Change]:
    """Return as many changes from the first on as fit, at least one if there is any."""
    size_bytes = 0
    for count, change in enumerate(changes):
        size_bytes += len(change.events_json)
        if size_bytes > max_bytes:
            return changes[: max(1, count)]
    return changes


def _since_rev(since: Since | None) -> int | None:
    return None if since is None else read_position("0", since.offset).rev


def _check(since: Since, page: ChangePage) -> None:
    # Clients may leave the epoch out: then any will do.
    epoch = since.epoch or page.head.epoch
    position = read_position(epoch, since.offset)
    if not page.floor <= position.rev <= page.head.rev or epoch != page.head.epoch:
        raise UnrecoverableError


async def _from_floor(feed: Feed, channel: str, limit: int, page: ChangePage) -> ChangePage:
    """Read from the oldest retained change on, which may go away between two reads."""
    asked_rev = 0
    for _ in range(_MAX_TRIES):
        if page.floor <= asked_rev:
            break
        asked_rev = page.floor
        page = await feed.history(channel, asked_rev, limit)
    return page


async def _newest_first(
    feed: Feed, channel: str, before_rev: int | None, limit: int, page: ChangePage
) -> tuple[Position, Sequence[Change]]:
    """Read back from the head, or from the change before `before_rev`.

    Pages come oldest first, and may end early; what was pruned, or renewed, between two of them
    takes with it what came before.
    """
    last_rev = page.head.rev if before_rev is None else before_rev - 1
    after_rev = max(page.floor, last_rev - limit)
    changes: list[Change] = []
    while after_rev < last_rev:
        epoch = page.head.epoch
        page = await feed.history(channel, after_rev, last_rev - after_rev)
        if page.floor > after_rev or page.head.epoch != epoch:
            changes.clear()
        changes += [change for change in page.changes if change.rev <= last_rev]
        if not page.changes:
            break
        after_rev = page.changes[-1].rev
    return page.head, changes[::-1]
