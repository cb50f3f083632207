"""Health over HTTP: whether the process lives, whether it should get traffic, what it counts."""

from __future__ import annotations

import asyncio
from typing import Final

from fastapi import Request, Response
from prometheus_client.exposition import choose_encoder
from starlette.responses import PlainTextResponse

from channels.ports import BusState, UnavailableError
from db import migrate
from realtime.api.answers import json_response
from realtime.api.guard import known_principal
from realtime.api.problems import Kind, ProblemError
from realtime.api.routes import new_router
from realtime.auth.policy import Action
from realtime.node import Node, node_of
from realtime.node_figures import count_queued_bytes, describe_node

PROBE_TIMEOUT_S: Final = 2
"""How long `/readyz` waits for the database: load balancers give up soon after."""

router = new_router("operation")


@router.get("/healthz")
async def read_health(request: Request) -> Response:
    """200 while the process answers at all; no other part of the service is asked."""
    details = {"node": node_of(request).node_id} if await _shows_details(request) else {}
    return json_response({"status": "alive", **details})


@router.get("/readyz")
async def read_readiness(request: Request) -> Response:
    """200 when the node should get traffic, else 503 with the reasons.

    Without its bus a node still serves, later than others; who can choose takes another one.
    """
    node = node_of(request)
    reasons = await find_reasons(node)
    shows_details = await _shows_details(request)
    if reasons and not shows_details:
        raise ProblemError(Kind.NOT_READY, "the reasons are for tokens with scope admin")
    if reasons:
        raise ProblemError(Kind.NOT_READY, "; ".join(reasons), {"reasons": reasons})
    details = {"node": node.node_id} if shows_details else {}
    return json_response({"status": "ready", **details})


async def _shows_details(request: Request) -> bool:
    """Tell whether who asks may know how the node is, and which one it is."""
    policy = node_of(request).gate.policy
    principal = await known_principal(request)
    return principal is not None and policy.allows(principal, Action.READ_HEALTH_DETAILS)


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
    reasons += node.gate.unready_reasons()
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


@router.get(
    "/metrics",
    response_class=PlainTextResponse,
    responses={200: {"content": {"application/openmetrics-text": {"schema": {"type": "string"}}}}},
)
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
