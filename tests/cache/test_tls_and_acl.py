"""Redis over TLS, as a user that may do what Zonecast needs and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from channels.ports import BusState
from tests.cache.conftest import QUICK, redis_node
from tests.cache.nodes import running, transaction
from tests.cache.shelves import FENCE, Source, new_shelf
from tests.cache.test_presence_nodes import running as running_nodes
from tests.cache.test_presence_nodes import someone
from tests.cache.test_shared_quota import new_quota
from tests.certificates import Certificates, make_certificates
from tests.clusters import RedisCluster
from tests.processes import Scratch
from tests.servers import Binaries, RedisServer

DOCS = Path(__file__).parents[2] / "docs" / "configuration.md"
PASSWORD = "hush-hush"  # noqa: S105 -- What must not be shown.


def documented_rules(title: str) -> list[str]:
    """Return the words of the ACL in the docs, with the test's password."""
    text = DOCS.read_text(encoding="utf-8")
    found = re.search(rf"<!-- acl: {title} -->\n+```\n(.*?)```", text, re.DOTALL)
    assert found is not None
    words = found[1].split()
    assert words[:2] == ["user", "zonecast"]
    return [f">{PASSWORD}" if word == ">SECRET" else word for word in words[2:]]


ACL_RULES = documented_rules("one Redis or Sentinel")
CLUSTER_RULES = documented_rules("Redis Cluster")


class TlsRedis(RedisServer):
    """A Redis that speaks TLS only."""

    def __init__(self, binaries: Binaries, folder: Path, certificates: Certificates) -> None:
        super().__init__(binaries, folder)
        self._certificates = certificates

    def command(self) -> list[str]:
        """Run it without an open port."""
        files = self._certificates
        settings = {
            "port": "0",
            "tls-port": str(self.port),
            "tls-cert-file": str(files.certificate),
            "tls-key-file": str(files.key),
            "tls-ca-cert-file": str(files.authority),
            "tls-auth-clients": "no",
            "bind": "127.0.0.1",
            "save": "",
        }
        arguments = [text for key, value in settings.items() for text in (f"--{key}", value)]
        return [str(self._binaries.server), *arguments]

    async def answers(self) -> bool:
        """Tell whether it answers over TLS."""
        with contextlib.suppress(OSError):
            async with self.admin() as client:
                return bool(await client.ping())
        return False

    def admin(self) -> Redis:
        """Return a client that may do everything."""
        return Redis(
            port=self.port,
            host="127.0.0.1",
            ssl=True,
            ssl_ca_certs=str(self._certificates.authority),
            decode_responses=True,
        )

    def url_with(self, authority: Path) -> str:
        """The URL of the user with few rights."""
        place = f"zonecast:{PASSWORD}@127.0.0.1:{self.port}/0"
        return f"rediss://{place}?ssl_ca_certs={authority}"


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    """Certificates of the test's own."""
    folder = tmp_path / "tls"
    folder.mkdir()
    return make_certificates(folder)


@pytest.fixture
async def tls_redis(
    redis_binaries: Binaries, scratch: Scratch, certificates: Certificates
) -> AsyncIterator[TlsRedis]:
    """A Redis with TLS and the user of the docs."""
    server = TlsRedis(redis_binaries, scratch.new_folder("redis"), certificates)
    await server.start()
    try:
        async with server.admin() as admin:
            await admin.execute_command("ACL", "SETUSER", "zonecast", *ACL_RULES)  # type: ignore[no-untyped-call] # redis-py.
        yield server
    finally:
        await server.stop()


async def refusals(admin: Redis) -> list[str]:
    """Return what was refused, but for the driver's word about itself, which Redis 7.2 asks for."""
    log = await admin.acl_log()
    return [str(e["object"]) for e in log if e["object"] != "client|setinfo"]


async def use_everything(url: str) -> None:
    """Do whatever a node does with Redis."""
    writer, reader = redis_node(url, "a", QUICK), redis_node(url, "b", QUICK)
    shelf, other, source = new_shelf(url), new_shelf(url), Source()
    async with running(writer, reader):
        assert await reader.bus.subscribe("zone:A")
        assert await reader.bus.subscribe("zone:B")
        reader.bus.unsubscribe("zone:B")
        await writer.bus.publish([transaction(1, "zone:A")])
        await reader.listener.until_heard("zone:A", 1)
        assert await shelf.version(source) == 1
        assert await other.version(source) == 1
        assert source.loads == 1
        shelf.cache.drop_near_copy()
        await shelf.cache.verify(source.stamp)
        await shelf.cache.invalidate_users_dict()
        assert shelf.cache.is_available
    for each in (shelf, other):
        await each.cache.close()
    quota = new_quota(url, lambda: None)
    assert await quota.take("ada") is not None
    await quota.aclose()
    asking, asked = someone(url, "asking"), someone(url, "asked")
    asked.clients = {"zone:A": {"1": "ada"}}
    async with running_nodes(asking, asked):
        await asking.until_it_knows(asked.clients)


async def test_the_documented_user_is_enough_over_tls(
    tls_redis: TlsRedis, certificates: Certificates
) -> None:
    """Nothing that bus and cache do is refused, and nothing is granted that they don't do."""
    await use_everything(tls_redis.url_with(certificates.authority))
    async with tls_redis.admin() as admin:
        assert await refusals(admin) == []
        used = await admin.info("commandstats")
    asked = {name.removeprefix("cmdstat_") for name in used}
    granted = {rule[1:] for rule in ACL_RULES if rule.startswith("+")}
    # `role` is asked of masters that Sentinels name; `eval` where a script is not known yet.
    assert granted - asked <= {"role", "select", "evalsha", "script|load", "eval"}


async def test_the_documented_user_is_enough_on_a_cluster(redis_cluster: RedisCluster) -> None:
    """Sharded pub/sub, and the map of slots."""
    for server in redis_cluster.servers:
        await server.ask("ACL", "SETUSER", "zonecast", *CLUSTER_RULES)
    url = redis_cluster.url.replace("://", f"://zonecast:{PASSWORD}@")
    await use_everything(url)
    for server in redis_cluster.servers:
        async with server.admin() as admin:
            assert await refusals(admin) == []


@pytest.mark.parametrize(
    "command",
    [
        ("FLUSHALL",),
        ("KEYS", "*"),
        ("CONFIG", "GET", "*"),
        ("GET", "other"),
        ("SET", "zonecast", "x"),
        ("PUBLISH", "other", "x"),
        ("DEL", FENCE),
    ],
)
async def test_the_documented_user_may_nothing_else(
    tls_redis: TlsRedis, certificates: Certificates, command: tuple[str, ...]
) -> None:
    """A key or channel of somebody else, or a command that harms, is refused."""
    async with Redis.from_url(tls_redis.url_with(certificates.authority)) as client:
        with pytest.raises(NoPermissionError):
            await client.execute_command(*command)  # type: ignore[no-untyped-call] # redis-py.


async def test_a_server_that_nobody_vouches_for_gets_nothing(
    tls_redis: TlsRedis, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not the password either; the log says why, without it."""
    stranger = tmp_path / "stranger"
    await asyncio.to_thread(stranger.mkdir)
    other = await asyncio.to_thread(make_certificates, stranger)
    node = redis_node(tls_redis.url_with(other.authority), "a", QUICK)
    async with running(node, live=False):
        async with asyncio.timeout(10):
            while "is down" not in caplog.text:  # noqa: ASYNC110 - The log tells nobody.
                await asyncio.sleep(0.01)
        assert node.bus.state is BusState.DOWN
    assert "certificate" in caplog.text.lower()
    assert PASSWORD not in caplog.text
    async with tls_redis.admin() as admin:
        assert "cmdstat_auth" not in await admin.info("commandstats")
