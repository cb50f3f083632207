"""`zonecast check`: a good configuration passes; what is broken for real is said in words."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from realtime.check import _compare_clocks
from realtime.check import check as check_settings
from realtime.findings import Verdict
from realtime.settings import load_settings
from tests.processes import free_port
from tests.realtime.command_line import zonecast
from tests.realtime.trace_collector import collecting
from tests.servers import PostgresServer, RedisServer


async def check(**given: object) -> tuple[int, dict[str, dict[str, Any]], str]:
    """Check as the command does; return exit code, findings by part, and all that was said."""
    findings = {
        finding.part: {"verdict": finding.verdict.value, "words": finding.words}
        async for finding in check_settings(load_settings(**given))
    }
    code = int(any(finding["verdict"] == "wrong" for finding in findings.values()))
    return code, findings, str(findings)


async def test_a_good_configuration_passes(postgres_url: str, redis_url: str) -> None:
    """Every part is looked at, and is well."""
    code, findings, printed = await check(
        database_url=postgres_url, redis_url=redis_url, pool_size=5
    )
    assert code == 0, printed
    assert list(findings) == [
        "entry",
        "database",
        "migrations",
        "rights",
        "connections",
        "database clock",
        "redis",
        "redis clock",
        "bus",
        "cache",
    ]
    assert {finding["verdict"] for finding in findings.values()} <= {"ok", "warning"}


async def test_an_embedded_configuration_passes(sqlite_url: str) -> None:
    """There is no Redis, and none is wanted; the command says so in lines."""
    code, output, errors = await asyncio.to_thread(
        lambda: zonecast("check", database_url=sqlite_url)
    )
    assert (code, errors) == (0, "")
    assert [line.split()[:2] for line in output.splitlines()] == [
        ["ok", "entry"],
        ["ok", "database"],
        ["ok", "migrations"],
        ["ok", "redis"],
    ]


async def test_a_database_that_does_not_answer_is_said() -> None:
    """Where nothing listens."""
    url = f"postgresql+asyncpg://zonecast:hush@127.0.0.1:{free_port()}/zonecast"
    code, findings, printed = await check(database_url=url)
    assert code == 1
    assert findings["database"]["verdict"] == "wrong"
    assert "hush" not in printed


async def test_a_database_that_is_not_there_is_said(postgres_server: PostgresServer) -> None:
    """In the server's own words."""
    code, findings, _ = await check(database_url=postgres_server.url_of("nowhere"))
    assert code == 1
    assert 'database "nowhere" does not exist' in findings["database"]["words"]


async def test_tables_that_were_never_made_are_said(empty_postgres_url: str) -> None:
    """With the command that makes them; none are made."""
    for _ in range(2):
        code, findings, _ = await check(database_url=empty_postgres_url)
        assert code == 1
        assert "zonecast migrate" in findings["migrations"]["words"]


async def test_tables_of_another_release_are_said(
    postgres_url: str, postgres_server: PostgresServer
) -> None:
    """With both revisions."""
    name = postgres_url.rpartition("/")[2]
    async with postgres_server.connect(name) as connection:
        await connection.execute("UPDATE alembic_version SET version_num = 'older'")
    code, findings, _ = await check(database_url=postgres_url)
    assert code == 1
    assert "revision older" in findings["migrations"]["words"]


async def test_a_role_that_may_not_write_is_said(
    postgres_url: str, postgres_server: PostgresServer
) -> None:
    """By table and right."""
    name = postgres_url.rpartition("/")[2]
    async with postgres_server.connect(name) as connection:
        await connection.execute("DROP ROLE IF EXISTS reader")
        await connection.execute("CREATE ROLE reader LOGIN")
        await connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
    url = postgres_url.replace("://zonecast", "://reader")
    code, findings, _ = await check(database_url=url)
    assert code == 1
    assert "INSERT on users" in findings["rights"]["words"]


async def test_more_connections_than_the_server_allows_are_said(postgres_url: str) -> None:
    """With the setting to lower."""
    code, findings, _ = await check(database_url=postgres_url, pool_size=100_000)
    assert code == 1
    assert "ZONECAST_POOL_SIZE" in findings["connections"]["words"]


async def test_a_redis_that_does_not_answer_is_said(postgres_url: str) -> None:
    """The database is looked at all the same."""
    url = f"redis://:hush@127.0.0.1:{free_port()}/0"
    code, findings, printed = await check(database_url=postgres_url, redis_url=url)
    assert code == 1
    assert findings["migrations"]["verdict"] == "ok"
    assert findings["redis"]["verdict"] == "wrong"
    assert "hush" not in printed


async def test_a_redis_that_hangs_is_said_in_time(
    postgres_url: str, own_redis: RedisServer
) -> None:
    """It takes connections and answers nothing."""
    own_redis.sigstop()
    began_s = time.monotonic()
    code, findings, _ = await check(database_url=postgres_url, redis_url=own_redis.url)
    assert code == 1
    assert "no answer in time" in findings["redis"]["words"]
    assert time.monotonic() - began_s < 28


async def test_a_redis_user_without_channels_or_keys_is_said(
    postgres_url: str, own_redis: RedisServer
) -> None:
    """Such a node would be deaf, and its cache empty."""
    await own_redis.call("ACL SETUSER poor on >hush resetchannels +@all ~other:*")
    url = own_redis.url.replace("redis://", "redis://poor:hush@")
    code, findings, printed = await check(database_url=postgres_url, redis_url=url)
    assert code == 1
    assert findings["redis"]["verdict"] == "ok"
    assert "cannot publish and subscribe" in findings["bus"]["words"]
    assert findings["cache"]["verdict"] == "wrong"
    assert "hush" not in printed


async def test_what_is_wrong_is_one_json_object_a_line_for_programs(empty_sqlite_url: str) -> None:
    """And the exit code says so, too."""
    code, output, errors = await asyncio.to_thread(
        lambda: zonecast("check", "--json", database_url=empty_sqlite_url)
    )
    assert (code, errors) == (1, "")
    findings = [json.loads(line) for line in output.splitlines()]
    assert [finding["verdict"] for finding in findings] == ["ok", "ok", "wrong", "ok"]


async def test_a_setting_that_cannot_be_used_is_said() -> None:
    """In one line, as everywhere."""
    code, output, errors = await asyncio.to_thread(
        lambda: zonecast("check", database_url="mysql://u:hush@h/x")
    )
    assert (code, output) == (1, "")
    assert errors.startswith("zonecast: ZONECAST_DATABASE_URL: must begin with")
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("there_s", "verdict", "words"),
    [
        (100.5, Verdict.OK, "agrees"),
        (99.5, Verdict.OK, "agrees"),
        (103.0, Verdict.WRONG, "2.0 s ahead of"),
        (97.0, Verdict.WRONG, "3.0 s behind"),
    ],
)
def test_clocks_are_compared_with_what_asking_took(
    there_s: float, verdict: Verdict, words: str
) -> None:
    """A slow answer is no difference: ours was between 100 and 101 meanwhile."""
    finding = _compare_clocks("clock", there_s, 100.0, 101.0)
    assert finding.verdict is verdict
    assert words in finding.words


async def test_a_collector_is_asked(sqlite_url: str) -> None:
    """It gets no spans of the check, but the headers that it may want."""
    async with collecting() as collector:
        code, findings, _ = await check(database_url=sqlite_url, otel_endpoint=collector.url)
        assert (code, findings["traces"]["verdict"]) == (0, "ok")
        assert collector.bodies == [b""]


async def test_a_collector_that_is_down_is_a_warning(sqlite_url: str) -> None:
    """The service works without; where it isn't, is said."""
    where = f"http://127.0.0.1:{await asyncio.to_thread(free_port)}"
    code, findings, printed = await check(
        database_url=sqlite_url, otel_endpoint=where, otel_export_timeout_s=0.2
    )
    assert (code, findings["traces"]["verdict"]) == (0, "warning"), printed
    assert findings["traces"]["words"].startswith(f"{where} takes no spans (ConnectionError)")
