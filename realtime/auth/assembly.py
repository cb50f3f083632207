"""The parts of a node that let in, made from its settings."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from channels.feed import Feed, unix_ms
from db.engine import Database
from db.revocations import DatabaseRevocations
from realtime.auth.claims import ClaimLimits
from realtime.auth.gate import Gate, GateRules
from realtime.auth.jwks import JwksConfig, PublishedKeys
from realtime.auth.keys import Key, UnusableKeyError, read_public_keys, secret_key
from realtime.auth.revocations import Revocations
from realtime.auth.tickets import DatabaseTickets
from realtime.auth.tokens import KeySource, TokenRules, TokenVerifier
from realtime.metrics import Metrics
from realtime.settings import Settings, SettingsError

READY_TIMEOUT_S: Final = 5.0
"""How long a start waits for keys and revocations; afterwards requests wait, or get 503."""


@dataclass(frozen=True, slots=True)
class FixedKeys:
    """Keys that don't change while the node runs."""

    keys: tuple[Key, ...]


def fixed_keys(settings: Settings) -> FixedKeys:
    """Read the keys that the settings name. Blocks.

    Raises:
        SettingsError: one can't be used.
    """
    keys: list[Key] = []
    if settings.jwt_secret is not None:
        keys.append(secret_key(settings.jwt_secret.get_secret_value().encode()))
    if settings.jwt_public_key_file:
        try:
            keys += read_public_keys(Path(settings.jwt_public_key_file))
        except UnusableKeyError as error:
            raise SettingsError(f"ZONECAST_JWT_PUBLIC_KEY_FILE: {error}") from error
    return FixedKeys(tuple(keys))


@contextlib.asynccontextmanager
async def running_gate(
    settings: Settings,
    feed: Feed,
    database: Database,
    metrics: Metrics,
    tasks: asyncio.TaskGroup,
) -> AsyncIterator[tuple[Gate, DatabaseTickets]]:
    """Make the gate of a node, and run what it needs in `tasks`.

    Raises:
        SettingsError: a key can't be used.
    """
    tickets = DatabaseTickets(
        database,
        life_s=settings.ticket_life_s,
        max_rows=settings.tickets_max,
        unix_s=time.time,
    )
    rows = DatabaseRevocations(database, timeout_s=settings.statement_timeout_s, unix_ms=unix_ms)
    revocations = Revocations(feed, rows, unverified_max_s=settings.revocations_unverified_max_s)
    async with contextlib.AsyncExitStack() as stack:
        verifier, published = None, None
        if settings.auth_on:
            sources: list[KeySource] = [await asyncio.to_thread(fixed_keys, settings)]
            if settings.jwks_url:
                published = await stack.enter_async_context(published_keys(settings))
                sources.append(published)
                tasks.create_task(published.run())
            verifier = TokenVerifier(sources, token_rules(settings))
            tasks.create_task(revocations.run())
        gate = Gate(
            verifier,
            fetcher=published,
            tickets=tickets,
            revocations=revocations,
            origins=settings.origins,
            rules=GateRules(settings.session_cookie, query_tokens=settings.token_in_query),
            refused=metrics.entry_refused,
        )
        if settings.auth_on:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(READY_TIMEOUT_S):
                    await revocations.wait_ready()
                    if published is not None:
                        await published.wait_tried()
        yield gate, tickets


@contextlib.asynccontextmanager
async def published_keys(settings: Settings) -> AsyncIterator[PublishedKeys]:
    """Make what fetches the keys at the settings' URL; nothing is fetched yet."""
    # In a thread: it reads the certificates of authorities.
    tls = await asyncio.to_thread(ssl.create_default_context)
    config = JwksConfig(
        url=settings.jwks_url,
        refresh_s=settings.jwks_refresh_s,
        refetch_min_s=settings.jwks_refetch_min_s,
        max_age_s=settings.jwks_max_age_s,
        timeout_s=settings.jwks_timeout_s,
        max_bytes=settings.jwks_max_bytes,
    )
    async with httpx.AsyncClient(
        verify=tls, timeout=settings.jwks_timeout_s, headers={"accept": "application/json"}
    ) as client:
        yield PublishedKeys(config, client)


def token_rules(settings: Settings) -> TokenRules:
    """Read the tokens' part of the settings."""
    return TokenRules(
        audience=settings.jwt_audience,
        issuer=settings.jwt_issuer,
        max_bytes=settings.token_max_bytes,
        claims=ClaimLimits(max_life_s=settings.token_max_life_s, leeway_s=settings.jwt_leeway_s),
    )
