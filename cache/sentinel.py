"""Sentinels: they know which server is the master, and every connection goes to that one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import SSLConnection
from redis.asyncio.sentinel import (
    MasterNotFoundError,
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

if TYPE_CHECKING:
    from cache.redis_url import ServerAddress


class _SentinelClient(Redis):
    """A Sentinel that is asked within a bound, so that the next one gets its turn.

    Attributes:
        failure: Why it gave no answer when it was asked last; empty: it did.
    """

    def __init__(self, pool: BlockingConnectionPool, ask_timeout_s: float) -> None:
        super().__init__(connection_pool=pool)
        self.auto_close_connection_pool = True
        self._ask_timeout_s = ask_timeout_s
        self.failure = ""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Ask; a redis-py error when there is no answer in time."""
        self.failure = ""
        try:
            async with asyncio.timeout(self._ask_timeout_s):
                return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call] # redis-py.
        except TimeoutError:
            self.failure = "no answer in time"
            raise RedisTimeoutError(self.failure) from None
        except RedisError as error:
            self.failure = str(error).partition("\n")[0]
            raise


class MasterDirectory(Sentinel):
    """Where the master is, as the Sentinels told last; all connections of a node share it.

    Attributes:
        clients: The Sentinels.
        master: What they call the master.
        address: Where it is; `None` before the first answer.
    """

    def __init__(
        self,
        sentinels: Sequence[ServerAddress],
        options: Mapping[str, Any],
        *,
        master: str,
        ask_timeout_s: float,
    ) -> None:
        """Build a directory that asks nobody yet.

        Args:
            sentinels: Host and port of each.
            options: redis-py's options of connections to them.
            master: The master's name.
            ask_timeout_s: How long one of them is waited for before the next is asked.
        """
        super().__init__([])  # type: ignore[no-untyped-call] # redis-py.
        self.clients = [
            _SentinelClient(BlockingConnectionPool(host=host, port=port, **options), ask_timeout_s)
            for host, port in sentinels
        ]
        # redis-py puts who answered first.
        self.sentinels = list(self.clients)
        self.master = master
        self.address: ServerAddress | None = None

    async def discover_master(self, service_name: str) -> ServerAddress:
        """Ask one after the other, who answered last first, within the bound of each.

        Raises:
            MasterNotFoundError: none of them tells of a master that works.
        """
        try:
            host, port = await super().discover_master(service_name)
        except MasterNotFoundError:
            # redis-py shows its client objects; one line for people will do.
            failures = {client.failure: None for client in self.clients if client.failure}
            why = f": {'; '.join(failures)}" if failures else ""
            msg = f"no Sentinel tells of a working master {service_name!r}{why}"
            raise MasterNotFoundError(msg) from None
        self.address = (host, port)
        return self.address


class MasterConnection(SentinelManagedConnection):
    """A connection that is refused by whoever is no master, whatever the Sentinels say."""

    async def connect_to(self, address: ServerAddress) -> None:
        """Connect, and check the role: a replica takes subscriptions, and PUBLISH for itself."""
        await super().connect_to(address)  # type: ignore[no-untyped-call] # redis-py.
        try:
            await self.send_command("ROLE")
            role = await self.read_response()
        except NoPermissionError:
            # An account that may not ask: then the Sentinels' word has to do.
            return
        if role[0] != b"master":
            await self.disconnect(nowait=True)
            msg = f"{address[0]}:{address[1]} is no master"
            raise RedisConnectionError(msg)


class MasterTlsConnection(MasterConnection, SSLConnection):
    """The same over TLS."""


class MasterPool(SentinelConnectionPool, BlockingConnectionPool):
    """Connections to the master, bounded like any pool here.

    An idle connection to a server that is no longer the master isn't used again: one that
    was demoted serves what it had.
    """

    def __init__(self, directory: MasterDirectory, *, tls: bool, options: Mapping[str, Any]):
        """Build a pool that connects at its first command.

        Args:
            directory: Knows the master.
            tls: Whether the master speaks TLS.
            options: redis-py's options of the pool and its connections.
        """
        connection_class = MasterTlsConnection if tls else MasterConnection
        options = {**options, "connection_class": connection_class}
        super().__init__(directory.master, directory, **options)  # type: ignore[no-untyped-call] # redis-py.
        self._directory = directory

    async def get_connection(
        self, command_name: str | None = None, *keys: Any, **options: Any
    ) -> MasterConnection:
        """Lend a connection to the master that was told last."""
        told = self._directory.address
        if told != self.master_address:
            self.master_address = told
            await self.disconnect(inuse_connections=False)
        return cast("MasterConnection", await super().get_connection())  # type: ignore[no-untyped-call] # redis-py.

    async def aclose(self) -> None:
        """Close all connections, those to the Sentinels, too; they open again when needed."""
        await super().aclose()
        await self._directory.aclose()

    def make_master_connection(self) -> MasterConnection:
        """Make an unconnected connection that the pool doesn't count; keeps the pool alive."""
        options = {**self.connection_kwargs, "connection_pool": self}
        return cast("MasterConnection", self.connection_class(**options))


async def is_demoted(connection: object, directory: MasterDirectory) -> bool:
    """Ask the Sentinels whether another server is the master now; with no answer: no."""
    if not isinstance(connection, MasterConnection):
        return False
    try:
        address = await directory.discover_master(directory.master)
    except (RedisError, OSError):
        return False
    return address != (connection.host, connection.port)
