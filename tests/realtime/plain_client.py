"""A plain client of the JSON protocol that keeps every frame and materialises zones."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

Message = dict[str, Any]


class PlainClient:
    """One connection; call `connect` first, then `subscribe`.

    Attributes:
        frames: Every WebSocket message received, as its list of parsed lines.
        zones: Users by id, by channel.
        positions: `(epoch, offset)` by channel.
        unsubscribed: `(channel, code)` of unsubscribe pushes.
        states: `state` and `since` of the server's messages about staleness.
    """

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._next_id = 1
        self._replies: dict[int, asyncio.Future[Message]] = {}
        self._subscribing: dict[int, str] = {}
        self._moved = asyncio.Event()
        self.frames: list[list[Message]] = []
        self.zones: dict[str, dict[int, Message]] = {}
        self.positions: dict[str, tuple[str, int]] = {}
        self.unsubscribed: list[tuple[str, int]] = []
        self.states: list[Message] = []
        self.closed: tuple[int, str] | None = None

    async def listen(self) -> None:
        """Take what the server sends until it closes."""
        try:
            async for message in self._socket:
                lines = [json.loads(line) for line in str(message).splitlines() if line]
                self.frames.append(lines)
                for line in lines:
                    await self._take(line)
                self._moved.set()
        except ConnectionClosed:
            pass
        self.closed = (self._socket.close_code or 1006, self._socket.close_reason or "")
        self._moved.set()

    async def _take(self, line: Message) -> None:
        if not line:
            await self._socket.send("{}")
        elif "id" in line:
            channel = self._subscribing.pop(line["id"], None)
            if channel is not None and "subscribe" in line:
                # At once: the next change may follow before whoever asked goes on.
                self._begin(channel, line["subscribe"])
            self._replies.pop(line["id"]).set_result(line)
        elif "pub" in line.get("push", {}):
            self._publication(line["push"]["channel"], line["push"]["pub"])
        elif "unsubscribe" in line.get("push", {}):
            channel = line["push"]["channel"]
            self.unsubscribed.append((channel, line["push"]["unsubscribe"]["code"]))
        elif "message" in line.get("push", {}):
            self.states.append(line["push"]["message"]["data"])

    def _begin(self, channel: str, result: Message) -> None:
        if result.get("recovered"):
            for publication in result.get("publications", []):
                self._publication(channel, publication)
        else:
            users = result["data"].get("users", [])
            self.zones[channel] = {user["id"]: user for user in users}
        self.positions[channel] = (result["epoch"], result.get("offset", 0))

    def _publication(self, channel: str, publication: Message) -> None:
        epoch, offset = self.positions[channel]
        assert publication["offset"] == offset + 1, "ordered, gapless and unique"
        self.positions[channel] = (epoch, publication["offset"])
        users = self.zones[channel]
        for event in publication["data"]["events"]:
            if event["type"] in {"entered", "changed"}:
                users[event["user"]["id"]] = event["user"]
            elif event["type"] == "left":
                users.pop(event["user_id"], None)

    async def ask(self, **command: Any) -> Message:
        """Send one command and return its reply."""
        command_id, self._next_id = self._next_id, self._next_id + 1
        reply = asyncio.get_running_loop().create_future()
        self._replies[command_id] = reply
        await self._socket.send(json.dumps({"id": command_id, **command}))
        answer: Message = await reply
        return answer

    async def connect(self) -> Message:
        """Send the connect command."""
        return await self.ask(connect={})

    async def subscribe(self, channel: str, *, recover: bool = False) -> Message:
        """Subscribe, materialise, and return the reply."""
        request: Message = {"channel": channel}
        if recover:
            epoch, offset = self.positions[channel]
            request |= {"recover": True, "epoch": epoch, "offset": offset}
        self._subscribing[self._next_id] = channel
        return await self.ask(subscribe=request)

    async def until(self, condition: Callable[[PlainClient], bool]) -> None:
        """Wait, bounded by the test's own timeout, until a condition holds."""
        while not condition(self):
            assert self.closed is None, f"closed: {self.closed}"
            self._moved.clear()
            await self._moved.wait()

    async def until_closed(self) -> tuple[int, str]:
        """Wait for the end of the connection; return code and reason."""
        while self.closed is None:
            self._moved.clear()
            await self._moved.wait()
        return self.closed

    def user_ids(self, channel: str) -> set[int]:
        """Who is in a zone, as far as this client knows."""
        return set(self.zones.get(channel, ()))


@asynccontextmanager
async def plain_client(ws_url: str, *channels: str) -> AsyncIterator[PlainClient]:
    """Connect, subscribe to channels, and listen until the body ends."""
    async with connect(ws_url) as socket, asyncio.TaskGroup() as tasks:
        client = PlainClient(socket)
        listening = tasks.create_task(client.listen())
        await client.connect()
        for channel in channels:
            reply = await client.subscribe(channel)
            assert "error" not in reply, reply
        yield client
        listening.cancel()
