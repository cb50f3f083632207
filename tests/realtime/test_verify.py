"""The verification, of real nodes that are equal, and that are not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from db.engine import Database
from db.epochs import renew_epochs
from realtime.configuration import database_config
from realtime.settings import Settings
from realtime.verify.command import exit_code, lines_of
from realtime.verify.comparison import Divergence, Verification, VerifyReport
from realtime.verify.view import VerifyError
from tests.processes import free_port
from tests.realtime.conftest import LiveNode, serving
from tests.realtime.plain_client import plain_client

MakeSettings = Callable[..., Settings]

EQUAL, DIFFERENT, UNANSWERED = 0, 1, 2


@dataclass(frozen=True)
class Site:
    """Nodes on one database, with zones A (two users) and B (one user).

    Attributes:
        ids: The users' ids.
    """

    nodes: Sequence[LiveNode]
    ids: Sequence[int]

    async def verify(self, *zone_ids: str) -> VerifyReport:
        """Compare zones over all nodes."""
        urls = [live.url for live in self.nodes]
        return await Verification(urls, zone_ids, lambda _report, _total: None).run()

    async def found(self, *zone_ids: str) -> Divergence:
        """Return the one divergence that there is."""
        report = await self.verify(*zone_ids)
        assert exit_code(report) == DIFFERENT
        ((divergence,),) = report.divergences.values()
        return divergence

    async def move(self, node: int, user_id: int, zone_id: str) -> None:
        """Move a user through one of the nodes."""
        async with httpx.AsyncClient(base_url=self.nodes[node].url) as client:
            moved = await client.post(f"/users/{user_id}/transfer", json={"zone_id": zone_id})
            assert moved.status_code == 200

    async def write_by_hand(self, statement: str, **values: object) -> None:
        """Change rows behind the service."""
        url = self.nodes[0].node.settings.database_url.get_secret_value()
        engine = create_async_engine(url)
        try:
            async with engine.begin() as connection:
                await connection.execute(text(statement), values)
        finally:
            await engine.dispose()

    async def resync(self) -> None:
        """Do what `zonecast resync` does, past the nodes."""
        database = Database(database_config(self.nodes[0].node.settings))
        try:
            await renew_epochs(database)
        finally:
            await database.close()


async def started(stack: AsyncExitStack, count: int, settings: Settings) -> Site:
    """Run nodes, and make the zones and users."""
    nodes = [await stack.enter_async_context(serving(settings)) for _ in range(count)]
    async with httpx.AsyncClient(base_url=nodes[0].url) as client:
        for zone_id in ("A", "B"):
            zone = {"zone_id": zone_id, "name": "Hall"}
            assert (await client.post("/zones", json=zone)).status_code == 201
        rows = [
            {"global_id": number, "name": f"user {number}", "zone_id": zone_id}
            for number, zone_id in ((1, "A"), (2, "A"), (3, "B"))
        ]
        made = await client.post("/users/bulk", json={"users": rows})
        assert made.status_code == 201
    return Site(nodes, [user["id"] for user in made.json()["users"]])


@pytest.fixture
async def site(sqlite_url: str, make_settings: MakeSettings) -> AsyncIterator[Site]:
    """One embedded node."""
    async with AsyncExitStack() as stack:
        yield await started(stack, 1, make_settings(database_url=sqlite_url))


@pytest.fixture
async def two_nodes(
    postgres_url: str, redis_url: str, make_settings: MakeSettings
) -> AsyncIterator[Site]:
    """Two nodes on PostgreSQL and Redis."""
    settings = make_settings(database_url=postgres_url, redis_url=redis_url, pool_size=5)
    async with AsyncExitStack() as stack:
        yield await started(stack, 2, settings)


async def test_an_untouched_node_is_equal(site: Site) -> None:
    """All zones by default; the last line says how many."""
    report = await site.verify()
    assert exit_code(report) == EQUAL
    assert lines_of(report) == ["2 zones: 2 equal"]
    assert (await site.verify("B")).equal == ["B"]


async def test_two_nodes_are_equal_after_writes_on_both(two_nodes: Site) -> None:
    """What either commits is on both, and in what their clients are told."""
    first, second = two_nodes.nodes
    async with (
        plain_client(first.ws_url, "zone:A"),
        plain_client(second.ws_url, "zone:A", "zone:B"),
    ):
        for step in range(10):
            await two_nodes.move(step % 2, two_nodes.ids[0], "BA"[step % 2])
        report = await two_nodes.verify()
    assert sorted(report.equal) == ["A", "B"]
    assert exit_code(report) == EQUAL


async def test_a_zone_that_moves_is_no_false_alarm(two_nodes: Site) -> None:
    """Comparisons are made at equal revisions, however many come meanwhile."""
    moves = 0
    stopped = asyncio.Event()

    async def move() -> None:
        nonlocal moves
        while not stopped.is_set():
            await two_nodes.move(0, two_nodes.ids[0], "BA"[moves % 2])
            moves += 1

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(move())
        try:
            reports = [await two_nodes.verify() for _ in range(10)]
        finally:
            stopped.set()
    assert [lines_of(report) for report in reports] == [["2 zones: 2 equal"]] * 10
    assert moves > 10


async def test_a_row_with_another_version_is_found_and_mended(two_nodes: Site) -> None:
    """The digests part; after a resync everything is equal again, at once."""
    first, second = two_nodes.nodes
    async with plain_client(second.ws_url, "zone:A"):
        await two_nodes.write_by_hand(
            "UPDATE users SET name = 'Eve', version = 9 WHERE id = :id", id=two_nodes.ids[0]
        )
        divergence = await two_nodes.found()
        assert (divergence.zone_id, divergence.check) == ("A", "digest")
        # Nobody watched at the other node, which so has read the rows as they are now.
        assert divergence.here == f"client of {second.url}"
        assert first.url not in divergence.reason
        (user,) = divergence.users
        assert user.here is not None
        assert user.there is not None
        assert (user.here.name, user.here.version) == ("user 1", 1)
        assert (user.there.name, user.there.version) == ("Eve", 9)
        await two_nodes.resync()
        assert lines_of(await two_nodes.verify()) == ["2 zones: 2 equal"]


async def test_a_renamed_row_of_the_same_version_is_found_and_mended(site: Site) -> None:
    """Digests know only ids and versions; contents are compared, too."""
    (live,) = site.nodes
    async with plain_client(live.ws_url, "zone:A", "zone:B"):
        await site.write_by_hand("UPDATE users SET name = 'Eve' WHERE id = :id", id=site.ids[0])
        report = await site.verify()
        assert exit_code(report) == DIFFERENT
        head, user, count, remedy = lines_of(report)
        assert head.startswith(f"A  client of {live.url} and database part at ")
        assert "(contents): 1 user differs, though both digests are 2-" in head
        assert user == f"  user {site.ids[0]}: both version 1, name 'user 1' and 'Eve'"
        assert count == "2 zones: 1 equal, 1 differ"
        assert "zonecast resync" in remedy
        await site.resync()
        assert lines_of(await site.verify()) == ["2 zones: 2 equal"]


@pytest.mark.parametrize(
    ("statement", "check", "line"),
    [
        (
            "DELETE FROM users WHERE global_id = 1",
            "digest",
            "only in the client of {url} ('user 1', version 1)",
        ),
        (
            "UPDATE users SET zone_id = 'A' WHERE global_id = 3",
            "digest",
            "only in the database ('user 3', version 1)",
        ),
        (
            "UPDATE users SET attributes = json_object('a', 1) WHERE global_id = 1",
            "contents",
            "both version 1, attributes {{}} and {{'a': 1}}",
        ),
    ],
    ids=["deleted", "brought in", "attributes"],
)
async def test_what_was_written_by_hand_is_found(
    site: Site, statement: str, check: str, line: str
) -> None:
    """Whatever it was; the user's two sides are told."""
    (live,) = site.nodes
    async with plain_client(live.ws_url, "zone:A"):
        await site.write_by_hand(statement)
        report = await site.verify("A")
    assert [found.check for found in report.divergences["A"]] == [check]
    assert line.format(url=live.url) in lines_of(report)[1]


async def test_a_zone_renamed_by_hand_is_found(site: Site) -> None:
    """The zone itself is a part of its state."""
    async with plain_client(site.nodes[0].ws_url, "zone:A"):
        await site.write_by_hand("UPDATE zones SET name = 'Cellar' WHERE zone_id = 'A'")
        divergence = await site.found()
    assert divergence.check == "contents"
    assert divergence.reason.startswith("the zone itself differs, though both digests are ")
    assert divergence.users == ()


async def test_a_replica_that_is_not_what_was_told_is_found(site: Site) -> None:
    """The node's own digest is compared with what its client was told."""
    (live,) = site.nodes
    async with plain_client(live.ws_url, "zone:A"):
        replica = live.node.feed.current("zone:A")
        assert replica is not None
        replica.snapshot()  # Made and kept, so that it's from before the damage.
        replica._encoded.drop(replica.users.pop(site.ids[0]))
        divergence = await site.found()
    assert divergence.check == "replica"
    assert (divergence.here, divergence.there) == (f"node {live.url}", f"client of {live.url}")


async def test_the_list_of_users_is_bounded(site: Site) -> None:
    """The first of them are told, and how many more there are."""
    async with httpx.AsyncClient(base_url=site.nodes[0].url) as client:
        rows = [{"global_id": n, "name": "x", "zone_id": "B"} for n in range(100, 150)]
        assert (await client.post("/users/bulk", json={"users": rows})).status_code == 201
    async with plain_client(site.nodes[0].ws_url, "zone:B"):
        await site.write_by_hand("UPDATE users SET name = 'y' WHERE zone_id = 'B'")
        report = await site.verify()
    (divergence,) = report.divergences["B"]
    assert (len(divergence.users), divergence.more) == (20, 31)
    assert "  and 31 more users" in lines_of(report)


async def test_nodes_of_different_databases_are_told_apart(
    site: Site, postgres_url: str, make_settings: MakeSettings
) -> None:
    """They never come to one position."""
    async with AsyncExitStack() as stack:
        other = await started(stack, 1, make_settings(database_url=postgres_url))
        divergence = await Site([*site.nodes, *other.nodes], site.ids).found("A")
        assert divergence.check == "position"
        assert divergence.here == f"client of {other.nodes[0].url}"


async def test_a_zone_of_only_one_database_is_told(
    site: Site, postgres_url: str, make_settings: MakeSettings
) -> None:
    """Whoever is asked first."""
    async with AsyncExitStack() as stack:
        other = await started(stack, 1, make_settings(database_url=postgres_url))
        async with httpx.AsyncClient(base_url=site.nodes[0].url) as client:
            assert (await client.post("/zones", json={"zone_id": "C", "name": "C"})).is_success
        for nodes in ([*site.nodes, *other.nodes], [*other.nodes, *site.nodes]):
            divergence = await Site(nodes, site.ids).found("C")
            assert divergence.check == "existence"


async def test_a_node_that_does_not_answer_is_an_error(site: Site) -> None:
    """It names the address."""
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(VerifyError, match=url):
        await Verification([site.nodes[0].url, url], [], lambda _report, _total: None).run()


async def test_what_is_no_zonecast_is_an_error() -> None:
    """Whatever it answers."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(VerifyError, match="cannot watch"):
            await Verification([url], ["A"], lambda _report, _total: None).run()


async def test_a_zone_that_is_not_there_is_not_called_equal(site: Site) -> None:
    """Somebody named it, so it was expected."""
    report = await site.verify("nowhere", "A")
    assert exit_code(report) == UNANSWERED
    assert lines_of(report) == [
        "nowhere  not compared: there is no such zone",
        "2 zones: 1 equal, 1 not compared",
    ]


async def test_a_zone_too_large_to_be_sent_is_said_to_be_unchecked(
    sqlite_url: str, make_settings: MakeSettings
) -> None:
    """Neither equal nor different."""
    settings = make_settings(database_url=sqlite_url, snapshot_max_bytes=1)
    async with AsyncExitStack() as stack:
        site = await started(stack, 1, settings)
        report = await site.verify("A")
    assert exit_code(report) == UNANSWERED
    assert lines_of(report)[0] == (
        "A  not compared: it is larger than the service sends in one piece"
    )


async def test_progress_is_told_after_each_zone(site: Site) -> None:
    """With how many there are."""
    told: list[tuple[int, int]] = []
    urls = [live.url for live in site.nodes]
    await Verification(urls, [], lambda report, total: told.append((report.done, total))).run()
    assert told == [(1, 2), (2, 2)]
