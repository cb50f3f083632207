"""The identity of a database, without which a restored backup could pass for the old history."""

from __future__ import annotations

import secrets
from functools import cache
from hashlib import blake2b
from typing import Final

IDENTITY_SQL: Final = """(SELECT concat_ws(':',
    (SELECT system_identifier FROM pg_control_system()),
    (SELECT oid FROM pg_database WHERE datname = current_database()),
    CAST(CAST('channel_heads' AS regclass) AS oid),
    extract(epoch FROM pg_postmaster_start_time()))
    WHERE CAST('pk_channel_heads' AS regclass) IS NOT NULL)"""
"""An expression for the identity of a PostgreSQL database; any role may read it.

A base backup restored in place keeps the system identifier, a database dropped and made anew
gets another oid, tables restored from a dump get other oids, and a server that runs a restored
or another copy was started later.

Without the key, this fails as without the table: dumps bring rows table by table, and all keys
after all rows. A database that is being restored is not to be taken for one without zones.
"""


@cache
def process_identity() -> str:
    """Return the identity of all SQLite databases that this process opens.

    Made at its first use, so that processes that were forked have their own.
    """
    return secrets.token_hex(16)


def client_epoch(head_epoch: str, identity: str) -> str:
    """Return the epoch that clients see: 16 hex digits.

    Args:
        head_epoch: The epoch in the head's row.
        identity: The identity of the database, read together with the head.
    """
    return blake2b(f"{head_epoch}|{identity}".encode(), digest_size=8).hexdigest()


def hashed_identity(identity: str) -> str:
    """Return the identity as it may be shown and stored elsewhere: 16 hex digits."""
    return blake2b(identity.encode(), digest_size=8).hexdigest()
