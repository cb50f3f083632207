"""Health over HTTP: whether the process lives, whether it should get traffic, what it counts."""

from __future__ import annotations

import asyncio
from typing import Final

from fastapi import Request, Response
from prometheus_client.exposition import choose_encoder

from channels.ports import BusState, UnavailableError
from db import migrate
from realtime.api.answers import json_response
from realtime.api.problems import Kind, ProblemError
from realtime.api.routes import new_router
from realtime.node import Node, node_of
from realtime.node_figures import count_queued_bytes, describe_node

PROBE_TIMEOUT_S: Final = 2
"""How long `/readyz` waits for the database: load balancers give up soon after."""

router = new_router("operation")


@router.get("/healthz")
async def read_health(request: Request) -> Response:
    """200 while the process answers at all; no other part of the service is asked."""
    return json_response({"status": "alive", "node": node_of(request).node_id})


@router.get("/readyz")
async def read_readiness(request: Request) -> Response:
    """200 when the node should get traffic, else 503 with the reasons.

    Without its bus a node still serves, later than others; who can choose takes another one.
    """
    node = node_of(request)
    reasons = await find_reasons(node)
    if reasons:
        raise ProblemError(Kind.NOT_READY, "; ".join(reasons), {"reasons": reasons})
    return json_response({"status": "ready", "node": node.node_id})


async def find_reasons(node: Node) -> list[str]:
    """Tell why the node should get no traffic; nothing: it is ready. Bounded in time."""
    reasons: list[str] = []
    if node.connections.stopping:
        reasons.append("the node is stopping")
    reason = await _ask_database(node)
    if reason is not None:
        reasons.append(reason)
    if node.bus.state is not BusState.LIVE:
        reasons.append(f"the bus is {node.bus.state.value}")
    since_ms = node.feed.stale_since_ms
    if since_ms is not None:
        reasons.append(f"changes could not be verified since {since_ms} (Unix ms)")
    return reasons


async def _ask_database(node: Node) -> str | None:
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            needed = await migrate.head_revision()
            # On the reserved connection: that all others are in use is no reason to send
            # everybody elsewhere, and a question given up costs no time on it.
            found = await node.change_log.read_revision()
    except UnavailableError:
        return "the database cannot be asked"
    except TimeoutError:
        return f"the database did not answer within {PROBE_TIMEOUT_S} s"
    if found != needed:
        return f"the database is at revision {found}, this release needs {needed}"
    return None


@router.get("/metrics")
async def read_metrics(request: Request) -> Response:
    """What the node counts, in Prometheus form."""
    node = node_of(request)
    queued_bytes = await count_queued_bytes(node.connections)
    node.metrics.take_node_figures(describe_node(node, queued_bytes))
    node.metrics.take_cache_figures(node.cache.get_stats())
    encode, media_type = choose_encoder(request.headers.get("accept", ""))
    # In a thread: the figures of the process are read from files.
    body = await asyncio.to_thread(encode, node.metrics.registry)
    return Response(body, media_type=media_type, headers={"Cache-Control": "no-store"})
