"""A Redis Cluster: asked, bounded, who owns what; and a client for the keys of one slot."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol, cast

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection, Connection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MovedError, RedisError

from cache.cluster_map import ClusterMap, MalformedMapError
from cache.redis_url import ServerAddress

_logger = logging.getLogger(__name__)

_MAX_ASKED: Final = 8
"""The most servers that are asked for one map; the next refresh asks others."""


class _Asking(Protocol):
    """What is used of redis-py's connection."""

    async def connect(self) -> None: ...

    async def send_command(self, *args: object) -> None: ...

    async def read_response(self) -> object: ...

    async def disconnect(self, *, nowait: bool) -> None: ...


class ClusterDirectory:
    """The map of a cluster as one of its servers told last; bus and cache of a node share it.

    Attributes:
        map: Who owns what; empty before the first answer.
        failure: Why nobody answered when asked last; empty: somebody did.
    """

    def __init__(
        self, seeds: Sequence[ServerAddress], options: Mapping[str, Any], *, ask_timeout_s: float
    ) -> None:
        """Build a directory that asks nobody yet.

        Args:
            seeds: Some servers of the cluster; the others are learnt from them.
            options: redis-py's options of connections to all of them.
            ask_timeout_s: How long one of them is waited for before the next is asked.
        """
        self.map = ClusterMap()
        self.failure = ""
        self._seeds = tuple(seeds)
        self._options = dict(options)
        self._class = self._options.pop("connection_class", Connection)
        self._ask_timeout_s = ask_timeout_s
        self._order: deque[ServerAddress] = deque(seeds)
        self._asking = asyncio.Lock()
        self._refreshes = 0

    async def refresh(self) -> bool:
        """Ask for the map, one server after the other; returns whether one answered.

        Who calls while another is asking shares the answer. Cancel-safe; bounded by
        `ask_timeout_s` for each of eight servers.
        """
        before = self._refreshes
        async with self._asking:
            if self._refreshes != before:
                return not self.failure
            answered = await self._ask_all()
            self._refreshes += 1
            return answered

    async def _ask_all(self) -> bool:
        known = dict.fromkeys([*self._order, *sorted(self.map.masters), *self._seeds])
        self._order = deque(known)
        for _ in range(min(len(self._order), _MAX_ASKED)):
            address = self._order[0]
            # The next refresh begins with the next one: a server that was cut off from the
            # others goes on telling an old map, and must not be the only one to be asked.
            self._order.rotate(-1)
            try:
                async with asyncio.timeout(self._ask_timeout_s):
                    found = await self._ask(address)
            except (RedisError, OSError, TimeoutError, MalformedMapError) as error:
                words = "no answer in time" if isinstance(error, TimeoutError) else str(error)
                self.failure = f"{type(error).__name__}: {words.partition(chr(10))[0][:200]}"
                continue
            self._forget_strangers(found)
            self.map, self.failure = found, ""
            return True
        return False

    async def _ask(self, address: ServerAddress) -> ClusterMap:
        host, port = address
        connection = cast("_Asking", self._class(**self._options, host=host, port=port))
        try:
            await connection.connect()
            await connection.send_command("CLUSTER", "SLOTS")
            found = ClusterMap.of_reply(await connection.read_response(), address)
        finally:
            await connection.disconnect(nowait=True)
        if not found.owners:
            raise MalformedMapError("a server that knows no owner of any slot")
        return found

    def _forget_strangers(self, found: ClusterMap) -> None:
        # Else servers that were removed long ago would be asked for ever.
        members = found.masters | set(self._seeds) | self.map.masters
        self._order = deque(address for address in self._order if address in members)

    def note_moved(self, error: MovedError) -> None:
        """Take a single slot's new owner from a redirection."""
        owners = {**self.map.owners, error.slot_id: (error.host, error.port)}
        self.map = ClusterMap(owners)


class OwnerPool(BlockingConnectionPool):
    """Connections to whichever master owns one key, bounded like any pool here."""

    def __init__(self, directory: ClusterDirectory, key: bytes, options: Mapping[str, Any]) -> None:
        """Build a pool that asks and connects at its first command."""
        super().__init__(**options)
        self._directory = directory
        self._key = key
        self._address: ServerAddress | None = None

    async def get_connection(
        self, command_name: str | None = None, *keys: Any, **options: Any
    ) -> AbstractConnection:
        """Lend a connection to the owner that is known now."""
        owner = self._directory.map.owner_of(self._key)
        if owner is None:
            await self._directory.refresh()
            owner = self._directory.map.owner_of(self._key)
        if owner is None:
            raise RedisConnectionError("no server of the cluster is known to own the key")
        if owner != self._address:
            self._address = owner
            self.connection_kwargs.update(host=owner[0], port=owner[1])
            # Idle ones of the old owner; those in use are left to end by themselves.
            await self.disconnect(inuse_connections=False)
            self._available_connections.clear()
        return cast("AbstractConnection", await super().get_connection())  # type: ignore[no-untyped-call] # redis-py.

    async def release(self, connection: AbstractConnection) -> None:
        """Take a connection back; one to a former owner is not kept."""
        await super().release(connection)
        if (connection.host, connection.port) != self._address:  # type: ignore[attr-defined] # redis-py's own have both.
            await connection.disconnect()
            if connection in self._available_connections:
                self._available_connections.remove(connection)


class OwnerClient(Redis):
    """A client for keys of one slot, which follows them once when they have moved."""

    def __init__(self, pool: OwnerPool, directory: ClusterDirectory) -> None:
        """Build a client that owns the pool."""
        super().__init__(connection_pool=pool)
        self.auto_close_connection_pool = True
        self._directory = directory

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Execute; where the owner was another, ask that one."""
        run: Callable[..., Any] = super().execute_command
        try:
            return await run(*args, **options)
        except MovedError as moved:
            self._directory.note_moved(moved)
            return await run(*args, **options)
