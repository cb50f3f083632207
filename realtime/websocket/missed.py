"""Missed changes as clients get them, encoded once for a crowd that comes back together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from channels.changes import Change
from realtime.websocket.centrifuge_codec import CentrifugeCodec

KEPT_MAX: Final = 8
KEPT_MAX_BYTES: Final = 1_048_576
"""Longer ones are encoded for each client anew: a crowd would be sent states instead."""

_Key = tuple[CentrifugeCodec, Change, Change]


class MissedPublications:
    """What was encoded last, by its codec, first and last change.

    After a node or a network has failed, thousands have the same position. The changes between
    two of them are what they are: replicas hold no hole. Holds up to `KEPT_MAX` times
    `KEPT_MAX_BYTES`.
    """

    def __init__(self) -> None:
        self._kept: dict[_Key, bytes] = {}

    def encoded(self, codec: CentrifugeCodec, changes: Sequence[Change]) -> bytes:
        """Encode consecutive changes of a channel's replica. Never awaits.

        Args:
            codec: The client's.
            changes: What it missed, ascending; none: no bytes.
        """
        if not changes:
            return b""
        key = codec, changes[0], changes[-1]
        publications = self._kept.get(key)
        if publications is None:
            publications = codec.encode_publications(changes)
            if len(publications) <= KEPT_MAX_BYTES:
                if len(self._kept) == KEPT_MAX:
                    del self._kept[next(iter(self._kept))]
                self._kept[key] = publications
        return publications
