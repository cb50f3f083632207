"""Redis clients: built from a URL, bounded in time and connections, without retries inside."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast
from urllib.parse import unquote, urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

REDIS_ERRORS = (RedisError, OSError, TimeoutError)
"""What a Redis that is away, slow or misconfigured raises; none of it leaves this room."""


@dataclass(frozen=True, slots=True)
class RedisConfig:
    """Where Redis is, and how long a node waits for it.

    Attributes:
        url: `redis://`, `rediss://` or `unix://`; may hold a password, so it is never shown.
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
        try:
            parse_url(self.url)
        except ValueError:
            # The cause may quote parts of the URL, so it is dropped.
            msg = "not a Redis URL (redis://, rediss:// or unix://)"
            raise ValueError(msg) from None
        parts = urlsplit(self.url)
        number = unquote(parts.path).replace("/", "")
        if parts.scheme != "unix" and number and not number.isdecimal():
            # redis-py would take database 0.
            msg = "not a Redis URL: its path is no database's number"
            raise ValueError(msg)

    @property
    def address(self) -> str:
        """The server as logs may name it, without user and password."""
        options = cast("dict[str, Any]", parse_url(self.url))
        if "path" in options:
            return str(options["path"])
        host, port = options.get("host", "localhost"), options.get("port", 6379)
        return f"{host}:{port}/{options.get('db', 0)}"


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


def create_client(config: RedisConfig, *, name: str, max_connections: int) -> Redis:
    """Build a client for commands; it connects at its first command.

    Its commands wait for as long as it takes: bound them with `asyncio.timeout`.

    Args:
        config: The server and the bounds.
        name: What the server's CLIENT LIST shows; no spaces.
        max_connections: More commands at a time than these wait, bounded.
    """
    return Redis.from_pool(_create_pool(config, name, max_connections))


def create_subscriber(config: RedisConfig, *, name: str) -> SubscriberConnection:
    """Build one unconnected pub/sub connection; who built it disconnects it."""
    pool = _create_pool(config, name, max_connections=1)
    return cast("SubscriberConnection", pool.connection_class(**pool.connection_kwargs))


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


def _create_pool(config: RedisConfig, name: str, max_connections: int) -> BlockingConnectionPool:
    options = cast("dict[str, Any]", parse_url(config.url))
    # A URL's query could otherwise lift the bounds. RESP2: with RESP3 redis-py formats every
    # push message for a debug log line, and asks for maintenance notices at each connect.
    # No `socket_timeout`: redis-py applies it with `asyncio.wait_for`, which on 3.11 swallows a
    # cancellation that meets a result. Whoever uses a client bounds it with `asyncio.timeout`.
    options |= {
        "max_connections": max_connections,
        "timeout": config.command_timeout_s,
        "socket_timeout": None,
        "socket_connect_timeout": config.connect_timeout_s,
        "health_check_interval": 0,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "decode_responses": False,
        "client_name": name,
    }
    return BlockingConnectionPool(**options)
