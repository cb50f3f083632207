"""The module that nodes serve as a screen in Node: how it is watched, and what it tells."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx

from tests.clients.screens import JavaScriptScreen

Json = dict[str, Any]
Watch = Callable[..., AbstractAsyncContextManager[JavaScriptScreen]]


def named(name: str, **fields: object) -> Callable[[list[Json]], list[Json]]:
    """Return what finds events of a name, with these fields."""

    def find(events: list[Json]) -> list[Json]:
        return [
            event
            for event in events
            if event["event"] == name and all(event.get(k) == v for k, v in fields.items())
        ]

    return find


def moved(user_id: int, zone: str) -> Callable[[Json], bool]:
    """Return what tells whether an event is a user's arrival in a zone."""
    return lambda event: (
        event["event"] == "change"
        and any(move["id"] == user_id and move.get("to") == zone for move in event["users"])
    )


async def make_zone(client: httpx.AsyncClient, zone_id: str) -> None:
    """Make a zone."""
    answer = await client.post("/zones", json={"zone_id": zone_id, "name": zone_id})
    assert answer.status_code == 201, answer.text
