"""PostgreSQL over TLS: who is trusted is what the URL says, and wrong options are told early."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text

from channels.ports import UnavailableError
from db import migrate
from db.address import connecting
from db.engine import Database, DatabaseConfig
from db.head_reader import HeadReader
from db.occupancy import occupy
from tests.certificates import Certificates, make_certificates
from tests.processes import Scratch
from tests.servers import DATABASE, ROLE, Binaries, Postgres, PostgresServer


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    """Certificates of the test's own."""
    folder = tmp_path / "tls"
    folder.mkdir()
    return make_certificates(folder)


def postgres_of_the_system() -> list[Path]:
    """Return Debian's, oldest first."""
    return sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))


@pytest.fixture
async def tls_postgres(
    scratch: Scratch, certificates: Certificates
) -> AsyncIterator[PostgresServer]:
    """A PostgreSQL, of the system as the one in the wheel speaks no TLS, that insists on it."""
    found = postgres_of_the_system()
    if not found:
        pytest.skip("requires PostgreSQL with TLS: install postgresql")
    server = await Postgres(
        Binaries(found[-1].parent, "postgres", "system"), scratch
    ).start_server()
    try:
        await server.create_database(DATABASE)
        key = server.data / "server.key"
        key.write_bytes(certificates.key.read_bytes())
        # PostgreSQL refuses a key that others may read; its owner is who runs it.
        owner = server.data.stat()
        os.chown(key, owner.st_uid, owner.st_gid)
        key.chmod(0o600)
        (server.data / "server.crt").write_bytes(certificates.certificate.read_bytes())
        (server.data / "server.crt").chmod(0o644)
        await server.execute("ALTER SYSTEM SET ssl = on")
        (server.data / "pg_hba.conf").write_text(
            "hostssl zonecast all 127.0.0.1/32 trust\nhost postgres all 127.0.0.1/32 trust\n",
            encoding="utf-8",
        )
        await server.stop()
        await server.start()
        yield server
    finally:
        await server.stop()


async def test_everything_goes_over_tls_that_is_verified(
    tls_postgres: PostgresServer, certificates: Certificates
) -> None:
    """Migrations, locks, transactions and head checks: the server takes nothing else."""
    url = f"{tls_postgres.url}?ssl=verify-full&sslrootcert={certificates.authority}"
    await migrate.upgrade(url)
    async with occupy(url, shares_bus=True):
        database = Database(DatabaseConfig(url))
        async with database.get_db() as session:
            statement = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
            assert await session.scalar(text(statement))
        reader = HeadReader(database, timeout_s=5)
        assert await reader.read_heads(["zones"]) is not None
        await reader.close()
        await database.close()


@pytest.mark.parametrize("mode", ["disable", "verify-ca", "verify-full"])
async def test_a_server_that_is_not_who_it_should_be_is_refused(
    tls_postgres: PostgresServer, tmp_path: Path, mode: str
) -> None:
    """By an authority that didn't vouch for it; and without TLS the server itself refuses."""
    stranger = tmp_path / "stranger"
    await asyncio.to_thread(stranger.mkdir)
    other = await asyncio.to_thread(make_certificates, stranger)
    trust = "" if mode == "disable" else f"&sslrootcert={other.authority}"
    with pytest.raises(UnavailableError) as caught:
        await migrate.upgrade(f"{tls_postgres.url}?ssl={mode}{trust}")
    assert "\n" not in str(caught.value)


async def test_the_name_counts_only_where_it_is_verified(
    tls_postgres: PostgresServer, certificates: Certificates
) -> None:
    """The certificate is of 127.0.0.1, so `localhost` is somebody else."""
    url = tls_postgres.url.replace("127.0.0.1", "localhost")
    trust = f"sslrootcert={certificates.authority}"
    await migrate.upgrade(f"{url}?ssl=verify-ca&{trust}")
    with pytest.raises(UnavailableError):
        await migrate.upgrade(f"{url}?ssl=verify-full&{trust}")


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("ssl=maybe", "ssl must be one of"),
        ("sslrootcert=/hush-hush.pem", "certificates need ssl="),
        ("ssl=verify-full&sslrootcert=/hush-hush.pem", "sslrootcert names no file"),
        ("ssl=verify-full&sslcert=/hush-hush.pem", "needs sslrootcert"),
        ("ssl=require&sslkey=/hush-hush.pem", "sslkey needs sslcert"),
        ("ssl=require&sslcert=/hush-hush.pem", "sslcert or sslkey names no file"),
    ],
)
def test_options_that_cannot_work_are_told_without_quoting_them(query: str, words: str) -> None:
    """At the start, in one line."""
    with pytest.raises(ValueError, match=words) as caught:
        connecting(f"postgresql+asyncpg://{ROLE}@127.0.0.1/x?{query}")
    assert "hush-hush" not in str(caught.value)
    assert caught.value.__cause__ is None
