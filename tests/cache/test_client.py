"""Redis clients: bounded, and silent about secrets."""

from __future__ import annotations

import pytest

from cache.client import Connector, RedisConfig
from cache.invalidation import Invalidation
from cache.redis_bus import RedisBus
from channels.ports import UnavailableError
from tests.cache.nodes import transaction

SECRET = "hush-hush"  # noqa: S105 -- What must not be shown.


@pytest.mark.parametrize(
    ("url", "address"),
    [
        (f"redis://user:{SECRET}@localhost:7000/3", "localhost:7000/3"),
        (f"rediss://:{SECRET}@example.org", "example.org:6379/0"),
        (f"redis://localhost?password={SECRET}&db=2", "localhost:6379/2"),
        (f"unix://user:{SECRET}@/run/redis.sock?db=1", "/run/redis.sock"),
    ],
)
async def test_an_address_is_shown_without_secrets(url: str, address: str) -> None:
    """Neither the configuration nor what is built from it shows user or password."""
    config = RedisConfig(url)
    client = Connector(config).create_client(name="test", max_connections=1)
    bus = RedisBus(Connector(config), "n", Invalidation())
    shown = " ".join(map(repr, (config, client, client.connection_pool, bus)))
    assert config.address == address
    assert SECRET not in shown
    assert "user" not in shown.replace("username", "")
    await client.aclose()


@pytest.mark.parametrize(
    "url",
    [
        f"redis://user:{SECRET}/x@localhost",
        f"redis://:{SECRET}@localhost/first",
        f"http://{SECRET}@localhost",
        SECRET,
        "",
    ],
)
def test_a_wrong_url_is_refused_without_quoting_it(url: str) -> None:
    """A password with a slash makes a URL that nobody can parse, and no message may show it."""
    with pytest.raises(ValueError, match="not a Redis URL") as caught:
        RedisConfig(url)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_the_bounds_are_not_lifted_by_the_url(redis_url: str) -> None:
    """What a URL's query asks for doesn't beat the configuration."""
    config = RedisConfig(f"{redis_url}?socket_timeout=99&max_connections=99&protocol=3")
    client = Connector(config).create_client(name="test", max_connections=2)
    assert client.connection_pool.max_connections == 2
    options = client.connection_pool.connection_kwargs
    assert (options["socket_timeout"], options["protocol"]) == (None, 2)
    assert await client.ping()
    await client.aclose()


async def test_a_wrong_password_is_an_error_without_it(redis_url: str) -> None:
    """The server refuses; what is raised and logged names the reason only."""
    url = redis_url.replace("redis://", f"redis://user:{SECRET}@")
    bus = RedisBus(Connector(RedisConfig(url)), "n", Invalidation())
    with pytest.raises(UnavailableError) as caught:
        await bus.publish([transaction(1, "zone:A")])
    assert SECRET not in str(caught.value)
    connection = Connector(RedisConfig(url)).create_subscriber(name="test")
    with pytest.raises(Exception, match=r"WRONGPASS|invalid username") as refused:
        await connection.connect()
    assert SECRET not in str(refused.value)
    await connection.disconnect(nowait=True)
