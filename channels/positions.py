"""Positions: where in a channel's history somebody is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from channels.names import DIRECTORY, UNASSIGNED, zone_channel

MAX_REV: Final = 2**53 - 1
"""The largest revision that every client's number type holds exactly."""

_POSITION: Final = re.compile(r"([0-9a-f]{1,32}):(0|[1-9][0-9]{0,15})")
_MINIMUM_ITEM: Final = re.compile(
    r"(?:(zone:)?([A-Za-z0-9._-]{1,64})=)?([0-9a-f]{1,32}:[0-9]{1,16})"
)
_VECTOR_ITEM: Final = re.compile(r"([A-Za-z0-9._-]{1,64})=([0-9a-f]{1,32}:[0-9]{1,16})")


class InvalidPositionError(ValueError):
    """A text that is no position; `text` is cut to 100 characters."""

    def __init__(self, text: str) -> None:
        super().__init__(f"not a position epoch:rev: {text[:100]!r}")
        self.text = text[:100]


@dataclass(frozen=True, slots=True)
class Position:
    """A point in one channel's history.

    Attributes:
        epoch: The identity of the history as clients see it, lower-case hex. Positions of
            different epochs can't be compared.
        rev: How many committed transactions have changed the channel, 0 to 2**53 - 1.
    """

    epoch: str
    rev: int

    def __str__(self) -> str:
        return f"{self.epoch}:{self.rev}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """Read `epoch:rev`.

        Raises:
            InvalidPositionError: the text is anything else.
        """
        match = _POSITION.fullmatch(text)
        if match is None or int(match[2]) > MAX_REV:
            raise InvalidPositionError(text)
        return cls(match[1], int(match[2]))

    def covers(self, other: Position) -> bool:
        """Tell whether who is here has seen everything up to `other`, of the same epoch."""
        return self.epoch == other.epoch and self.rev >= other.rev


def format_positions(positions: Mapping[str, Position]) -> str:
    """Write the `Zonecast-Positions` header: `zone:A=<epoch>:<rev>, zone:B=...`."""
    return ", ".join(f"{channel}={position}" for channel, position in positions.items())


def format_vector(positions: Iterable[tuple[str, Position]]) -> str:
    """Write the positions of several zones as one SSE event id: `A=<epoch>:<rev>,B=...`."""
    return ",".join(f"{zone_id}={position}" for zone_id, position in positions)


def parse_vector(text: str, *, max_zones: int = 64) -> dict[str, Position]:
    """Read what `format_vector` wrote, in whatever order; a zone given twice counts last.

    Raises:
        InvalidPositionError: the text is no vector or holds more than `max_zones` zones.
    """
    positions: dict[str, Position] = {}
    items = text.split(",", max_zones + 1)
    if len(items) > max_zones:
        raise InvalidPositionError(text)
    for item in items:
        match = _VECTOR_ITEM.fullmatch(item.strip())
        if match is None:
            raise InvalidPositionError(text)
        positions[match[1]] = Position.parse(match[2])
    return positions


def parse_minima(
    text: str, channels: Iterable[str], *, max_positions: int = 2_048
) -> dict[str, Position]:
    """Read a client's `min`: below which position of each channel it is to be told nothing.

    Takes `epoch:rev`, meant for all of `channels`; what `format_vector` wrote; and what
    `format_positions` wrote, so that the header of a write's response can be passed as it is.

    Returns:
        The positions by channel, also of channels other than those asked for.

    Raises:
        InvalidPositionError: the text is none of these, or holds more than `max_positions`.
    """
    minima: dict[str, Position] = {}
    items = text.split(",", max_positions + 1)
    if len(items) > max_positions:
        raise InvalidPositionError(text)
    for item in items:
        match = _MINIMUM_ITEM.fullmatch(item.strip())
        if match is None:
            raise InvalidPositionError(text)
        prefix, name, position = match[1], match[2], Position.parse(match[3])
        if name is None:
            minima.update(dict.fromkeys(channels, position))
            continue
        minima[zone_channel(name)] = position
        if prefix is None and name in {DIRECTORY, UNASSIGNED}:
            # A zone may have this name, too; a position of neither costs it one question.
            minima[name] = position
    return minima
