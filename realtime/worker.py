"""Writing from your own code: a process with nothing but the database and the bus."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from cache.invalidation import Invalidation
from channels.ports import BusMessage
from channels.publisher import Publisher
from db.engine import Database
from realtime.app import build_bus_and_cache, owning_tasks
from realtime.configuration import database_config, redis_connector
from realtime.metrics import Metrics
from realtime.settings import Settings, load_settings
from realtime.telemetry import running_tracing


class _Deaf:
    """Listens to nothing: a worker only writes."""

    def on_message(self, message: BusMessage) -> None:
        """Ignore a change."""

    def on_gap(self) -> None:
        """Ignore a gap."""


@asynccontextmanager
async def connect(settings: Settings | None = None) -> AsyncIterator[Database]:
    """Open the database so that every commit is a live write, and close it cleanly.

    What is committed through it is in the change log whatever happens, and on the bus at once;
    running nodes show it to their watchers. At the end what is still to be published is, for
    at most `redis_timeout_s`; with no bus in reach, nodes find it by their head checks.

    Args:
        settings: `None` reads `ZONECAST_DATABASE_URL`, `ZONECAST_REDIS_URL` and the rest from
            the environment.

    Raises:
        SettingsError: a setting can't be used.
    """
    settings = settings or load_settings()
    node_id = f"worker-{secrets.token_hex(6)}"
    async with AsyncExitStack() as stack:
        tracing = await stack.enter_async_context(running_tracing(settings, node_id))
        database = Database(database_config(settings))
        stack.push_async_callback(database.close)
        bus, cache = build_bus_and_cache(
            settings, node_id, Invalidation(), redis_connector(settings)
        )
        stack.push_async_callback(cache.close)
        tasks = await stack.enter_async_context(owning_tasks())
        publisher = Publisher(
            bus if tracing is None else tracing.around(bus),
            Metrics(),
            offer=None,
            outbox_max_transactions=settings.outbox_max_transactions,
        )
        if tracing is None:
            database.attach(publisher.accept)
        else:
            database.attach(tracing.told(publisher.accept), tracing.spans.transaction)
        tasks.create_task(bus.run(_Deaf()))
        tasks.create_task(publisher.run())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(settings.redis_timeout_s):
                await bus.wait_live()
        yield database
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(settings.redis_timeout_s):
                await publisher.flush()
