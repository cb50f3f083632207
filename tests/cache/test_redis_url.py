"""Redis URLs: what users write for one server, and for Sentinels, and what is refused."""

from __future__ import annotations

import pytest
from redis.asyncio.connection import SSLConnection

from cache.client import RedisConfig
from cache.redis_url import parse_redis_url

SECRET = "hush-hush"  # noqa: S105 -- What must not be shown.


def test_sentinels_the_master_and_the_database_are_read() -> None:
    """User and password are Redis's, not the Sentinels'."""
    url = parse_redis_url(f"redis+sentinel://user:{SECRET}%2F@one,two:7000,[::1]:7001/main/3")
    assert url.sentinels == (("one", 26379), ("two", 7000), ("::1", 7001))
    assert url.master == "main"
    assert url.options["username"] == "user"
    assert url.options["password"] == f"{SECRET}/"
    assert url.options["db"] == 3
    assert url.sentinel_options["password"] is None
    assert url.address == "main/3 of Sentinels one:26379,two:7000,::1:7001"


def test_sentinels_have_a_password_of_their_own() -> None:
    """It is an option, as Redis's is in its customary place."""
    url = parse_redis_url(
        f"redis+sentinel://one/main?sentinel_password={SECRET}&sentinel_username=watch"
    )
    assert (url.sentinel_options["username"], url.sentinel_options["password"]) == ("watch", SECRET)
    assert url.options["password"] is None
    assert url.options["db"] == 0


def test_tls_holds_for_redis_and_sentinels() -> None:
    """With the same options."""
    url = parse_redis_url("rediss+sentinel://one/main?ssl_ca_certs=ca.pem")
    for options in (url.options, url.sentinel_options):
        assert options["connection_class"] is SSLConnection
        assert options["ssl_ca_certs"] == "ca.pem"


def test_a_cluster_is_some_of_its_servers() -> None:
    """The others are learnt from them; there is no database to choose."""
    url = parse_redis_url(f"rediss+cluster://user:{SECRET}%2F@one,[::1]:7001?ssl_ca_certs=ca.pem")
    assert url.seeds == (("one", 6379), ("::1", 7001))
    assert (url.options["username"], url.options["password"]) == ("user", f"{SECRET}/")
    assert url.options["connection_class"] is SSLConnection
    assert url.address == "cluster of one:6379,::1:7001"


@pytest.mark.parametrize(
    "url",
    [
        f"redis+cluster://:{SECRET}@one/1",
        f"redis+cluster://:{SECRET}@one?db=1",
        f"redis+cluster://:{SECRET}@one,",
        f"redis+cluster://:{SECRET}@one:many",
        f"redis+cluster://one?unheard={SECRET}",
        f"redis+sentinel://:{SECRET}@/main",
        f"redis+sentinel://:{SECRET}@one:many/main",
        f"redis+sentinel://:{SECRET}@one",
        f"redis+sentinel://:{SECRET}@one/",
        f"redis+sentinel://:{SECRET}@one/main/first",
        f"redis+sentinel://:{SECRET}@one/main/1/2",
        f"redis+sentinel://:{SECRET}@one,/main",
        f"redis+sentinel://user:1/{SECRET}@one/main",
        f"redis+sentinel://one/main?unheard={SECRET}",
        f"redis+sentinel://one/main?db={SECRET}",
        f"rediss://one?ssl_cert_reqs={SECRET}",
        f"redis://one?unheard={SECRET}",
        f"redis://one?password={SECRET}&master=main",
    ],
)
def test_a_wrong_url_is_refused_without_quoting_it(url: str) -> None:
    """At the start rather than by the first connection, in one line, and no secret in it."""
    with pytest.raises(ValueError, match=r"^not a Redis URL") as caught:
        RedisConfig(url)
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None
