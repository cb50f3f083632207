"""Channel names: which streams of state exist, and how they are written."""

from __future__ import annotations

import re
from typing import Final

ZONE_PREFIX: Final = "zone:"
DIRECTORY: Final = "zones"
"""The channel of the zone directory: created, changed and deleted zones."""
UNASSIGNED: Final = "unassigned"
"""The channel of the users that are in no zone."""

REVOCATIONS: Final = "revocations"
"""The channel of revoked tokens, by which nodes tell each other; no client may name it."""

ZONE_ID_PATTERN: Final = r"^[A-Za-z0-9._-]{1,64}$"
_ZONE_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


class InvalidChannelError(ValueError):
    """A name that can never be a channel; `name` is as it was given, cut to 100 characters."""

    def __init__(self, name: str) -> None:
        super().__init__(f"not a channel: {name[:100]!r}")
        self.name = name[:100]


def is_zone_id(text: str) -> bool:
    """Tell whether `text` may be a zone id: 1 to 64 of letters, digits, `.`, `_`, `-`."""
    return _ZONE_ID.fullmatch(text) is not None


def zone_channel(zone_id: str | None) -> str:
    """Name the channel on which users in `zone_id` are seen (`None`: users in no zone)."""
    return UNASSIGNED if zone_id is None else ZONE_PREFIX + zone_id


def zone_id_of(channel: str) -> str | None:
    """Return the zone id of a zone's channel, `None` for the directory and the unassigned."""
    return channel[len(ZONE_PREFIX) :] if channel.startswith(ZONE_PREFIX) else None


def parse_channel(name: str) -> str:
    """Return `name` when it names a channel.

    Raises:
        InvalidChannelError: it never can.
    """
    if name in (DIRECTORY, UNASSIGNED):
        return name
    if name.startswith(ZONE_PREFIX) and is_zone_id(name[len(ZONE_PREFIX) :]):
        return name
    raise InvalidChannelError(name)
