"""How PostgreSQL is reached: what its URL says of TLS, and that no pooler is in between."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import URL, make_url
from sqlalchemy.ext.asyncio import AsyncConnection

from db.errors import PooledError

TLS_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
"""What `ssl` may be, as libpq's `sslmode`; without it `prefer`."""

TLS_FILES: Final = frozenset({"sslrootcert", "sslcert", "sslkey"})
"""Options of ours: asyncpg takes them from its own URLs only, which are not SQLAlchemy's."""


def connecting(url: str | URL) -> tuple[URL, dict[str, Any]]:
    """Split a URL into the one for SQLAlchemy and what the driver is given besides.

    Reads the files of certificates that the URL names.

    Raises:
        ValueError: options that don't go together, or a file that can't be used.
    """
    parsed = make_url(url)
    files = {name: str(parsed.query[name]) for name in TLS_FILES & parsed.query.keys()}
    mode = parsed.query.get("ssl")
    if mode is not None and mode not in TLS_MODES:
        raise ValueError(f"ssl must be one of {', '.join(TLS_MODES)}")
    if not files:
        return parsed, {}
    if mode not in {"require", "verify-ca", "verify-full"}:
        raise ValueError("certificates need ssl=require, verify-ca or verify-full")
    if mode != "require" and "sslrootcert" not in files:
        raise ValueError(f"ssl={mode} with certificates needs sslrootcert, too")
    if "sslkey" in files and "sslcert" not in files:
        raise ValueError("sslkey needs sslcert")
    rest = parsed.difference_update_query([*TLS_FILES, "ssl"])
    return rest, {"ssl": _context(str(mode), files)}


def _context(mode: str, files: dict[str, str]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = mode == "verify-full"
    # As libpq: `require` checks the certificate where there is something to check it by.
    context.verify_mode = ssl.CERT_REQUIRED if "sslrootcert" in files else ssl.CERT_NONE
    if "sslrootcert" in files:
        with _named("sslrootcert"):
            context.load_verify_locations(cafile=files["sslrootcert"])
    if "sslcert" in files:
        with _named("sslcert or sslkey"):
            # An empty password: else the terminal would be asked for it.
            context.load_cert_chain(files["sslcert"], files.get("sslkey"), password="")
    return context


@contextmanager
def _named(option: str) -> Iterator[None]:
    try:
        yield
    except OSError:
        # An error of TLS is one, too. Its words may quote the path.
        raise ValueError(f"{option} names no file that can be used") from None


async def refuse_pooler(connection: AsyncConnection) -> None:
    """Find out that a connection is the server's own, as locks of a session need it.

    A pooler makes up the number that the client is told of its session.

    Raises:
        PooledError: a pooler answers in the server's place.
    """
    raw = await connection.get_raw_connection()
    driver: Any = raw.driver_connection
    # In a transaction, else a pooler could prepare the question in one session and ask another.
    async with driver.transaction():
        session = await driver.fetchval("SELECT pg_backend_pid()")
    if session != driver.get_server_pid():
        raise PooledError
