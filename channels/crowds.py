"""Crowds: the watchers that are to get the same of some changes, found in one go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from channels.changes import Change
from channels.replica import Replica
from channels.subscribers import Codec, Subscriber
from channels.transactions import split_ready

Watcher = Subscriber[Any]


class Crowd:
    """What watchers that share a combination of channels get in one pass.

    Attributes:
        ready: The changes for them, whole transactions.
        waiting: Those that wait for the rest of a transaction.
        endings: The channels that end with `ready`.
        is_plain: Whether `ready` is to be written, and nothing else is to be done.
    """

    __slots__ = ("_frames", "endings", "is_plain", "ready", "waiting")

    def __init__(self, ready: Sequence[Change], waiting: Sequence[Change]) -> None:
        self.ready = ready
        self.waiting = waiting
        self.endings = [change.channel for change in ready if change.ends_channel]
        self.is_plain = bool(ready) and not waiting and not self.endings
        self._frames: dict[Codec[Any], Any] = {}

    def frame(self, codec: Codec[Any]) -> Any:
        """Return `ready` as one frame, encoded once for each codec."""
        frame = self._frames.get(codec)
        if frame is None:
            frame = self._frames[codec] = codec.encode(self.ready)
        return frame


def crowds_of(
    changes: Sequence[Change],
    watchers: Mapping[str, Mapping[Watcher, None]],
    replicas: Mapping[str, Replica],
) -> dict[Watcher, Crowd | None]:
    """Find who is to get what of `changes`, by which of the concerned channels each watches.

    The cost grows with the watchers of these channels, not with all channels or subscribers.

    Args:
        changes: In the order in which they were applied.
        watchers: All watchers by channel.
        replicas: Where the node is: it has applied `changes`, and nothing after them.
    """
    concerned = {change.channel: None for change in changes}
    for change in changes:
        concerned.update((name, None) for name, _ in change.parts if name in watchers)
    if len(concerned) == 1:
        everybody = watchers.get(changes[0].channel, {})
        return dict.fromkeys(everybody, Crowd(changes, ()))
    shared: dict[Watcher, tuple[str, ...]] = {}
    for name in concerned:
        alone = (name,)
        for watcher in watchers.get(name, ()):
            known = shared.get(watcher)
            shared[watcher] = alone if known is None else known + alone
    by_channel: dict[str, list[tuple[int, Change]]] = {}
    for index, change in enumerate(changes):
        by_channel.setdefault(change.channel, []).append((index, change))
    crowds: dict[tuple[str, ...], Crowd | None] = {}
    for names in dict.fromkeys(shared.values()):
        crowds[names] = _crowd(names, by_channel, replicas)
    return {
        watcher: crowd for watcher, names in shared.items() if (crowd := crowds[names]) is not None
    }


def _crowd(
    names: Iterable[str],
    by_channel: Mapping[str, Sequence[tuple[int, Change]]],
    replicas: Mapping[str, Replica],
) -> Crowd | None:
    numbered = [entry for name in names for entry in by_channel.get(name, ())]
    if not numbered:
        return None
    queue = [change for _, change in sorted(numbered, key=lambda entry: entry[0])]
    revs = {name: replicas[name].rev for name in names}
    return Crowd(*split_ready(queue, revs.keys(), revs))
