"""Traces: what a collector gets of a change, from the request on one node to all the others."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from db import user_crud
from realtime.worker import connect
from tests.realtime.auth.minter import Minter
from tests.realtime.conftest import LiveNode, serving
from tests.realtime.plain_client import plain_client
from tests.realtime.trace_collector import CollectedSpan, TraceCollector, collecting

if TYPE_CHECKING:
    from realtime.settings import Settings
    from tests.servers import RedisServer

CALLER = "0af7651916cd43dd8448eb211c80319c"
CALLERS_SPAN = "b7ad6b7169203331"
TRANSFER = "POST /users/{user_id}/transfer"


@pytest.fixture(autouse=True)
def _prompt_export(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")


@pytest.fixture
async def collector() -> AsyncIterator[TraceCollector]:
    """A collector of traces."""
    async with collecting() as found:
        yield found


@dataclass
class TracedNodes:
    """Two nodes with a zone A and a zone B, and a user who is in A."""

    collector: TraceCollector
    live: list[LiveNode]
    http: list[httpx.AsyncClient]
    user_id: int

    @property
    def names(self) -> list[str]:
        """The nodes' ids."""
        return [live.node.node_id for live in self.live]

    async def move(self, node: int, zone: str | None, trace: str = "") -> None:
        """Move the user through one of the nodes."""
        headers = {"traceparent": trace} if trace else {}
        path = f"/users/{self.user_id}/transfer"
        answer = await self.http[node].post(path, json={"zone_id": zone}, headers=headers)
        assert answer.status_code == 200, answer.text


@pytest.fixture
async def nodes(
    postgres_url: str,
    redis_url: str,
    make_settings: Callable[..., Settings],
    collector: TraceCollector,
) -> AsyncIterator[TracedNodes]:
    """Two traced nodes on one PostgreSQL and one Redis."""
    settings = make_settings(
        database_url=postgres_url,
        redis_url=redis_url,
        pool_size=5,
        otel_endpoint=collector.url,
        bus_message_max_bytes=4_096,
    )
    async with AsyncExitStack() as stack:
        live = [await stack.enter_async_context(serving(settings)) for _ in range(2)]
        http = [
            await stack.enter_async_context(httpx.AsyncClient(base_url=each.url)) for each in live
        ]
        for zone in "AB":
            answer = await http[0].post("/zones", json={"zone_id": zone, "name": zone})
            assert answer.status_code == 201, answer.text
        user = {"global_id": 1, "name": "Ada", "zone_id": "A"}
        answer = await http[0].post("/users", json=user)
        assert answer.status_code == 201, answer.text
        yield TracedNodes(collector, live, http, answer.json()["id"])


def is_fan_out(channel: str, node: str) -> Callable[[CollectedSpan], bool]:
    """Find what a node wrote of a channel."""

    def wanted(span: CollectedSpan) -> bool:
        is_there = span.name == "fan-out" and span.node == node
        return is_there and span.attributes["zonecast.channel"] == channel

    return wanted


async def test_a_move_is_one_trace_over_both_nodes(nodes: TracedNodes) -> None:
    """Request, transaction and publish on one, receive and fan-out on the other, in a line."""
    one, two = nodes.names
    async with plain_client(nodes.live[1].ws_url, "zone:B") as watcher:
        await nodes.move(0, "B")
        await watcher.until(lambda w: w.user_ids("zone:B") == {nodes.user_id})
        fan_out = await nodes.collector.first(is_fan_out("zone:B", two))
        await nodes.collector.until(lambda spans: any(s.name == TRANSFER for s in spans))
        trace = [s for s in nodes.collector.spans if s.trace_id == fan_out.trace_id]
    by_id = {span.span_id: span for span in trace}
    line = [fan_out]
    while line[-1].parent_id:
        line.append(by_id[line[-1].parent_id])
    assert [(span.name, span.node, span.kind) for span in reversed(line)] == [
        (TRANSFER, one, "SERVER"),
        ("transaction", one, "INTERNAL"),
        ("publish", one, "PRODUCER"),
        ("receive", two, "CONSUMER"),
        ("fan-out", two, "INTERNAL"),
    ]
    began = [span.began_ns for span in reversed(line)]
    assert began == sorted(began)
    _, receive, publish, transaction, request = line
    tx = fan_out.attributes["zonecast.tx"]
    assert {s.attributes["zonecast.tx"] for s in (receive, publish, transaction)} == {tx}
    assert fan_out.attributes["zonecast.connections"] == 1
    assert fan_out.attributes["zonecast.rev"] == receive.attributes["zonecast.rev"] == 1
    assert sorted(transaction.attributes["zonecast.channels"]) == ["zone:A", "zone:B"]
    assert transaction.attributes["zonecast.try"] == 1
    assert request.attributes == {
        "http.request.method": "POST",
        "http.route": "/users/{user_id}/transfer",
        "http.response.status_code": 200,
    }
    assert request.resource["service.name"] == "zonecast"


async def test_a_change_has_one_fan_out_however_many_watch(nodes: TracedNodes) -> None:
    """Three watchers of B on each node: a span for B there, and none for A, which nobody has."""
    async with AsyncExitStack() as stack:
        watchers = [
            await stack.enter_async_context(plain_client(live.ws_url, "zone:B"))
            for live in nodes.live * 3
        ]
        await nodes.move(0, "B")
        for watcher in watchers:
            await watcher.until(lambda w: w.user_ids("zone:B") == {nodes.user_id})
        for name in nodes.names:
            span = await nodes.collector.first(is_fan_out("zone:B", name))
            assert span.attributes["zonecast.connections"] == 3
        await nodes.move(0, None)
        await nodes.collector.until(
            lambda spans: sum(s.attributes.get("zonecast.rev") == 2 for s in spans) >= 3
        )
    fan_outs = [s for s in nodes.collector.named("fan-out") if s.attributes["zonecast.rev"] == 1]
    assert sorted(s.node for s in fan_outs) == sorted(nodes.names)
    # Redis brings a node's own messages back to it: those are no receipts.
    assert {s.node for s in nodes.collector.named("receive")} == {nodes.names[1]}


async def test_the_trace_of_who_asks_goes_on(nodes: TracedNodes) -> None:
    """With `traceparent` a request is part of its sender's trace, on all nodes."""
    async with plain_client(nodes.live[1].ws_url, "zone:B"):
        await nodes.move(0, "B", f"00-{CALLER}-{CALLERS_SPAN}-01")
        fan_out = await nodes.collector.first(is_fan_out("zone:B", nodes.names[1]))
        request = await nodes.collector.first(lambda span: span.name == TRANSFER)
    assert (request.trace_id, request.parent_id) == (CALLER, CALLERS_SPAN)
    assert fan_out.trace_id == CALLER


async def test_a_trace_that_its_beginning_does_not_record_is_recorded_nowhere(
    nodes: TracedNodes,
) -> None:
    """The sender's choice holds on the other node, too."""
    async with plain_client(nodes.live[1].ws_url, "zone:B") as watcher:
        await nodes.move(0, "B", f"00-{CALLER}-{CALLERS_SPAN}-00")
        await watcher.until(lambda w: w.user_ids("zone:B") == {nodes.user_id})
        await nodes.move(0, None, f"00-{'1' * 32}-{CALLERS_SPAN}-01")
        await nodes.collector.first(is_fan_out("zone:B", nodes.names[1]))
    assert CALLER not in {span.trace_id for span in nodes.collector.spans}


@pytest.mark.parametrize("trace", ["rubbish", "0" * 5_000, f"00-{'0' * 32}-{CALLERS_SPAN}-01"])
async def test_what_is_no_trace_is_ignored(nodes: TracedNodes, trace: str) -> None:
    """A request whose `traceparent` can't be read begins a trace of its own."""
    await nodes.move(0, "B", trace)
    request = await nodes.collector.first(lambda span: span.name == TRANSFER)
    assert request.parent_id == ""


async def test_a_change_that_is_too_large_for_the_bus_stays_in_its_trace(
    nodes: TracedNodes,
) -> None:
    """Only its position is received, and the rest read from the log."""
    user = {"name": "Ada", "attributes": {"note": "x" * 8_000}}
    async with plain_client(nodes.live[1].ws_url, "zone:A"):
        answer = await nodes.http[0].patch(f"/users/{nodes.user_id}", json=user)
        assert answer.status_code == 200, answer.text
        fan_out = await nodes.collector.first(is_fan_out("zone:A", nodes.names[1]))
        receive = await nodes.collector.first(lambda span: span.name == "receive")
    assert (fan_out.trace_id, fan_out.parent_id) == (receive.trace_id, receive.span_id)


async def test_each_try_of_a_transaction_is_told(nodes: TracedNodes) -> None:
    """One that loses a race is an error without words; the next one has its number."""
    database = nodes.live[0].node.database
    tries: list[int] = []

    async def work(session: AsyncSession) -> None:
        user = await user_crud.get_user_by_id(session, nodes.user_id)
        assert user is not None
        tries.append(len(tries) + 1)
        if len(tries) == 1:
            await nodes.move(1, "B")
        user.name = f"try {len(tries)}"

    await database.run_transaction(work)
    second = await nodes.collector.first(lambda s: s.attributes.get("zonecast.try") == 2)
    (lost,) = [s for s in nodes.collector.named("transaction") if s.is_error]
    assert lost.attributes == {"zonecast.try": 1, "error.type": "ConflictError"}
    assert (second.node, second.is_error) == (nodes.names[0], False)
    assert second.attributes["zonecast.channels"] == ["zone:B"]


async def test_a_publication_that_fails_is_an_error_of_the_change(
    postgres_url: str,
    own_redis: RedisServer,
    make_settings: Callable[..., Settings],
    collector: TraceCollector,
) -> None:
    """With Redis gone the trace of a change tells why other nodes get it late."""
    settings = make_settings(
        database_url=postgres_url, redis_url=own_redis.url, otel_endpoint=collector.url
    )
    async with serving(settings) as live, httpx.AsyncClient(base_url=live.url) as http:
        await own_redis.stop()
        assert (await http.post("/zones", json={"zone_id": "A", "name": "A"})).status_code == 201
        publish = await collector.first(lambda span: span.name == "publish")
        transaction = await collector.first(lambda span: span.name == "transaction")
    assert publish.is_error
    assert publish.attributes["error.type"] == "UnavailableError"
    assert publish.parent_id == transaction.span_id


async def test_writes_of_your_own_code_are_traced(
    nodes: TracedNodes, postgres_url: str, redis_url: str, make_settings: Callable[..., Settings]
) -> None:
    """A process that only writes begins traces that nodes go on with."""
    settings = make_settings(
        database_url=postgres_url, redis_url=redis_url, otel_endpoint=nodes.collector.url
    )

    async def work(session: AsyncSession) -> None:
        await user_crud.transfer_user_to_zone(session, nodes.user_id, "B")

    async with plain_client(nodes.live[1].ws_url, "zone:B"):
        async with connect(settings) as database:
            await database.run_transaction(work)
        fan_out = await nodes.collector.first(is_fan_out("zone:B", nodes.names[1]))
        trace = [s for s in nodes.collector.spans if s.trace_id == fan_out.trace_id]
    written = {s.name for s in trace if s.node.startswith("worker-")}
    assert written == {"transaction", "publish"}


async def test_no_token_query_or_user_reaches_the_collector(
    sqlite_url: str,
    make_settings: Callable[..., Settings],
    collector: TraceCollector,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither by what is asked for nor by errors; FastAPI's own spans, which would, stay off."""
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    minter = Minter()
    given = {"token_in_query": True, "database_url": sqlite_url, **minter.settings()}
    settings = make_settings(**given, otel_endpoint=collector.url)
    token = minter.token(zones=["*"], scope="read write", sub="sub-of-ada")
    async with serving(settings) as live, httpx.AsyncClient(base_url=live.url) as http:
        allowed = {"Authorization": f"Bearer {token}"}
        zone = {"zone_id": "A", "name": "A"}
        assert (await http.post("/zones", json=zone, headers=allowed)).status_code == 201
        ticket = (await http.post("/tickets", headers=allowed)).json()["ticket"]
        user = {"global_id": 987654321, "name": "Augusta", "zone_id": "A"}
        made = await http.post("/users", json=user, headers=allowed)
        for path in (
            f"/users/{made.json()['id']}?access_token={token}",
            f"/users/{made.json()['id']}?access_token={token}x",
            f"/users?global_id=987654321&access_token={token}",
            f"/nowhere/{ticket}?access_token={token}",
            f"/sse?zone=A&ticket={ticket}",
        ):
            async with http.stream("GET", path) as answer:
                assert answer.status_code in {200, 401, 404}, path
        await http.post("/users", json=user, headers=allowed)  # Refused: she is there.
        names = {"GET /users/{user_id}", "GET /sse", "POST /tickets", "POST /users", "GET"}
        await collector.until(lambda spans: names <= {s.name for s in spans})
    sent = b"".join(collector.bodies)
    for secret in (token, ticket, "sub-of-ada", "Augusta", "987654321", "access_token"):
        assert secret.encode() not in sent, secret
    assert not re.search(rb"/users/\d", sent)
    assert {span.node for span in collector.spans} == {live.node.node_id}


async def test_probes_and_figures_are_not_traced(
    sqlite_url: str, make_settings: Callable[..., Settings], collector: TraceCollector
) -> None:
    """What machines ask every few seconds would drown the rest."""
    settings = make_settings(database_url=sqlite_url, otel_endpoint=collector.url)
    async with serving(settings) as live, httpx.AsyncClient(base_url=live.url) as http:
        for path in ("/healthz", "/readyz", "/metrics", "/users-dict"):
            assert (await http.get(path)).status_code == 200
        await collector.first(lambda span: span.name == "GET /users-dict")
    assert [span.name for span in collector.spans] == ["GET /users-dict"]
