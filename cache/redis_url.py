"""Redis URLs: read into a server's options, or into the Sentinels that know the server."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast
from urllib.parse import unquote, urlsplit

from redis.asyncio import BlockingConnectionPool
from redis.asyncio.connection import parse_url
from redis.exceptions import RedisError

SCHEMES: Final = (
    "redis",
    "rediss",
    "unix",
    "redis+sentinel",
    "rediss+sentinel",
    "redis+cluster",
    "rediss+cluster",
)

_BEHIND_SENTINEL: Final = {"redis+sentinel": "redis", "rediss+sentinel": "rediss"}
_IN_CLUSTER: Final = {"redis+cluster": "redis", "rediss+cluster": "rediss"}
_SENTINEL_PORT: Final = 26379
_REDIS_PORT: Final = 6379
_MASTER: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")

ServerAddress = tuple[str, int]


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """What a URL says.

    Attributes:
        options: redis-py's options of a connection to Redis itself.
        address: The server, or master and Sentinels, as logs may name it.
        sentinels: Whom to ask for the master; none: the options name the server.
        master: What the Sentinels call it.
        sentinel_options: redis-py's options of a connection to a Sentinel.
        seeds: Servers of a cluster, who know the others; none: it is no cluster.
    """

    options: Mapping[str, Any] = field(repr=False)
    address: str
    sentinels: tuple[ServerAddress, ...] = ()
    master: str = ""
    sentinel_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    seeds: tuple[ServerAddress, ...] = ()


def parse_redis_url(url: str) -> RedisUrl:
    """Read `redis://`, `rediss://` or `unix://`, or the first two with `+sentinel` or `+cluster`.

    With Sentinels: `redis+sentinel://[user:password@]host:26379,host2:26379/master_name[/db]`.
    User and password are Redis's; the Sentinels' own, if they have any, are the options
    `sentinel_username` and `sentinel_password`. With `rediss+sentinel` all connections use
    TLS, with the same `ssl_...` options.

    A cluster: `redis+cluster://[user:password@]host:6379,host2:6379`. It has no databases.

    Raises:
        ValueError: it is none of these; the message quotes no part of it.
    """
    scheme, _, rest = url.partition("://")
    if scheme in _BEHIND_SENTINEL:
        parsed = _parse_sentinels(_BEHIND_SENTINEL[scheme], rest)
    elif scheme in _IN_CLUSTER:
        parsed = _parse_cluster(_IN_CLUSTER[scheme], rest)
    else:
        parsed = _parse_server(url)
    for options in (parsed.options, parsed.sentinel_options):
        try:
            # Else a wrong option would be found by the first connection.
            pool = BlockingConnectionPool(**options)
            pool.make_connection()  # type: ignore[no-untyped-call] # redis-py has no types here.
        except (TypeError, ValueError, RedisError):
            msg = "not a Redis URL: it has an option that is unknown or has a wrong value"
            raise ValueError(msg) from None
    return parsed


def _parse_server(url: str) -> RedisUrl:
    try:
        options = cast("dict[str, Any]", parse_url(url))
    except ValueError:
        # The cause may quote parts of the URL, so it is dropped.
        msg = "not a Redis URL (redis://, rediss://, unix://, or with +sentinel or +cluster)"
        raise ValueError(msg) from None
    parts = urlsplit(url)
    if parts.scheme != "unix":
        # redis-py would take database 0.
        _check_database(unquote(parts.path).replace("/", ""))
    if "path" in options:
        return RedisUrl(options, str(options["path"]))
    host, port = options.get("host", "localhost"), options.get("port", 6379)
    return RedisUrl(options, f"{host}:{port}/{options.get('db', 0)}")


def _parse_sentinels(scheme: str, rest: str) -> RedisUrl:
    location, _, query = rest.partition("?")
    authority, _, path = location.partition("/")
    user, _, hosts = authority.rpartition("@")
    master, _, database = path.rstrip("/").partition("/")
    try:
        sentinels = tuple(_parse_host(host, _SENTINEL_PORT) for host in hosts.split(","))
        shared = cast("dict[str, Any]", parse_url(f"{scheme}://sentinel/?{query}"))
    except ValueError:
        msg = "not a Redis URL: its Sentinels are not host:port,host:port"
        raise ValueError(msg) from None
    if not _MASTER.fullmatch(master):
        msg = "not a Redis URL: its path is no /master_name or /master_name/database"
        raise ValueError(msg)
    _check_database(database)
    del shared["host"]
    own = {name: shared.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    number = shared.pop("db", int(database or 0))
    credentials = _credentials(user)
    named = ",".join(f"{host}:{port}" for host, port in sentinels)
    return RedisUrl(
        options={**shared, **credentials, "db": number},
        address=f"{master}/{number} of Sentinels {named}",
        sentinels=sentinels,
        master=master,
        sentinel_options={**shared, **own},
    )


def _parse_cluster(scheme: str, rest: str) -> RedisUrl:
    location, _, query = rest.partition("?")
    authority, _, path = location.partition("/")
    user, _, hosts = authority.rpartition("@")
    try:
        seeds = tuple(_parse_host(host, _REDIS_PORT) for host in hosts.split(","))
        options = cast("dict[str, Any]", parse_url(f"{scheme}://node/?{query}"))
    except ValueError:
        msg = "not a Redis URL: its servers are not host:port,host:port"
        raise ValueError(msg) from None
    if path.strip("/") not in {"", "0"} or options.pop("db", 0) != 0:
        msg = "not a Redis URL: a cluster has no database but 0"
        raise ValueError(msg)
    del options["host"]
    named = ",".join(f"{host}:{port}" for host, port in seeds)
    return RedisUrl({**options, **_credentials(user)}, f"cluster of {named}", seeds=seeds)


def _credentials(user: str) -> dict[str, str | None]:
    username, _, password = user.partition(":")
    return {"username": unquote(username) or None, "password": unquote(password) or None}


def _parse_host(text: str, default_port: int) -> ServerAddress:
    parts = urlsplit(f"//{text}")
    if parts.netloc != text or "@" in text or not parts.hostname:
        msg = "no host"
        raise ValueError(msg)
    return parts.hostname, parts.port or default_port


def _check_database(number: str) -> None:
    if number and not number.isdecimal():
        msg = "not a Redis URL: its path is no database's number"
        raise ValueError(msg)
