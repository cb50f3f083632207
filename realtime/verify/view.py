"""The view of a client that verifies: zones over WebSocket, at every revision since it came."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from channels.changes import Change, ChannelState
from channels.names import zone_channel, zone_id_of
from channels.positions import Position
from channels.replica import Replica
from realtime.client import (
    Changed,
    Gone,
    Replaced,
    Token,
    Update,
    Watch,
    WatchError,
    WatchOptions,
    ZoneState,
    watch,
)

ANSWER_TIMEOUT_S: Final = 20.0
MAX_CHANGES: Final = 10_000
"""Changes that one view keeps; a zone that moves more while it is compared is begun anew."""
QUEUE_MAX_EVENTS: Final = 1_000_000
UNKNOWN_CHANNEL: Final = 102
LIMIT_EXCEEDED: Final = 106


class VerifyError(Exception):
    """Something needed for the verification can't be asked; one line."""


class ZoneView:
    """A zone as a client was told: a state, and the changes since.

    Attributes:
        zone_id: Which zone.
        has_ended: Whether nothing more comes, as the service or the bound ended it.
        refusal: Why there is nothing, when the subscription was refused.
    """

    def __init__(self, zone_id: str) -> None:
        self.zone_id = zone_id
        self.has_ended = False
        self.refusal: Gone | None = None
        self._base: ChannelState | None = None
        self._changes: list[Change] = []
        self._moved = asyncio.Event()

    @property
    def position(self) -> Position | None:
        """Where it is; `None`: nothing was told."""
        if self._changes:
            return self._changes[-1].position
        return None if self._base is None else self._base.position

    def begin(self, state: ZoneState) -> None:
        """Take the state; another one later ends the view, which is of one history."""
        if self._base is not None:
            self.end()
            return
        channel = zone_channel(self.zone_id)
        self._base = ChannelState(channel, state.position, state.zone, dict(state.users), {})
        self._moved.set()

    def take(self, change: Change) -> None:
        """Take a change; too many of them end the view."""
        if self._base is None or self.has_ended:
            return
        if len(self._changes) >= MAX_CHANGES:
            self.end()
            return
        self._changes.append(change)
        self._moved.set()

    def refuse(self, why: Gone) -> None:
        """Note that there is no such zone, or that it is there no longer."""
        if self._base is None:
            self.refusal = why
        self.end()

    def end(self) -> None:
        """Note that nothing more comes."""
        self.has_ended = True
        self._moved.set()

    async def begun(self, timeout_s: float) -> bool:
        """Wait until there is a state, a refusal, or the end; tell whether. Cancel-safe."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._base is None and not self.has_ended:
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            return False
        return True

    async def reach(self, positions: Iterable[Position], timeout_s: float) -> bool:
        """Wait until the view is at positions or beyond; tell whether it is. Cancel-safe."""
        wanted = list(positions)
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    at = self.position
                    if at is not None and all(at.covers(position) for position in wanted):
                        return True
                    if self.has_ended or (at is not None and at.epoch != wanted[0].epoch):
                        return False
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            return False

    def state_at(self, position: Position) -> ChannelState | None:
        """Return the state at a position that was reached; `None`: it was before this view."""
        base = self._base
        if base is None or not position.covers(base.position):
            return None
        copied = ChannelState(base.channel, base.position, base.zone, dict(base.users), {})
        replica = Replica(copied, recent_max_changes=0)
        for change in self._changes[: position.rev - base.position.rev]:
            replica.apply(change)
        return replica.state()


class ViewClient:
    """A watch of one node, whose zones are viewed for a while each.

    Args:
        url: The node's address.
        zones: The watch, entered.
    """

    def __init__(self, url: str, zones: Watch) -> None:
        self._url = url
        self._zones = zones
        self._views: dict[str, ZoneView] = {}
        self._lost: str | None = None

    async def listen(self) -> None:
        """Take what comes. Never raises: whoever views is told."""
        try:
            async for update in self._zones:
                self._take(update)
        except WatchError as error:
            self._lost = str(error)
        for view in self._views.values():
            view.end()

    def _take(self, update: Update) -> None:
        match update:
            case Replaced(states):
                for state in states:
                    if (view := self._views.get(state.zone_id)) is not None:
                        view.begin(state)
            case Changed(parts):
                for part in parts:
                    if (view := self._views.get(zone_id_of(part.channel) or "")) is not None:
                        view.take(part)
            case Gone(zone_id):
                if (view := self._views.get(zone_id)) is not None:
                    view.refuse(update)

    def check_connected(self) -> None:
        """Refuse to go on with a node that can't be watched now.

        Raises:
            VerifyError: the connection is lost.
        """
        if self._lost is not None:
            raise VerifyError(self._lost)
        if self._zones.status.state == "connecting":
            raise VerifyError(f"cannot watch {self._url}: the connection ended")

    @asynccontextmanager
    async def viewing(self, zone_id: str, minimum: Position | None) -> AsyncIterator[ZoneView]:
        """Watch a zone, from `minimum` on or later, for the time of a block.

        Raises:
            VerifyError: there was no answer, or a refusal that says nothing about the zone.
        """
        view = self._views[zone_id] = ZoneView(zone_id)
        self._zones.add(zone_id, minimum)
        try:
            has_answer = await view.begun(ANSWER_TIMEOUT_S)
            self.check_connected()
            if not has_answer:
                raise VerifyError(f"cannot watch {self._url}: no answer in time")
            why = view.refusal
            if why is not None and why.code not in {UNKNOWN_CHANNEL, LIMIT_EXCEEDED}:
                raise VerifyError(f"cannot watch {self._url}: zone {zone_id}: {why.reason}")
            yield view
        finally:
            del self._views[zone_id]
            self._zones.remove(zone_id)


@asynccontextmanager
async def view_client(
    url: str, token: Token | None, tasks: asyncio.TaskGroup
) -> AsyncIterator[ViewClient]:
    """Connect to a node for the time of a block.

    Args:
        url: Its address.
        token: What it asks for.
        tasks: Owns the listening.

    Raises:
        VerifyError: nobody answers there.
    """
    options = WatchOptions(queue_max_events=QUEUE_MAX_EVENTS)
    async with AsyncExitStack() as stack:
        try:
            zones = await stack.enter_async_context(watch(url, token=token, options=options))
        except WatchError as error:
            raise VerifyError(str(error)) from error
        client = ViewClient(url, zones)
        listening = tasks.create_task(client.listen())
        stack.callback(listening.cancel)
        yield client
