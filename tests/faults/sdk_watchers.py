"""Watchers that are the official SDKs: recorded is what they hand to an application."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import msgspec
from centrifuge import (  # type: ignore[import-untyped]  # it ships no types
    Client,
    ClientEventHandler,
    ConnectedContext,
    ConnectingContext,
    DisconnectedContext,
    PublicationContext,
    SubscribedContext,
    SubscribingContext,
    SubscriptionEventHandler,
    UnsubscribedContext,
)

from tests.faults.gate import Gate
from tests.faults.history import (
    ClientRecorder,
    Closed,
    Item,
    Json,
    Opened,
    Recorder,
    Subscribed,
    Unsubscribed,
)
from tests.faults.watchers import ABNORMAL, Watcher

FOLDER = Path(__file__).parent
LINE_MAX_BYTES = 2**24


def subscribed(channel: str, epoch: str, rev: int, data: object) -> Subscribed:
    """Make the item; without data the SDK hands on what was missed as publications."""
    if data is None:
        return Subscribed(channel, epoch, rev, missed=None)
    return Subscribed(channel, epoch, rev, state=msgspec.json.encode(data))


class _Subscription(SubscriptionEventHandler):  # type: ignore[misc]  # untyped
    def __init__(self, watcher: PythonWatcher, channel: str) -> None:
        self._watcher = watcher
        self._channel = channel
        self._record: ClientRecorder = watcher.record

    async def on_subscribed(self, ctx: SubscribedContext) -> None:
        position = ctx.stream_position
        data = None if ctx.recovered else ctx.data
        self._record.frame([subscribed(self._channel, position.epoch, position.offset, data)])

    async def on_publication(self, ctx: PublicationContext) -> None:
        data = ctx.pub.data
        events = msgspec.json.encode(data["events"])
        item = self._record.published(self._channel, ctx.pub.offset, data["tx"], events)
        self._record.frame([item])

    async def on_subscribing(self, ctx: SubscribingContext) -> None:
        self._record.frame([Unsubscribed(self._channel, int(ctx.code))])

    async def on_unsubscribed(self, ctx: UnsubscribedContext) -> None:
        self._record.frame([Unsubscribed(self._channel, int(ctx.code))])
        if self._watcher.wanted is not None:
            self._watcher.wanted.discard(self._channel)


class _Connection(ClientEventHandler):  # type: ignore[misc]  # untyped
    def __init__(self, watcher: PythonWatcher) -> None:
        self._watcher = watcher

    async def on_connected(self, _ctx: ConnectedContext) -> None:
        self._watcher.record.frame([Opened(self._watcher.gate.node)])

    async def on_connecting(self, ctx: ConnectingContext) -> None:
        self._watcher.record.frame([Closed(int(ctx.code))])

    async def on_disconnected(self, ctx: DisconnectedContext) -> None:
        self._watcher.record.frame([Closed(int(ctx.code))])


class PythonWatcher(Watcher):
    """The official Python SDK."""

    make = "python"
    shows_frames = False

    def __init__(
        self, name: str, recorder: Recorder, gate: Gate, random: Random, wanted: set[str]
    ) -> None:
        super().__init__(name, recorder, gate, random, wanted)
        self._client: Any = None

    async def run(self) -> None:
        """Watch until cancelled."""
        self._client = Client(
            f"ws://127.0.0.1:{self.gate.port}/connection/websocket",
            _Connection(self),
            min_reconnect_delay=0.02,
            max_reconnect_delay=0.3,
            max_server_ping_delay=2.0,
            timeout=3.0,
            proxy=None,
        )
        try:
            for channel in sorted(self.wanted or ()):
                subscription = self._client.new_subscription(
                    channel,
                    _Subscription(self, channel),
                    min_resubscribe_delay=0.05,
                    max_resubscribe_delay=0.4,
                )
                await subscription.subscribe()
            await self._client.connect()
            await asyncio.Event().wait()
        finally:
            await self._client.disconnect()

    async def sleep(self) -> None:
        """Disconnect."""
        await self._client.disconnect()

    async def wake(self) -> None:
        """Connect again."""
        await self._client.connect()


class JavaScriptWatcher(Watcher):
    """The official JavaScript SDK, in a process that it shares with others."""

    make = "javascript"
    shows_frames = False

    def __init__(
        self, name: str, recorder: Recorder, gate: Gate, random: Random, wanted: set[str]
    ) -> None:
        super().__init__(name, recorder, gate, random, wanted)
        self._process: JavaScript | None = None

    def join(self, process: JavaScript) -> None:
        """Say which process runs it."""
        self._process = process
        process.watchers[self.name] = self

    def _say(self, what: str, **more: object) -> None:
        assert self._process is not None
        self._process.say({"do": what, "client": self.name, **more})

    async def run(self) -> None:
        """Watch until cancelled."""
        url = f"ws://127.0.0.1:{self.gate.port}/connection/websocket"
        self._say("open", url=url, channels=sorted(self.wanted or ()))
        try:
            await asyncio.Event().wait()
        finally:
            self._say("sleep")

    async def sleep(self) -> None:
        """Disconnect."""
        self._say("sleep")

    async def wake(self) -> None:
        """Connect again."""
        self._say("wake")

    def take(self, message: Json) -> None:
        """Record what the SDK said."""
        item = self._item(message)
        if item is not None:
            self.record.frame([item])

    def _item(self, message: Json) -> Item | None:
        channel = message.get("channel", "")
        item: Item | None = None
        match message["event"]:
            case "connected":
                item = Opened(self.gate.node)
            case "closed":
                item = Closed(int(message.get("code", ABNORMAL)))
            case "subscribed":
                item = subscribed(channel, message["epoch"], message["rev"], message["data"])
            case "publication":
                events = msgspec.json.encode(message["events"])
                item = self.record.published(channel, message["rev"], message["tx"], events)
            case "message":
                item = self.record.told(message["data"])
            case "unsubscribed":
                if message.get("final") and self.wanted is not None:
                    self.wanted.discard(channel)
                item = Unsubscribed(channel, int(message["code"]))
        return item


class JavaScript:
    """A Node process that runs watchers.

    Attributes:
        watchers: By name.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.watchers: dict[str, JavaScriptWatcher] = {}
        self._process = process

    def say(self, command: Json) -> None:
        """Send a command."""
        assert self._process.stdin is not None
        if not self._process.stdin.is_closing():
            self._process.stdin.write(msgspec.json.encode(command) + b"\n")

    async def listen(self) -> None:
        """Hand on what the process says until it ends."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            message = msgspec.json.decode(line)
            self.watchers[message["client"]].take(message)


@asynccontextmanager
async def running_javascript(node: Path) -> AsyncIterator[JavaScript]:
    """Run a Node process until the body ends; its package lies with the other clients."""
    packages = FOLDER.parent / "clients"
    program = await asyncio.to_thread((FOLDER / "sdk_recorder.mjs").read_text)
    process = await asyncio.create_subprocess_exec(
        node,
        "--input-type=module",
        "--eval",
        program,
        cwd=packages,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "NO_COLOR": "1"},
        limit=LINE_MAX_BYTES,
    )
    javascript = JavaScript(process)
    async with asyncio.TaskGroup() as tasks:
        listening = tasks.create_task(javascript.listen())
        try:
            yield javascript
        finally:
            assert process.stdin is not None
            process.stdin.close()
            await process.wait()
            await listening
