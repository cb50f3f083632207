"""The composition root: builds a node's parts, wires them, and takes them down in order."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import structlog
from fastapi import FastAPI

from cache.bus_config import BusConfig
from cache.cache_config import CacheConfig
from cache.client import Connector
from cache.cluster_bus import ClusterBus
from cache.envelope import EnvelopeLimits
from cache.invalidation import Invalidation, touches_users
from cache.presence_nodes import PresenceConfig, RedisNodes
from cache.process_bus import ProcessBus
from cache.redis_bus import RedisBus
from cache.redis_cache import RedisCache
from cache.shared_quota import SharedQuota
from channels.changes import Transaction
from channels.feed import Feed
from channels.ports import Bus, UnavailableError
from channels.publisher import Publisher
from db.changelog import DatabaseChangeLog
from db.engine import Database
from db.occupancy import occupy
from db.retention import Retention
from realtime.api import add_api
from realtime.auth.assembly import running_gate
from realtime.configuration import database_config, feed_config, redis_connector, retention_config
from realtime.connections import Connections
from realtime.descriptors import raise_limit, room_for_connections
from realtime.limits import Limits, rate_of
from realtime.loop_lag import watch_loop_lag
from realtime.metrics import Metrics
from realtime.node import Node
from realtime.presence import Attendance
from realtime.request_quota import RequestQuota
from realtime.retention import PRUNING_SLACK, Pruning
from realtime.settings import Settings
from realtime.sse import endpoint as sse_endpoint
from realtime.telemetry import NO_TELEMETRY, running_tracing, trace_requests
from realtime.users_source import UsersSource


def build_app(settings: Settings) -> FastAPI:
    """Build the application; nothing is opened before its lifespan begins."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with running_node(settings) as node:
            app.state.node = node
            yield

    # The routes of the documentation are ours, as FastAPI's fetch assets from elsewhere.
    app = FastAPI(
        title="Zonecast",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        telemetry=NO_TELEMETRY,
    )
    add_api(app)
    app.router.routes.extend(sse_endpoint.routes)
    trace_requests(app, settings)
    return app


@asynccontextmanager
async def running_node(settings: Settings) -> AsyncIterator[Node]:
    """Run everything of a node; at the end publish what is committed and close it all."""
    node_id = new_node_id(settings)
    async with AsyncExitStack() as stack:
        stack.enter_context(logged_life(settings, node_id))
        # Among the last to end, as what is published at the end is told, too.
        tracing = await stack.enter_async_context(
            running_tracing(
                settings,
                node_id,
                # Not methods of the feed, which is made further down.
                current=lambda channel: feed.current(channel),  # noqa: PLW0108
                watchers=lambda channel: feed.watcher_count(channel),  # noqa: PLW0108
            )
        )
        metrics = Metrics() if tracing is None else tracing.metrics()
        await stack.enter_async_context(occupied(settings))
        database = Database(database_config(settings))
        stack.push_async_callback(database.close)
        change_log = DatabaseChangeLog(database, timeout_s=settings.statement_timeout_s)
        stack.push_async_callback(change_log.close)
        invalidation = Invalidation()
        redis = redis_connector(settings)
        bus, cache = build_bus_and_cache(settings, node_id, invalidation, redis)
        stack.push_async_callback(cache.close)
        quota = await stack.enter_async_context(request_quota(settings, node_id, metrics, redis))
        async with owning_tasks() as tasks:
            wire: Bus = bus if tracing is None else tracing.around(bus)
            feed = Feed(change_log, wire, metrics, feed_config(settings), tasks)
            publisher = Publisher(
                wire,
                metrics,
                offer=feed.follower.offer,
                outbox_max_transactions=settings.outbox_max_transactions,
            )

            def committed(transaction: Transaction) -> None:
                # At once, so that a read on this node that follows the write's response does
                # not get the old dict while the bus is still to be told.
                if touches_users([transaction]):
                    invalidation.heard()
                publisher.accept(transaction)

            if tracing is None:
                database.attach(committed)
            else:
                database.attach(tracing.told(committed), tracing.spans.transaction)
            for work in (
                wire.run(feed.follower),
                feed.run(),
                publisher.run(),
                verify_cache(cache, UsersSource(change_log), metrics),
                watch_loop_lag(metrics.loop_lagged),
            ):
                tasks.create_task(work)
            gate, tickets = await stack.enter_async_context(
                running_gate(settings, feed, database, metrics, tasks)
            )
            if settings.retention_interval_s:
                retention = Retention(database, retention_config(settings, PRUNING_SLACK))
                pruning = Pruning(retention, metrics, settings.retention_interval_s)
                tasks.create_task(pruning.run())
            connections = Connections(
                room_for_connections(settings, raise_limit()),
                max_per_address=settings.max_connections_per_address,
                max_per_subject=settings.max_connections_per_subject,
            )
            attendance = build_attendance(settings, node_id, feed, connections, redis)
            tasks.create_task(attendance.run())
            yield Node(
                node_id=node_id,
                settings=settings,
                database=database,
                change_log=change_log,
                bus=bus,
                feed=feed,
                cache=cache,
                metrics=metrics,
                gate=gate,
                tickets=tickets,
                connections=connections,
                attendance=attendance,
                limits=Limits(settings, metrics.refused),
                quota=quota,
                spans=None if tracing is None else tracing.spans,
                tasks=tasks,
            )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(settings.redis_timeout_s):
                    await publisher.flush()


def new_node_id(settings: Settings) -> str:
    """Return an id for this start of this process."""
    start = secrets.token_hex(6)
    return f"{settings.node_name}-{start}" if settings.node_name else start


@contextlib.contextmanager
def logged_life(settings: Settings, node_id: str) -> Iterator[None]:
    """Log when a node starts and stops."""
    log = structlog.stdlib.get_logger("zonecast.node").bind(node=node_id)
    log.info(
        "node starts",
        database="sqlite" if settings.embedded else "postgresql",
        bus="redis" if settings.redis_url else "process",
    )
    yield
    log.info("node stopped")


@asynccontextmanager
async def occupied(settings: Settings) -> AsyncIterator[None]:
    """Hold the database for a node with these settings, as `db.occupancy.occupy` does."""
    async with occupy(settings.own_database_url, shares_bus=settings.redis_url is not None):
        database = Database(database_config(settings))
        try:
            await database.check_addresses()
        finally:
            await database.close()
        yield


class _StopError(Exception):
    """Ends a node's task group when its work is done."""


@asynccontextmanager
async def owning_tasks() -> AsyncIterator[asyncio.TaskGroup]:
    """Own tasks that never end by themselves: they are cancelled when the body is done."""

    def stop() -> None:
        raise _StopError

    try:
        async with asyncio.TaskGroup() as tasks:
            yield tasks
            stop()
    except* _StopError:
        pass


async def verify_cache(
    cache: RedisCache, source: UsersSource, metrics: Metrics, interval_s: float = 1
) -> None:
    """Compare the cached users dict with the database once a second, until cancelled.

    An invalidation that died with its writer so lives for two seconds, not for the TTL.
    """
    while True:
        await asyncio.sleep(interval_s)
        try:
            await cache.verify(await source.read_stamp())
        except UnavailableError as error:
            metrics.failed("comparison of the cached users dict", error)


def build_bus_and_cache(
    settings: Settings, node_id: str, invalidation: Invalidation, redis: Connector | None
) -> tuple[RedisBus | ClusterBus | ProcessBus, RedisCache]:
    """Build both on Redis, or inside the process where there is none."""
    caching = CacheConfig(
        key_prefix=settings.redis_prefix,
        ttl_s=settings.users_dict_ttl_s,
        command_timeout_s=settings.redis_timeout_s,
    )
    if redis is None:
        return ProcessBus(invalidation), RedisCache(None, invalidation, caching)
    config = BusConfig(
        subscribe_confirm_s=settings.bus_confirm_s,
        publish_timeout_s=settings.redis_timeout_s,
        heartbeat_interval_s=settings.bus_heartbeat_interval_s,
        deaf_after_s=settings.bus_deaf_after_s,
        limits=EnvelopeLimits(max_bytes=settings.bus_message_max_bytes),
    )
    client = redis.create_client(
        name=f"zonecast:{node_id}:cache", max_connections=redis.config.max_connections
    )
    kind = RedisBus if redis.cluster is None else ClusterBus
    bus = kind(redis, node_id, invalidation, config)
    caching = replace(caching, is_cluster=redis.config.is_cluster)
    return bus, RedisCache(client, invalidation, caching)


@asynccontextmanager
async def request_quota(
    settings: Settings, node_id: str, metrics: Metrics, redis: Connector | None
) -> AsyncIterator[RequestQuota | None]:
    """Count requests, over all nodes where there is Redis; yield `None` where nobody asked to."""
    rate = rate_of(settings.requests_per_s, settings.requests_burst)
    if rate is None or redis is None:
        yield None if rate is None else RequestQuota(rate, None)
        return
    client = redis.create_client(
        name=f"zonecast:{node_id}:quota", max_connections=redis.config.max_connections
    )
    shared = SharedQuota(
        client,
        settings.redis_prefix,
        per_s=rate.per_s,
        burst=rate.burst,
        command_timeout_s=settings.redis_timeout_s,
        failed=metrics.quota_failed,
    )
    try:
        yield RequestQuota(rate, shared.take)
    finally:
        await shared.aclose()


def build_attendance(
    settings: Settings,
    node_id: str,
    feed: Feed,
    connections: Connections,
    redis: Connector | None,
) -> Attendance:
    """Build what knows who watches what; over all nodes where there is Redis."""
    if redis is None:
        return Attendance(feed, connections, settings)
    nodes = RedisNodes(
        redis,
        node_id,
        PresenceConfig(
            ttl_s=settings.presence_ttl_s,
            answer_wait_s=settings.presence_answer_wait_s,
            command_timeout_s=settings.redis_timeout_s,
        ),
    )
    return Attendance(feed, connections, settings, nodes)
