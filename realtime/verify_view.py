"""The view of a client that verifies: zones over WebSocket, at every revision since it came."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from channels.changes import Change, ChannelState
from channels.names import zone_channel, zone_id_of
from channels.positions import Position
from channels.replica import Replica
from realtime.watch_stream import CONNECT_TIMEOUT_S, MAX_MESSAGE_BYTES, is_loopback, websocket_url
from realtime.watched_zone import ErrorReply, Publication, ServerMessage, SubscribeReply

ANSWER_TIMEOUT_S: Final = 20.0
MAX_CHANGES: Final = 10_000
"""Changes that one view keeps; a zone that moves more while it is compared is begun anew."""
UNKNOWN_CHANNEL: Final = 102
LIMIT_EXCEEDED: Final = 106

_decoder: Final = msgspec.json.Decoder(ServerMessage)


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
        self.refusal: ErrorReply | None = None
        self._base: ChannelState | None = None
        self._changes: list[Change] = []
        self._moved = asyncio.Event()

    @property
    def position(self) -> Position | None:
        """Where it is; `None`: nothing was told."""
        if self._changes:
            return self._changes[-1].position
        return None if self._base is None else self._base.position

    def begin(self, reply: SubscribeReply) -> None:
        """Take the state."""
        body = reply.data
        if body is None or (body.epoch, body.rev) != (reply.epoch, reply.offset):
            self.end()
            return
        users = {user.id: user for user in body.users}
        position = Position(body.epoch, body.rev)
        self._base = ChannelState(zone_channel(self.zone_id), position, body.zone, users, {})
        self._moved.set()

    def take(self, publication: Publication) -> None:
        """Take a change; one that doesn't follow is a fault of the service, and ends the view."""
        at = self.position
        if at is None or publication.offset != at.rev + 1 or len(self._changes) >= MAX_CHANGES:
            self.end()
            return
        data = publication.data
        position = Position(at.epoch, publication.offset)
        channel = zone_channel(self.zone_id)
        self._changes.append(
            Change.of_events(channel, position, data.tx, publication.time, data.events)
        )
        self._moved.set()

    def end(self) -> None:
        """Note that nothing more comes."""
        self.has_ended = True
        self._moved.set()

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
    """One connection to one node. Its listening never raises: whoever asks is told.

    Args:
        url: The node's address.
        socket: Connected.
    """

    def __init__(self, url: str, socket: ClientConnection) -> None:
        self._url = url
        self._socket = socket
        self._next_id = 0
        self._replies: dict[int, asyncio.Future[ServerMessage]] = {}
        self._views: dict[str, ZoneView] = {}
        self._beginning: dict[int, ZoneView] = {}
        self._lost: str | None = None

    async def listen(self) -> None:
        """Take what comes until the connection ends."""
        reason = "the connection ended"
        try:
            while True:
                for message in _decoder.decode_lines(await self._socket.recv(decode=False)):
                    if message == ServerMessage():
                        await self._socket.send(b"{}", text=True)
                    else:
                        self._take(message)
        except (ConnectionClosed, OSError) as error:
            reason = str(error) or reason
        except msgspec.DecodeError:
            reason = "what answers is no Zonecast"
        self._lost = reason
        for view in self._views.values():
            view.end()
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(self._error(reason))

    def _error(self, reason: str) -> VerifyError:
        return VerifyError(f"cannot watch {self._url}: {reason}")

    def _take(self, message: ServerMessage) -> None:
        push = message.push
        if push is not None:
            view = self._views.get(zone_id_of(push.channel) or "")
            if view is not None and push.pub is not None:
                view.take(push.pub)
            elif view is not None and push.unsubscribe is not None:
                view.end()
            return
        # Before the changes that follow in the same message.
        beginning = self._beginning.pop(message.id, None)
        if beginning is not None and message.subscribe is not None:
            beginning.begin(message.subscribe)
        reply = self._replies.pop(message.id, None)
        if reply is not None and not reply.done():
            reply.set_result(message)

    async def ask(
        self, method: str, params: dict[str, object], view: ZoneView | None = None
    ) -> ServerMessage:
        """Send a command and return its reply.

        Raises:
            VerifyError: there was none.
        """
        if self._lost is not None:
            raise self._error(self._lost)
        self._next_id += 1
        command_id = self._next_id
        reply = asyncio.get_running_loop().create_future()
        self._replies[command_id] = reply
        if view is not None:
            self._beginning[command_id] = view
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                command = msgspec.json.encode({"id": command_id, method: params})
                await self._socket.send(command, text=True)
                answer: ServerMessage = await reply
                return answer
        except (TimeoutError, ConnectionClosed) as error:
            raise self._error(str(error) or "no answer in time") from error
        finally:
            self._replies.pop(command_id, None)
            self._beginning.pop(command_id, None)

    @asynccontextmanager
    async def viewing(self, zone_id: str, minimum: Position | None) -> AsyncIterator[ZoneView]:
        """Subscribe to a zone, at `minimum` or later, for the time of a block.

        Raises:
            VerifyError: there was no answer, or a refusal that says nothing about the zone.
        """
        view = self._views[zone_id] = ZoneView(zone_id)
        params: dict[str, object] = {"channel": zone_channel(zone_id)}
        if minimum is not None:
            params["data"] = {"min": str(minimum)}
        try:
            reply = await self.ask("subscribe", params, view)
            view.refusal = reply.error
            if reply.error is not None and reply.error.code not in {
                UNKNOWN_CHANNEL,
                LIMIT_EXCEEDED,
            }:
                raise self._error(f"zone {zone_id}: {reply.error.message}")
            yield view
            if not view.has_ended and view.refusal is None:
                await self.ask("unsubscribe", {"channel": zone_channel(zone_id)})
        finally:
            del self._views[zone_id]


@asynccontextmanager
async def view_client(url: str, tasks: asyncio.TaskGroup) -> AsyncIterator[ViewClient]:
    """Connect to a node for the time of a block.

    Args:
        url: Its address.
        tasks: Owns the listening.

    Raises:
        VerifyError: nobody answers there.
    """
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            socket = await connect(
                websocket_url(url),
                compression=None,
                ping_interval=None,
                max_size=MAX_MESSAGE_BYTES,
                close_timeout=1,
                proxy=None if is_loopback(url) else True,
            )
    except (OSError, TimeoutError, InvalidHandshake, InvalidURI) as error:
        raise VerifyError(f"cannot watch {url}: {str(error) or 'no answer'}") from error
    client = ViewClient(url, socket)
    listening = tasks.create_task(client.listen())
    try:
        await client.ask("connect", {})
        yield client
    finally:
        listening.cancel()
        await socket.close()
