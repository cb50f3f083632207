"""The principal: who it is and what they were granted, as a checked token says."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from channels.zone_grants import ALL_ZONES, ZoneGrant, ZonePatterns


class Scope(Enum):
    """What kinds of things a token is good for. None of them includes another."""

    READ = "read"
    """Look at zones and their users, watch them."""
    WRITE = "write"
    """Change zones, and users in zones."""
    ADMIN = "admin"
    """Look at nodes and steer them, revoke tokens."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who was let in. A value: it doesn't change, it is replaced.

    Attributes:
        subject: The `sub` of the token; empty when nobody asked for tokens.
        scopes: What it is good for.
        zones: Where.
        issued_at_s: When the token was made, Unix seconds, as late as it can have been.
        expires_at_s: When it ends, Unix seconds; infinite without a token.
        token_id: The `jti`, empty when there is none.
    """

    subject: str
    scopes: frozenset[Scope]
    zones: ZoneGrant
    issued_at_s: float
    expires_at_s: float = math.inf
    token_id: str = ""

    def without(self, patterns: ZonePatterns) -> Principal:
        """Return the principal after zones were taken from it."""
        return replace(self, zones=self.zones.without(patterns))

    def is_expired(self, now_s: float) -> bool:
        """Tell whether the token ended, at `now_s` in Unix seconds."""
        return now_s >= self.expires_at_s


ANYBODY: Final = Principal("", frozenset(Scope), ALL_ZONES, 0.0)
"""Everybody, where no key is set."""
