"""The resume decision: what a client that was away gets."""

from __future__ import annotations

from channels.changes import Change
from channels.positions import Position
from channels.replica import Replica


def missed_changes(
    replica: Replica,
    since: Position | None,
    resume_max_changes: int,
    resume_max_bytes: int = 16_777_216,
) -> tuple[Change, ...] | None:
    """Decide between the missed changes and a fresh snapshot.

    Args:
        replica: The channel as this node has it.
        since: The client's position; `None`: it has none.
        resume_max_changes: More than that behind, the snapshot is cheaper.
        resume_max_bytes: Likewise, for the events of these changes.

    Returns:
        The changes after `since`, ascending and complete, possibly none; or `None`: the client
        needs the snapshot, as its position is of another history, in the future, too far
        behind, or no longer retained.
    """
    if since is None or since.epoch != replica.epoch or since.rev > replica.rev:
        return None
    if replica.rev - since.rev > resume_max_changes:
        return None
    missed = replica.changes_after(since.rev)
    if missed and sum(len(change.events_json) for change in missed) > resume_max_bytes:
        return None
    return missed
