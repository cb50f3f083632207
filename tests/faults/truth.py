"""The truth: what the database holds, read past the service, and watched while things happen."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import asyncpg
import msgspec

from db.identity import IDENTITY_SQL, client_epoch
from tests.faults.eras import Era, Head, HeadTimes, LogRow, Tables
from tests.faults.history import History, Recorder
from tests.servers import DATABASE, PostgresServer

POLL_S = 0.08
ANSWER_TIMEOUT_S = 3.0
STALL_S = 0.3
DATABASE_ERRORS = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    # A connection that was terminated at the wrong moment.
    asyncpg.InternalClientError,
)

USERS_SQL = "SELECT id, global_id, name, zone_id, attributes::text, version FROM users"
ZONES_SQL = "SELECT zone_id, name, attributes::text FROM zones"
HEADS_SQL = "SELECT channel, epoch, rev, floor FROM channel_heads"
WATCHED_SQL = HEADS_SQL.replace(" FROM", f", {IDENTITY_SQL} AS identity FROM")
LOG_SQL = """SELECT c.channel, c.rev, c.tx_id, c.span, c.events::text AS events FROM changes c
    LEFT JOIN unnest($1::text[], $2::bigint[]) AS b(channel, rev) ON b.channel = c.channel
    WHERE c.rev > coalesce(b.rev, 0) ORDER BY c.channel, c.rev"""


async def read_tables(server: PostgresServer) -> Tables:
    """Read users, zones and heads as of one moment."""
    async with (
        server.connect(DATABASE) as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        users = await connection.fetch(USERS_SQL)
        zones = await connection.fetch(ZONES_SQL)
        heads = await connection.fetch(HEADS_SQL)
        identity = await connection.fetchval(f"SELECT {IDENTITY_SQL}")
    return Tables(
        {row["id"]: _document(row) for row in users},
        {row["zone_id"]: _document(row) for row in zones},
        {row["channel"]: Head(row["epoch"], row["rev"], row["floor"]) for row in heads},
        identity,
    )


def _document(row: asyncpg.Record) -> dict[str, object]:
    return {**row, "attributes": msgspec.json.decode(row["attributes"])}


async def read_log(server: PostgresServer, base: Tables) -> list[LogRow]:
    """Read the change log after `base`."""
    revs = {channel: head.rev for channel, head in base.heads.items()}
    async with server.connect(DATABASE) as connection:
        rows = await connection.fetch(LOG_SQL, list(revs), list(revs.values()))
    return [
        LogRow(row["channel"], row["rev"], row["tx_id"], row["span"], row["events"].encode())
        for row in rows
    ]


async def read_end(server: PostgresServer, history: History) -> None:
    """Complete a history with the tables and the log, when nobody writes any more."""
    history.final = await read_tables(server)
    history.log = await read_log(server, history.base)


async def read_lost(server: PostgresServer, base: Tables, era: Era) -> None:
    """Complete an era from what is left of its database, which is run for that long."""
    await server.start()
    try:
        era.final = await read_tables(server)
        era.log = await read_log(server, base)
    finally:
        await server.stop()


@dataclass(slots=True)
class Observer:
    """Watches the heads from outside, so that it is known by when each change was committed.

    Attributes:
        server: The database.
        recorder: Where times and outages are noted.
        heads: Where each channel was last seen.
    """

    server: PostgresServer
    recorder: Recorder
    heads: dict[str, Head]

    async def run(self) -> None:
        """Watch until cancelled; a database that doesn't answer is an outage."""
        down_since_s: float | None = None
        while True:
            asked_s = time.monotonic()
            try:
                async with self.server.connect(DATABASE, ANSWER_TIMEOUT_S) as connection:
                    while True:
                        asked_s = time.monotonic()
                        # An answer is of the era in which it was asked for, come when it may.
                        times = self.recorder.history.head_times
                        self._note(await connection.fetch(WATCHED_SQL), times)
                        if down_since_s is not None:
                            self.recorder.outage(down_since_s, "database", "no answer")
                            down_since_s = None
                        await asyncio.sleep(POLL_S)
            except DATABASE_ERRORS:
                down_since_s = asked_s if down_since_s is None else down_since_s
                await asyncio.sleep(POLL_S / 2)

    def _note(self, rows: list[asyncpg.Record], times: HeadTimes) -> None:
        now_s = self.recorder.now_s()
        for row in rows:
            channel = row["channel"]
            self.heads[channel] = Head(row["epoch"], row["rev"], row["floor"])
            times.note(channel, row["rev"], now_s)
            times.epochs.add(client_epoch(row["epoch"], row["identity"]))
            times.identities.add(row["identity"])

    async def watch_itself(self) -> None:
        """Note when this very process was too busy to receive anything, until cancelled."""
        while True:
            before_s = time.monotonic()
            await asyncio.sleep(STALL_S / 3)
            if time.monotonic() - before_s > STALL_S:
                self.recorder.outage(before_s, "recorder", "busy")
