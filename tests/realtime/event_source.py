"""An event source for tests: reads a stream event by event, as the HTML standard has it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

Json = dict[str, Any]


@dataclass(frozen=True)
class StreamEvent:
    """One dispatched event."""

    name: str
    data: Json


class StreamEndedError(Exception):
    """The server ended the stream."""


@dataclass
class EventSource:
    """One stream.

    Attributes:
        response: The answer's head.
        last_id: The last `id:` seen.
        retry_ms: The last `retry:` seen.
        comments: How many comment lines were seen.
    """

    response: httpx.Response
    lines: AsyncIterator[str]
    last_id: str = ""
    retry_ms: int | None = None
    comments: int = 0
    _fields: dict[str, str] = field(default_factory=dict)

    async def event(self) -> StreamEvent:
        """Return the next event.

        Raises:
            StreamEndedError: there is none.
        """
        name, data = "message", ""
        async for line in self.lines:
            key, _, value = line.partition(": ")
            if not line:
                if data:
                    return StreamEvent(name, json.loads(data))
                name = "message"
            elif key == "":
                self.comments += 1
            elif key == "event":
                name = value
            elif key == "data":
                data += value
            elif key == "id":
                self.last_id = value
            elif key == "retry":
                self.retry_ms = int(value)
        raise StreamEndedError

    async def next(self, name: str) -> Json:
        """Return the data of the next event, which has this name; `status` is passed over."""
        event = await self.event()
        while event.name == "status" and name != "status":
            event = await self.event()
        assert event.name == name, f"{event.name}: {event.data}"
        return event.data


@asynccontextmanager
async def event_source(
    url: str,
    *zones: str,
    since: str | None = None,
    last_event_id: str | None = None,
    minima: Sequence[str] = (),
    headers: Mapping[str, str] | None = None,
    query: Mapping[str, str] | None = None,
) -> AsyncIterator[EventSource]:
    """Open a stream at `url`, which is a node's address."""
    params: list[tuple[str, str | int | float | bool | None]] = [("zone", zone) for zone in zones]
    params += [("min", minimum) for minimum in minima]
    if since is not None:
        params.append(("since", since))
    params += (query or {}).items()
    headers = dict(headers or {})
    if last_event_id is not None:
        headers["Last-Event-ID"] = last_event_id
    async with (
        httpx.AsyncClient(timeout=30, trust_env=False) as client,
        client.stream("GET", f"{url}/sse", params=params, headers=headers) as response,
    ):
        if response.status_code != 200:
            await response.aread()
        yield EventSource(response, response.aiter_lines())
