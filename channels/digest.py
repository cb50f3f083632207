"""Digests: a few bytes by which a client checks that it holds what the database holds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final
from zlib import crc32

from channels.changes import ChannelState
from channels.names import DIRECTORY
from channels.positions import Position

_MODULUS: Final = 2**32
PIECE_MAX_USERS: Final = 5_000
"""Users digested before others have the loop, which takes some 3 ms."""


def digest_users(versions: Iterable[tuple[int, int]]) -> str:
    """Digest a zone: `<count>-<8 hex>`, the sum modulo 2**32 of CRC-32 over ASCII `id:version`.

    Args:
        versions: `(user id, version)` of each user in the zone, in any order.
    """
    count = total = 0
    for user_id, version in versions:
        count += 1
        total += _checksum(user_id, version)
    return f"{count}-{total % _MODULUS:08x}"


def _checksum(user_id: int, version: int) -> int:
    return crc32(f"{user_id}:{version}".encode("ascii"))


def digest_zones(zone_ids: Iterable[str]) -> str:
    """Digest the directory: `<count>-<8 hex>`, the sum modulo 2**32 of CRC-32 over the zone ids."""
    count = total = 0
    for zone_id in zone_ids:
        count += 1
        total += crc32(zone_id.encode("ascii"))
    return f"{count}-{total % _MODULUS:08x}"


def digest_state(state: ChannelState) -> str:
    """Digest a channel's state: its zones for the directory, else its users."""
    if state.channel == DIRECTORY:
        return digest_zones(state.zones)
    return digest_users((user.id, user.version) for user in state.users.values())


async def digest_in_pieces(state: ChannelState) -> str:
    """Digest users that nobody changes meanwhile, letting others have the loop between."""
    total = 0
    for number, user in enumerate(state.users.values(), 1):
        total += _checksum(user.id, user.version)
        if number % PIECE_MAX_USERS == 0:
            await asyncio.sleep(0)
    return f"{len(state.users)}-{total % _MODULUS:08x}"


@dataclass(frozen=True, slots=True)
class DigestAt:
    """A channel's digest, and where the channel was then.

    Attributes:
        from_replica: Whether it is that of the node's replica; else of the database's rows.
    """

    channel: str
    position: Position
    digest: str
    from_replica: bool

    @property
    def count(self) -> int:
        """How many users there were, or zones in the directory."""
        return int(self.digest.partition("-")[0])

    def document(self) -> dict[str, Any]:
        """Return it with the keys of the wire, the same in all protocols."""
        return {
            "channel": self.channel,
            "epoch": self.position.epoch,
            "rev": self.position.rev,
            "digest": self.digest,
            "count": self.count,
            "source": "replica" if self.from_replica else "database",
        }
