"""Redis clients: built from a URL, bounded in time and connections, without retries inside."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol, cast

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from cache.cluster import ClusterDirectory, OwnerClient, OwnerPool
from cache.cluster_map import notice_key
from cache.redis_url import ServerAddress, parse_redis_url
from cache.sentinel import MasterDirectory, MasterPool, is_demoted

REDIS_ERRORS = (RedisError, OSError, TimeoutError)
"""What a Redis that is away, slow or misconfigured raises; none of it leaves this room."""

_MAX_CONNECTIONS_TO_SENTINEL: Final = 2


@dataclass(frozen=True, slots=True)
class RedisConfig:
    """Where Redis is, and how long a node waits for it.

    Attributes:
        url: As `cache.redis_url` reads it; may hold a password, so it is never shown.
        key_prefix: Begins every key and channel; nodes of one service share it.
        command_timeout_s: The longest wait for the answer to one command.
        connect_timeout_s: The longest wait for a connection.
        max_connections: The most connections of the client that serves the cache.
    """

    url: str = field(repr=False)
    key_prefix: str = "zonecast"
    command_timeout_s: float = 1.0
    connect_timeout_s: float = 1.0
    max_connections: int = 8

    def __post_init__(self) -> None:
        parse_redis_url(self.url)

    @property
    def address(self) -> str:
        """The server as logs may name it, without user and password."""
        return parse_redis_url(self.url).address

    @property
    def is_cluster(self) -> bool:
        """Whether the servers share the keys, and sharded pub/sub is spoken."""
        return bool(parse_redis_url(self.url).seeds)


class SubscriberConnection(Protocol):
    """One connection for pub/sub: redis-py's own, seen through the few methods used here.

    redis-py's `PubSub` is left out on purpose: it reconnects and resubscribes silently, and
    what was published meanwhile is lost without a sign. This connection ends when it ends.
    """

    async def connect(self) -> None:
        """Connect and authenticate."""

    def pack_commands(self, commands: Sequence[Sequence[bytes]]) -> list[bytes]:
        """Encode commands for the wire."""

    async def send_packed_command(self, command: Sequence[bytes], check_health: bool) -> None:  # noqa: FBT001 -- redis-py's signature.
        """Write and wait until the peer takes it."""

    async def read_response(self, *, timeout: float, disconnect_on_error: bool) -> object:
        """Read one message; `math.inf` waits for as long as it takes."""

    async def disconnect(self, *, nowait: bool) -> None:
        """Close without waiting for the peer."""


class Connector:
    """Connects to one Redis; where Sentinels name its master, all connections go to that one.

    On a cluster, clients for commands go to who owns the users dict; for anything else there is
    a connector `at` each master.

    One is shared by bus and cache of a node: what the bus raised on one server the cache must
    not read on another.

    Attributes:
        config: The server and the bounds.
        address: The server as logs may name it.
        cluster: Knows the masters of a cluster; `None`: it is none.
    """

    def __init__(self, config: RedisConfig, *, at: ServerAddress | None = None) -> None:
        """Build a connector; nothing is connected before it is used.

        Args:
            config: The server and the bounds.
            at: One server of the cluster, for connections to that one only.
        """
        self.config = config
        self._url = parse_redis_url(config.url)
        if at is not None:
            options = {**self._url.options, "host": at[0], "port": at[1]}
            address = f"{at[0]}:{at[1]} of the cluster"
            self._url = replace(self._url, options=options, address=address, seeds=())
        self.address = self._url.address
        self._directory = self._build_directory() if self._url.sentinels else None
        self.cluster = self._build_cluster() if self._url.seeds else None

    def at(self, address: ServerAddress) -> Connector:
        """Return a connector to one server of the cluster, with the same options and bounds."""
        return Connector(self.config, at=address)

    def create_client(self, *, name: str, max_connections: int) -> Redis:
        """Build a client for commands; it connects at its first command.

        Its commands wait for as long as it takes: bound them with `asyncio.timeout`.

        Args:
            name: What the server's CLIENT LIST shows; no spaces.
            max_connections: More commands at a time than these wait, bounded.
        """
        if self.cluster is not None:
            key = notice_key(self.config.key_prefix)
            pool = OwnerPool(self.cluster, key, self._pool_options(name, max_connections))
            return OwnerClient(pool, self.cluster)
        return Redis.from_pool(self._create_pool(name, max_connections))

    def create_subscriber(self, *, name: str) -> SubscriberConnection:
        """Build one unconnected pub/sub connection; who built it disconnects it."""
        pool = self._create_pool(name, max_connections=1)
        if isinstance(pool, MasterPool):
            return cast("SubscriberConnection", pool.make_master_connection())
        return cast("SubscriberConnection", pool.connection_class(**pool.connection_kwargs))

    @property
    def asks_sentinels(self) -> bool:
        """Whether the master may become another server."""
        return self._directory is not None

    async def has_moved(self, connection: SubscriberConnection) -> bool:
        """Ask, bounded, whether another server than the connection's is the master now."""
        return self._directory is not None and await is_demoted(connection, self._directory)

    def _build_directory(self) -> MasterDirectory:
        # All of them together take less than the time in which a connection has to be made.
        share_s = self.config.connect_timeout_s / (len(self._url.sentinels) + 1)
        options = {
            **self._url.sentinel_options,
            **self._bounds("zonecast"),
            "max_connections": _MAX_CONNECTIONS_TO_SENTINEL,
            "timeout": share_s,
        }
        return MasterDirectory(
            self._url.sentinels, options, master=self._url.master, ask_timeout_s=share_s
        )

    def _build_cluster(self) -> ClusterDirectory:
        options = {**self._url.options, **self._bounds("zonecast")}
        return ClusterDirectory(
            self._url.seeds, options, ask_timeout_s=self.config.connect_timeout_s
        )

    def _pool_options(self, name: str, max_connections: int) -> dict[str, Any]:
        # A URL's query could otherwise lift the bounds.
        return {
            **self._url.options,
            **self._bounds(name),
            "max_connections": max_connections,
            "timeout": self.config.command_timeout_s,
        }

    def _create_pool(self, name: str, max_connections: int) -> BlockingConnectionPool:
        options = self._pool_options(name, max_connections)
        if self._directory is None:
            return BlockingConnectionPool(**options)
        tls = options.pop("connection_class", None) is SSLConnection
        return MasterPool(self._directory, tls=tls, options=options)

    def _bounds(self, name: str) -> dict[str, Any]:
        # RESP2: with RESP3 redis-py formats every push message for a debug log line, and asks
        # for maintenance notices at each connect. No `socket_timeout`: redis-py applies it with
        # `asyncio.wait_for`, which on 3.11 swallows a cancellation that meets a result. Whoever
        # uses a client bounds it with `asyncio.timeout`.
        return {
            "socket_timeout": None,
            "socket_connect_timeout": self.config.connect_timeout_s,
            "health_check_interval": 0,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
            "decode_responses": False,
            "client_name": name,
        }


async def read_forever(connection: SubscriberConnection) -> object:
    """Read one pub/sub message, waiting for as long as it takes. Cancel-safe."""
    # The connection isn't closed here on errors: a writer would find it closed and
    # redis-py would then silently open it again.
    return await connection.read_response(timeout=math.inf, disconnect_on_error=False)


def reason_of(error: BaseException) -> str:
    """Describe an error of Redis in one line without secrets."""
    if isinstance(error, (TimeoutError, RedisTimeoutError)):
        return "no answer in time"
    text = str(error).partition("\n")[0].strip()
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
