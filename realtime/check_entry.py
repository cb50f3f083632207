"""The check of who would be let in: the address, the keys, and what tokens must say."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence

import httpx

from realtime.auth.assembly import fixed_keys, published_keys
from realtime.auth.exposure import check_exposure
from realtime.auth.jwks import FetchError
from realtime.auth.keys import Key
from realtime.findings import Finding, Verdict
from realtime.settings import Settings, SettingsError


async def check_entry(settings: Settings) -> AsyncIterator[Finding]:
    """Yield findings, each when it is known. Bounded in time; never raises for what is wrong."""
    try:
        words = check_exposure(settings)
    except SettingsError as error:
        yield Finding("entry", Verdict.WRONG, str(error))
        return
    is_open_to_all = not (settings.auth_on or settings.loopback)
    yield Finding("entry", Verdict.WARNING if is_open_to_all else Verdict.OK, words)
    if not settings.auth_on:
        return
    try:
        keys = (await asyncio.to_thread(fixed_keys, settings)).keys
    except SettingsError as error:
        yield Finding("keys", Verdict.WRONG, str(error))
    else:
        if keys or not settings.jwks_url:
            yield Finding("keys", Verdict.OK, _listed(keys))
    if settings.jwks_url:
        yield await _check_published(settings)
    yield _check_claims(settings)


async def _check_published(settings: Settings) -> Finding:
    try:
        async with published_keys(settings) as published:
            keys = await published.read()
    except (FetchError, TimeoutError, httpx.HTTPError) as error:
        reason = str(error) or type(error).__name__
        return Finding("JWK set", Verdict.WRONG, f"cannot be fetched: {reason}")
    return Finding("JWK set", Verdict.OK, _listed(keys))


def _listed(keys: Sequence[Key]) -> str:
    """Say which keys there are: how many for each algorithm, nothing of them."""
    counts = Counter(key.algorithm for key in keys)
    return "keys for " + ", ".join(f"{name} ({count})" for name, count in sorted(counts.items()))


def _check_claims(settings: Settings) -> Finding:
    unset = [
        name
        for name, value in (
            ("ZONECAST_JWT_AUDIENCE", settings.jwt_audience),
            ("ZONECAST_JWT_ISSUER", settings.jwt_issuer),
        )
        if not value
    ]
    # Who has the secret of HS256 made it for this service; others sign for many.
    is_shared = bool(settings.jwks_url or settings.jwt_public_key_file)
    if unset and is_shared:
        words = f"set {' and '.join(unset)}, or tokens that these keys sign for others count here"
        return Finding("claims", Verdict.WARNING, words)
    return Finding("claims", Verdict.OK, "audience and issuer as set")
