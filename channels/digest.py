"""Digests: a few bytes by which a client checks that it holds what the database holds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from zlib import crc32

_MODULUS: Final = 2**32


def digest_users(versions: Iterable[tuple[int, int]]) -> str:
    """Digest a zone: `<count>-<8 hex>`, the sum modulo 2**32 of CRC-32 over ASCII `id:version`.

    Args:
        versions: `(user id, version)` of each user in the zone, in any order.
    """
    count = total = 0
    for user_id, version in versions:
        count += 1
        total += crc32(f"{user_id}:{version}".encode("ascii"))
    return f"{count}-{total % _MODULUS:08x}"


def digest_zones(zone_ids: Iterable[str]) -> str:
    """Digest the directory: `<count>-<8 hex>`, the sum modulo 2**32 of CRC-32 over the zone ids."""
    count = total = 0
    for zone_id in zone_ids:
        count += 1
        total += crc32(zone_id.encode("ascii"))
    return f"{count}-{total % _MODULUS:08x}"
