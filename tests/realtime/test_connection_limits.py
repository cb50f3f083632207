"""Connections of one address and of one subject: counted, refused beyond, and given back once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from realtime.connections import Card, Connections, place_of
from realtime.limits import Refusal
from tests.realtime.auth.minter import Minter
from tests.realtime.auth.wire_guest import dialled, problem
from tests.realtime.conftest import LiveNode, serving, settings_of_test
from tests.realtime.sse_world import served_sse
from tests.realtime.wire_world import WireWorld, served, until

if TYPE_CHECKING:
    from realtime.connections import Connection


class Guest:
    """A connection that does nothing."""

    queued_bytes = 0
    congested = False

    def farewell(self) -> None:
        """Say nothing."""

    def abort(self) -> None:
        """Do nothing."""

    def dismiss(self, *, reconnect: bool) -> None:
        """Do nothing."""


@pytest.mark.parametrize(
    ("peer", "place"),
    [
        ("192.0.2.7:5000", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6:5000", "2001:0db8:0001:0002::/64"),
        ("2001:db8:1:2:ffff::1:5000", "2001:0db8:0001:0002::/64"),
        ("::ffff:192.0.2.7:5000", "192.0.2.7"),
        ("fe80::1%eth0:5000", "fe80:0000:0000:0000::/64"),
        ("a:b:c:5000", "a:b:c"),
        ("", ""),
    ],
)
def test_an_ipv6_client_counts_by_its_network_and_others_by_their_address(
    peer: str, place: str
) -> None:
    """Who has a /64 has more addresses than any bound."""
    assert place_of(peer) == place


def test_a_place_is_given_back_exactly_once() -> None:
    """However often the end is told, and whatever was refused."""
    connections = Connections(10, max_per_address=2)
    guests: list[Connection] = [Guest() for _ in range(4)]
    card = Card("x", "websocket", "192.0.2.7:1")
    assert [connections.admit(guest, card) for guest in guests[:3]] == [
        None,
        None,
        Refusal.ADDRESS,
    ]
    assert connections.admit(guests[3], Card("y", "websocket", "192.0.2.8:1")) is None
    connections.remove(guests[2])
    connections.remove(guests[0])
    connections.remove(guests[0])
    assert connections.admit(guests[0], card) is None
    assert connections.admit(guests[2], card) is Refusal.ADDRESS
    for guest in guests:
        connections.remove(guest)
    assert not connections._places


def test_a_subject_that_is_told_later_is_counted_once() -> None:
    """Again for the same, never; and it is free again when its connection ends."""
    connections = Connections(10, max_per_subject=1)
    first, second = Guest(), Guest()
    for guest in (first, second):
        connections.admit(guest)
    assert connections.identify(first, "ada") is None
    assert connections.identify(first, "ada") is None
    assert connections.identify(second, "ada") is Refusal.SUBJECT
    assert connections.admit(Guest(), Card("z", "sse", subject="ada")) is Refusal.SUBJECT
    connections.remove(first)
    assert connections.identify(second, "ada") is None
    connections.remove(second)
    assert not connections._subjects
    assert connections.identify(second, "ada") is None, "who is gone is not counted"
    assert not connections._subjects


def refused(world: WireWorld, limit: str) -> float | None:
    """How often a limit kept somebody out."""
    sample = world.node.metrics.registry.get_sample_value
    return sample("zonecast_limit_refusals_total", {"limit": limit})


async def test_one_websocket_too_many_of_an_address_gets_429() -> None:
    """With Retry-After, before it is one; and there is room again when one leaves."""
    async with served(max_connections_per_address=2) as world:
        async with world.talker(), world.talker():
            with pytest.raises(InvalidStatus) as caught:
                async with world.dial():
                    pass
            assert caught.value.response.status_code == 429
            assert int(caught.value.response.headers["retry-after"]) >= 1
            assert refused(world, "address") == 1
        await world.until_alone()
        async with world.talker(), world.talker():
            pass


async def test_the_address_is_the_client_s_that_a_trusted_proxy_names() -> None:
    """Those behind one proxy don't count as one; what others say of themselves doesn't count."""

    def of(address: str) -> dict[str, Any]:
        return {"additional_headers": {"X-Forwarded-For": address}}

    bound: dict[str, Any] = {"max_connections_per_address": 1}
    async with (
        served(trusted_proxies="127.0.0.1", **bound) as world,
        world.talker(**of("192.0.2.1")),
        world.talker(**of("2001:db8::1")),
    ):
        with pytest.raises(InvalidStatus):
            async with world.dial(**of("2001:db8::2")):
                pass
        async with world.talker(**of("2001:db8:0:1::2")):
            pass
    async with served(**bound) as world, world.talker(**of("192.0.2.1")):
        with pytest.raises(InvalidStatus):
            async with world.dial(**of("192.0.2.2")):
                pass


async def test_one_event_stream_too_many_of_an_address_gets_429() -> None:
    """Streams and WebSockets are counted together."""
    async with served_sse(max_connections_per_address=1) as world:
        async with world.source("A") as source, httpx.AsyncClient(trust_env=False) as client:
            await source.next("snapshot")
            answer = await client.get(f"{world.url}/sse?zone=A")
            assert answer.status_code == 429
            assert answer.json()["type"] == "/problems/too-many-connections"
            assert int(answer.headers["retry-after"]) >= 1
        await world.until_alone()
        async with world.source("A") as source:
            await source.next("snapshot")


@asynccontextmanager
async def guarded(sqlite_url: str, **given: object) -> AsyncIterator[tuple[LiveNode, Minter]]:
    """Serve a node that takes a minter's tokens."""
    minter = Minter()
    settings = settings_of_test(database_url=sqlite_url, **{**minter.settings(), **given})
    async with serving(settings) as live:
        yield live, minter


async def test_one_connection_too_many_of_a_subject_is_told_to_wait(sqlite_url: str) -> None:
    """Error 111 is temporary: SDKs come back; others come in, and so does it after one left."""
    async with guarded(sqlite_url, max_connections_per_subject=1) as (live, minter):
        ada, eve = minter.token(sub="ada"), minter.token(sub="eve")
        async with dialled(live) as second:
            async with dialled(live) as first:
                assert "connect" in await first.ask("connect", token=ada)
                reply = await second.ask("connect", token=ada)
                assert problem(reply) == 111
                assert reply["error"]["temporary"] is True
                async with dialled(live) as other:
                    assert "connect" in await other.ask("connect", token=eve)
            await until(lambda: len(live.node.connections) == 1)
            assert "connect" in await second.ask("connect", token=ada)


async def test_one_event_stream_too_many_of_a_subject_gets_429(sqlite_url: str) -> None:
    """It counts with its WebSockets; who is somebody else has a stream."""
    async with guarded(sqlite_url, max_connections_per_subject=1) as (live, minter):
        url = f"{live.url}/sse?zone=*"
        granted = {"zones": ["*"], "scope": "read"}
        ada, eve = minter.token(sub="ada", **granted), minter.header(sub="eve", **granted)
        async with dialled(live) as talker, httpx.AsyncClient(trust_env=False) as client:
            assert "connect" in await talker.ask("connect", token=ada)
            answer = await client.get(url, headers={"Authorization": f"Bearer {ada}"})
            assert answer.status_code == 429
            async with client.stream("GET", url, headers=eve) as stream:
                assert stream.status_code == 200
            await until(lambda: len(live.node.connections) == 1)


async def test_one_long_poll_too_many_of_a_subject_gets_429(sqlite_url: str) -> None:
    """It counts with its WebSockets, too."""
    async with guarded(sqlite_url, max_connections_per_subject=1) as (live, minter):
        ada = minter.token(sub="ada", zones=["*"], scope="read write")
        headers = {"Authorization": f"Bearer {ada}"}
        async with (
            dialled(live) as talker,
            httpx.AsyncClient(base_url=live.url, headers=headers, trust_env=False) as client,
        ):
            assert "connect" in await talker.ask("connect", token=ada)
            await client.post("/zones", json={"zone_id": "A", "name": "A"})
            rev = (await client.get("/zones/A/snapshot")).json()["rev"]
            query = {"since_rev": rev, "wait_s": 0.1}
            assert (await client.get("/zones/A/changes", params=query)).status_code == 429
