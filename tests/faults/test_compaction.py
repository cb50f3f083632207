"""The change log compacted past whoever is behind: the state anew, and never a silent skip."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from channels.changes import ChangePage
from db import changelog as changelog_module
from db import user_crud
from db.engine import Database, DatabaseConfig
from db.models import User, Zone
from db.retention import Retention, RetentionConfig
from tests.nodes import NodeProcess, running_nodes
from tests.realtime.conftest import LiveNode, serving, settings_of_test
from tests.realtime.event_source import event_source
from tests.realtime.plain_client import PlainClient, plain_client
from tests.servers import RedisServer

A = "zone:A"
LAST = 12
"""The revision of zone A that most tests begin with."""


@pytest.fixture
async def database(postgres_url: str) -> AsyncIterator[Database]:
    """A database past all nodes, with Ada, id 1, in zone A at revision `LAST`.

    Nobody is told of what it commits: nodes find it by their head checks.
    """
    database = Database(DatabaseConfig(postgres_url))
    async with database.get_db() as db:
        db.add_all([Zone(zone_id="A", name="Hall"), User(global_id=1, name="Ada", zone_id="A")])
    await rename(database, LAST - 1)
    yield database
    await database.close()


async def rename(database: Database, times: int) -> None:
    """Change Ada's name so often; the last one is `n<times>`."""
    for n in range(1, times + 1):
        fields = {"name": f"n{n}"}
        await database.run_transaction(partial(user_crud.update_user, user_id=1, changes=fields))


async def compact(database: Database, kept: int) -> None:
    """Prune the log as nodes do, to so many changes of each channel."""
    report = await Retention(database, RetentionConfig(max_changes=kept)).prune()
    assert report is not None
    assert report.changes
    assert not report.busy


@pytest.fixture
async def live(database: Database, postgres_url: str) -> AsyncIterator[LiveNode]:
    """A node that has just started, and so remembers nothing."""
    async with serving(settings_of_test(database_url=postgres_url)) as live:
        yield live


Read = Callable[[str, int, int], Awaitable[ChangePage | None]]


def before_each_page(
    live: LiveNode, patch: pytest.MonkeyPatch, act: Callable[[int], Awaitable[None]]
) -> list[int]:
    """Act before the node reads its n-th page of the log, from 1; return what it asked after."""
    read: Read = live.node.change_log.read_changes
    asked: list[int] = []

    async def act_and_read(channel: str, since_rev: int, limit: int) -> ChangePage | None:
        asked.append(since_rev)
        await act(len(asked))
        return await read(channel, since_rev, limit)

    patch.setattr(live.node.change_log, "read_changes", act_and_read)
    return asked


async def epoch_of(live: LiveNode) -> str:
    """Ask the node for the epoch of zone A."""
    head = (await live.node.change_log.read_heads([A]))[A]
    return head.epoch


async def asleep_at(client: PlainClient, live: LiveNode, rev: int) -> dict[str, Any]:
    """Come back with the position that a client had when it fell asleep; return the reply."""
    client.positions[A], client.zones[A] = (await epoch_of(live), rev), {}
    reply: dict[str, Any] = (await client.subscribe(A, recover=True))["subscribe"]
    assert reply["was_recovering"]
    return reply


def resets_of(metrics: str) -> float:
    """Read from `/metrics` how many replicas were read anew as the log was compacted."""
    lines = metrics.splitlines()
    found = [line for line in lines if line.startswith('zonecast_resets_total{cause="compacted"}')]
    return float(found[0].rsplit(" ", 1)[1]) if found else 0.0


# --- A sleeping client -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rev", "offsets"), [(3, None), (8, None), (9, [10, 11, 12]), (11, [12]), (12, [])]
)
async def test_a_websocket_client_that_slept_past_a_compaction_gets_the_state(
    database: Database, live: LiveNode, rev: int, offsets: list[int] | None
) -> None:
    """From below the floor the state, from the floor on the changes, all of them."""
    await compact(database, 3)
    async with plain_client(live.ws_url) as client:
        reply = await asleep_at(client, live, rev)
        if offsets is None:
            assert not reply.get("recovered")
            assert (reply["offset"], reply["data"]["rev"]) == (LAST, LAST)
            assert reply["data"]["users"][0]["name"] == f"n{LAST - 1}"
        else:
            assert reply["recovered"]
            assert [one["offset"] for one in reply.get("publications", [])] == offsets


@pytest.mark.parametrize(("rev", "revs"), [(3, None), (8, None), (9, [10, 11, 12]), (11, [12])])
async def test_an_event_stream_that_slept_past_a_compaction_gets_a_snapshot(
    database: Database, live: LiveNode, rev: int, revs: list[int] | None
) -> None:
    """As over WebSocket."""
    await compact(database, 3)
    since = f"A={await epoch_of(live)}:{rev}"
    async with event_source(live.url, "A", last_event_id=since) as source:
        if revs is None:
            snapshot = await source.next("snapshot")
            assert snapshot["rev"] == LAST
            assert snapshot["users"][0]["name"] == f"n{LAST - 1}"
        else:
            for expected in revs:
                (part,) = (await source.next("changes"))["zones"]
                assert part["rev"] == expected


async def test_a_compaction_while_a_client_resumes_is_no_skip(
    database: Database, live: LiveNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its position is retained when the node first looks, and isn't when it reads the changes."""
    await compact(database, 9)

    async def compact_between(page: int) -> None:
        if page == 2:
            await compact(database, 2)

    asked = before_each_page(live, monkeypatch, compact_between)
    async with plain_client(live.ws_url) as client:
        reply = await asleep_at(client, live, 5)
        assert len(asked) == 2
        assert not reply.get("recovered")
        assert reply["data"]["users"][0]["name"] == f"n{LAST - 1}"


# --- A node that is behind ---------------------------------------------------------------------


async def test_a_compaction_during_a_catch_up_ends_it_with_the_state_anew(
    database: Database, live: LiveNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two pages of one repair: subscribers keep what they got, and are told 2502."""
    monkeypatch.setattr(changelog_module, "PAGE_MAX_PARTS", 1)
    written = asyncio.Event()

    async def compact_between(page: int) -> None:
        if page == 3:
            await written.wait()
            await compact(database, 1)

    async with plain_client(live.ws_url, A) as client, event_source(live.url, "A") as source:
        assert (await source.next("snapshot"))["rev"] == LAST
        asked = before_each_page(live, monkeypatch, compact_between)
        await rename(database, 8)
        written.set()
        await client.until(lambda c: bool(c.unsubscribed))
        assert client.unsubscribed == [(A, 2502)]
        # The repair may have begun while there were fewer, and gone on from there.
        assert asked[:3] == [LAST, LAST + 1, LAST + 2]
        seen = client.positions[A][1]
        assert seen >= LAST + 2
        reply = await client.subscribe(A, recover=True)
        assert reply["subscribe"]["offset"] == LAST + 8
        assert client.zones[A][1]["name"] == "n8"
        for rev in range(LAST + 1, seen + 1):
            assert (await source.next("changes"))["zones"][0]["rev"] == rev
        snapshot = await source.next("snapshot")
        assert snapshot["rev"] == LAST + 8
        async with httpx.AsyncClient(trust_env=False) as http:
            assert resets_of((await http.get(f"{live.url}/metrics")).text) == 1


@pytest.fixture
async def two_nodes(
    database: Database, postgres_url: str, redis_url: str, tmp_path: Path
) -> AsyncIterator[list[NodeProcess]]:
    """Two processes that share a bus, with zone A as in `database`."""
    assert database.dialect == "postgresql"
    settings = {"database_url": postgres_url, "redis_url": redis_url, "pool_size": 5}
    async with running_nodes(tmp_path, 2, settings) as nodes:
        yield nodes


async def test_a_node_that_stood_still_past_a_compaction_reads_the_state_anew(
    two_nodes: list[NodeProcess], database: Database, redis_server: RedisServer
) -> None:
    """Its subscribers are told so, nobody misses anything, and what follows is live again."""
    awake, frozen = two_nodes
    ws_url = f"ws://127.0.0.1:{frozen.port}/connection/websocket"
    async with (
        plain_client(ws_url, A) as client,
        event_source(frozen.url, "A") as source,
        httpx.AsyncClient(base_url=awake.url, trust_env=False) as http,
    ):
        assert (await source.next("snapshot"))["rev"] == LAST
        frozen.sigstop()
        try:
            # Before anything is written: what has arrived on its socket would reach it.
            await redis_server.call("CLIENT KILL TYPE pubsub")
            for n in range(20):
                answer = await http.patch("/users/1", json={"name": f"later {n}"})
                assert answer.status_code == 200
            await compact(database, 3)
        finally:
            frozen.sigcont()
        await client.until(lambda c: bool(c.unsubscribed))
        assert client.unsubscribed == [(A, 2502)]
        assert client.positions[A][1] == LAST
        await client.subscribe(A, recover=True)
        assert client.positions[A][1] == LAST + 20
        assert client.zones[A][1]["name"] == "later 19"
        assert (await source.next("snapshot"))["rev"] == LAST + 20
        assert resets_of(await frozen.get("/metrics")) == 1
        await http.patch("/users/1", json={"name": "live"})
        await client.until(lambda c: c.positions[A][1] == LAST + 21)
        assert (await source.next("changes"))["zones"][0]["rev"] == LAST + 21


# --- Who reads the log itself ---------------------------------------------------------------------


async def test_pages_of_changes_from_below_the_floor_are_refused(
    database: Database, live: LiveNode
) -> None:
    """410 with where the log begins; the same for a page that waits while the log is pruned."""
    await compact(database, 3)
    async with httpx.AsyncClient(base_url=live.url, trust_env=False) as http:
        answer = await http.get("/zones/A/changes?since_rev=8")
        assert answer.status_code == 410
        problem = answer.json()
        assert (problem["reason"], problem["floor"], problem["rev"]) == ("compacted", 9, LAST)
        page = (await http.get("/zones/A/changes?since_rev=9")).json()
        assert [change["rev"] for change in page["changes"]] == [10, 11, 12]
    async with plain_client(live.ws_url) as client:
        epoch = await epoch_of(live)
        for rev, code in ((8, 112), (9, None)):
            asked = {"channel": A, "limit": -1, "since": {"epoch": epoch, "offset": rev}}
            reply = await client.ask(history=asked)
            assert reply.get("error", {}).get("code") == code
        history = (await client.ask(history={"channel": A, "limit": -1}))["history"]
        assert [one["offset"] for one in history["publications"]] == [10, 11, 12]


@pytest.mark.parametrize(
    ("kept", "offsets"), [(5, [9, 8]), (4, [9]), (3, [])], ids=["some", "one", "none"]
)
async def test_history_backward_during_a_compaction_ends_where_it_was_asked_to(
    database: Database,
    live: LiveNode,
    monkeypatch: pytest.MonkeyPatch,
    kept: int,
    offsets: list[int],
) -> None:
    """Changes that are gone are left out, and later ones don't take their place."""

    async def compact_between(page: int) -> None:
        if page == 2:
            await compact(database, kept)

    before_each_page(live, monkeypatch, compact_between)
    async with plain_client(live.ws_url) as client:
        since = {"epoch": await epoch_of(live), "offset": 10}
        asked = {"channel": A, "limit": 4, "since": since, "reverse": True}
        history = (await client.ask(history=asked))["history"]
        assert [one["offset"] for one in history.get("publications", [])] == offsets


async def test_history_backward_gives_the_newest_where_pages_are_short(
    live: LiveNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that ends early doesn't hide what came after it."""
    monkeypatch.setattr(changelog_module, "PAGE_MAX_PARTS", 2)
    async with plain_client(live.ws_url) as client:
        asked = {"channel": A, "limit": 5, "reverse": True}
        history = (await client.ask(history=asked))["history"]
        assert [one["offset"] for one in history["publications"]] == [12, 11, 10, 9, 8]
