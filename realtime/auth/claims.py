"""Claims: what a token says, after its signature was checked, and how that becomes a principal."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from channels.names import DIRECTORY, UNASSIGNED, zone_id_of
from channels.zone_grants import ALL_ZONES, WILDCARD, InvalidPatternError, ZoneGrant, ZonePatterns
from realtime.auth.errors import Reason, RefusedError
from realtime.auth.principal import Principal, Scope

SUBJECT_MAX_CHARS: Final = 255
TOKEN_ID_MAX_CHARS: Final = 255
MAX_PATTERNS: Final = 256
SHARED_MAX: Final = 256
"""Grants and scopes of so many kinds are made once for all who have them: connections are many."""
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class ClaimLimits:
    """What may be in a token.

    Attributes:
        max_life_s: From `iat` to `exp` at most; revocations are kept for so long.
        leeway_s: How far clocks may be apart.
    """

    max_life_s: float
    leeway_s: float


@dataclass(frozen=True, slots=True)
class ChannelGrant:
    """What a subscription token grants: one channel to one subject.

    Attributes:
        principal: Who, with just what the channel needs: so the policy is asked about it as
            about any other, and what was taken from the subject counts here, too. For this
            channel alone; who has it doesn't have what else its zones may be good for.
        channel: The channel, as the subscribe names it.
    """

    principal: Principal
    channel: str


def principal_of(claims: Mapping[str, Any], limits: ClaimLimits, now_s: float) -> Principal:
    """Read the claims of a connection's or request's token.

    Args:
        claims: Of a token whose signature, `exp`, `nbf`, `aud` and `iss` were checked.
        limits: The limits.
        now_s: Unix seconds.

    Raises:
        RefusedError: a claim is missing or wrong, or the token is for one channel.
    """
    if "channel" in claims:
        raise _wrong("a token for one channel lets nobody in; it goes with a subscribe")
    return _principal_of(claims, limits, now_s)


def channel_grant_of(claims: Mapping[str, Any], limits: ClaimLimits, now_s: float) -> ChannelGrant:
    """Read the claims of a subscription token: `channel` says what it is for.

    Raises:
        RefusedError: a claim is missing or wrong.
    """
    channel = claims.get("channel")
    if not isinstance(channel, str) or not channel:
        raise _wrong("channel: must be the channel's name")
    if "zones" in claims or "scope" in claims:
        raise _wrong("a token for one channel has neither zones nor scope")
    granted = {"scope": Scope.READ.value, "zones": list(_zones_of(channel))}
    return ChannelGrant(_principal_of({**claims, **granted}, limits, now_s), channel)


def _zones_of(channel: str) -> tuple[str, ...]:
    if channel in {DIRECTORY, UNASSIGNED}:
        return ALL_ZONES.granted.patterns
    zone_id = zone_id_of(channel)
    if zone_id is None or WILDCARD in zone_id:
        raise _wrong("channel: there is none of this name")
    return (zone_id,)


def _principal_of(claims: Mapping[str, Any], limits: ClaimLimits, now_s: float) -> Principal:
    subject = _text(claims, "sub", SUBJECT_MAX_CHARS)
    if not subject:
        raise _wrong("sub: must say who it is")
    expires_at_s = _time(claims, "exp")
    issued_at_s = expires_at_s - limits.max_life_s
    if "iat" in claims:
        # Without it the earliest possible: so a revocation meets it as long as it may live.
        issued_at_s = _time(claims, "iat")
    longest_s = limits.max_life_s + limits.leeway_s
    if expires_at_s - issued_at_s > longest_s or expires_at_s - now_s > longest_s:
        raise _wrong(f"exp: a token may live for {limits.max_life_s:g} s here")
    return Principal(
        subject=subject,
        scopes=_scopes(claims),
        zones=_zones(claims),
        issued_at_s=issued_at_s,
        # As long as a new connection would be let in with it.
        expires_at_s=expires_at_s + limits.leeway_s,
        token_id=_text(claims, "jti", TOKEN_ID_MAX_CHARS),
    )


def _text(claims: Mapping[str, Any], name: str, max_chars: int) -> str:
    value = claims.get(name, "")
    if not isinstance(value, str) or len(value) > max_chars or _CONTROL.search(value):
        raise _wrong(f"{name}: must be a text of at most {max_chars} printable characters")
    return value


def _time(claims: Mapping[str, Any], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _wrong(f"{name}: must be a time, Unix seconds")
    return float(value)


def _scopes(claims: Mapping[str, Any]) -> frozenset[Scope]:
    value = claims.get("scope", "")
    if not isinstance(value, str):
        raise _wrong("scope: must be words parted by spaces: read write admin")
    return _shared_scopes(value)


@lru_cache(maxsize=SHARED_MAX)
def _shared_scopes(text: str) -> frozenset[Scope]:
    known = {scope.value: scope for scope in Scope}
    # Others are for other services that take the same token.
    return frozenset(known[word] for word in text.split() if word in known)


def _zones(claims: Mapping[str, Any]) -> ZoneGrant:
    value = claims.get("zones", [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _wrong('zones: must be a list of patterns, such as ["F1-*"]')
    if len(value) > MAX_PATTERNS:
        raise _wrong(f"zones: at most {MAX_PATTERNS} patterns")
    try:
        return _shared_grant(tuple(value))
    except InvalidPatternError as error:
        raise _wrong(f"zones: {error}") from None


@lru_cache(maxsize=SHARED_MAX)
def _shared_grant(patterns: tuple[str, ...]) -> ZoneGrant:
    return ZoneGrant(ZonePatterns.parse(patterns))


def _wrong(detail: str) -> RefusedError:
    return RefusedError(Reason.CLAIMS, detail)
