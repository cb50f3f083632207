"""The check of a configuration: each part is really asked, and what is wrong said in words."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from cache.client import REDIS_ERRORS, Connector, RedisConfig, reason_of
from channels.ports import UnavailableError
from db import migrate
from db.engine import Database
from db.errors import DatabaseError
from realtime.check_entry import check_entry
from realtime.configuration import database_config
from realtime.findings import Finding, Verdict
from realtime.settings import Settings

CLOCK_MAX_DIFFERENCE_S: Final = 1.0
"""Clocks that differ by more make measured delays, and the times in changes, wrong."""
TIMEOUT_S: Final = 10.0
"""The bound of each part of the check."""
TABLES: Final = ("users", "zones", "channel_heads", "changes")


async def check(settings: Settings) -> AsyncIterator[Finding]:
    """Yield findings, each when it is known. Bounded in time; never raises for what is wrong."""
    async for finding in check_entry(settings):
        yield finding
    async for finding in _check_database(settings):
        yield finding
    if settings.otel_endpoint:
        yield await _check_collector(settings)
    if settings.redis_url is None:
        words = "none: one process alone, which is what it is meant for with SQLite"
        if settings.embedded:
            yield Finding("redis", Verdict.OK, words)
        else:
            words = "none: a second node on this database would be refused"
            yield Finding("redis", Verdict.WARNING, words)
        return
    async for finding in _check_redis(settings, settings.redis_url.get_secret_value()):
        yield finding


async def _check_database(settings: Settings) -> AsyncIterator[Finding]:
    try:
        async with asyncio.timeout(TIMEOUT_S):
            needed = await migrate.head_revision()
            found = await migrate.current_revision(settings.database_url.get_secret_value())
    except TimeoutError:
        yield Finding("database", Verdict.WRONG, f"no answer within {TIMEOUT_S:g} s")
        return
    except (UnavailableError, DatabaseError) as error:
        yield Finding("database", Verdict.WRONG, f"cannot be asked: {_cause_of(error)}")
        return
    yield Finding("database", Verdict.OK, "answers")
    if found is None:
        words = "the database has no tables yet: run `zonecast migrate`, or start a node"
        yield Finding("migrations", Verdict.WRONG, words)
        return
    if found != needed:
        words = (
            f"the database is at revision {found}, this release needs {needed}: "
            "run `zonecast migrate` with the newest release"
        )
        yield Finding("migrations", Verdict.WRONG, words)
        return
    yield Finding("migrations", Verdict.OK, f"current ({found})")
    if settings.embedded:
        return
    try:
        async with _connection(settings) as connection, asyncio.timeout(TIMEOUT_S):
            yield await _check_rights(connection)
            yield await _check_room(connection, settings)
            yield await _check_database_clock(connection)
    except (UnavailableError, DatabaseError, TimeoutError) as error:
        yield Finding("database", Verdict.WRONG, f"went away meanwhile: {_cause_of(error)}")


async def _check_collector(settings: Settings) -> Finding:
    from realtime.otel.export import ask_collector  # noqa: PLC0415 - imports the SDK

    timeout_s = min(TIMEOUT_S, settings.otel_export_timeout_s)
    bounded = settings.model_copy(update={"otel_export_timeout_s": timeout_s})
    reason = await asyncio.to_thread(ask_collector, bounded)
    if reason:
        words = f"{settings.otel_endpoint} takes no spans ({reason}); all else works without"
        return Finding("traces", Verdict.WARNING, words)
    return Finding("traces", Verdict.OK, f"{settings.otel_endpoint} takes spans")


@asynccontextmanager
async def _connection(settings: Settings) -> AsyncIterator[AsyncConnection]:
    database = Database(database_config(settings))
    try:
        async with database.snapshot(TIMEOUT_S) as connection:
            yield connection
    finally:
        await database.close()


async def _check_rights(connection: AsyncConnection) -> Finding:
    lacking = [
        f"{right} on {table}"
        for table in TABLES
        for right in ("SELECT", "INSERT", "UPDATE", "DELETE")
        if not await connection.scalar(
            text("SELECT has_table_privilege(:table, :right)"), {"table": table, "right": right}
        )
    ]
    if lacking:
        shown = ", ".join(lacking[:4])
        return Finding("rights", Verdict.WRONG, f"the role lacks {shown}")
    if await connection.scalar(text("SELECT pg_is_in_recovery()")):
        words = "the server is a standby, on which nothing can be written"
        return Finding("rights", Verdict.WRONG, words)
    return Finding("rights", Verdict.OK, "the role may read and write all tables")


async def _check_room(connection: AsyncConnection, settings: Settings) -> Finding:
    allowed = int(
        await connection.scalar(
            text(
                "SELECT current_setting('max_connections')::int"
                " - current_setting('superuser_reserved_connections')::int"
            )
        )
    )
    # Beside the pool: one for heads, one that holds the place of a node, one in reserve.
    wanted = settings.workers * (settings.pool_size + settings.max_overflow + 3)
    words = f"PostgreSQL allows {allowed}, this node may take {wanted}"
    if wanted > allowed:
        return Finding("connections", Verdict.WRONG, f"{words}: lower ZONECAST_POOL_SIZE")
    if 2 * wanted > allowed:
        return Finding("connections", Verdict.WARNING, f"{words}: there is no room for a second")
    return Finding("connections", Verdict.OK, words)


async def _check_database_clock(connection: AsyncConnection) -> Finding:
    asked_s = time.time()
    there_s = float(
        await connection.scalar(text("SELECT extract(epoch FROM clock_timestamp())")) or 0
    )
    return _compare_clocks("database clock", there_s, asked_s, time.time())


def _compare_clocks(part: str, there_s: float, asked_s: float, answered_s: float) -> Finding:
    """Compare a clock with ours, which is known to have been between two times meanwhile."""
    difference_s = min(0.0, there_s - asked_s) + max(0.0, there_s - answered_s)
    if abs(difference_s) > CLOCK_MAX_DIFFERENCE_S:
        side = "ahead of" if difference_s > 0 else "behind"
        words = f"{abs(difference_s):.1f} s {side} the one here: set both by NTP"
        return Finding(part, Verdict.WRONG, words)
    return Finding(part, Verdict.OK, "agrees with the one here")


async def _check_redis(settings: Settings, url: str) -> AsyncIterator[Finding]:
    config = RedisConfig(
        url,
        key_prefix=settings.redis_prefix,
        command_timeout_s=settings.redis_timeout_s,
        connect_timeout_s=settings.redis_timeout_s,
    )
    client = Connector(config).create_client(name="zonecast:check", max_connections=2)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            asked_s = time.time()
            seconds, micros = await client.time()
            answered_s = time.time()
            yield Finding("redis", Verdict.OK, f"{config.address} answers")
            there_s = float(seconds) + float(micros) / 1e6
            yield _compare_clocks("redis clock", there_s, asked_s, answered_s)
            yield await _check_bus(client, f"{settings.redis_prefix}:node:check")
            yield await _check_cache(client, f"{settings.redis_prefix}:check")
    except REDIS_ERRORS as error:
        yield Finding("redis", Verdict.WRONG, f"{config.address}: {reason_of(error)}")
    finally:
        await client.aclose()


async def _check_bus(client: Redis, channel: str) -> Finding:
    """Publish to ourselves, as nodes do with their heartbeat."""
    pubsub = client.pubsub()
    try:
        await pubsub.subscribe(channel)
        await pubsub.get_message(timeout=TIMEOUT_S)
        await client.publish(channel, b"check")
        async with asyncio.timeout(CLOCK_MAX_DIFFERENCE_S):
            while True:
                message = await pubsub.get_message(timeout=CLOCK_MAX_DIFFERENCE_S)
                if message is not None and message["type"] == "message":
                    return Finding("bus", Verdict.OK, "what is published is heard")
    except TimeoutError:
        return Finding("bus", Verdict.WRONG, "what is published is not heard")
    except REDIS_ERRORS as error:
        return Finding("bus", Verdict.WRONG, f"cannot publish and subscribe: {reason_of(error)}")
    finally:
        await pubsub.aclose()  # type: ignore[no-untyped-call]  # redis-py's own


async def _check_cache(client: Redis, key: str) -> Finding:
    try:
        await client.set(key, b"check", ex=10)
        await client.delete(key)
    except REDIS_ERRORS as error:
        return Finding("cache", Verdict.WRONG, f"cannot write: {reason_of(error)}")
    return Finding("cache", Verdict.OK, "can be written")


def _cause_of(error: BaseException) -> str:
    """Return the words of a driver where there are any: they are what helps."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    first = str(cause).strip().partition("\n")[0]
    return first or str(error) or type(cause).__name__
