"""The watch stream: a WebSocket client of ours, which keeps zones materialised.

It speaks the protocol of `docs/protocol.md` in JSON, reconnects with back-off, resumes from
its positions and merges by revision.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import Final, Protocol
from urllib.parse import urlsplit, urlunsplit

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from channels.changes import Change
from channels.names import zone_channel, zone_id_of
from channels.positions import Position
from realtime.watched_zone import (
    ErrorReply,
    LostChangesError,
    Publication,
    ServerMessage,
    SubscribeReply,
    UnsubscribePush,
    WatchedZone,
)

BACKOFF_MIN_S: Final = 0.1
BACKOFF_MAX_S: Final = 5.0
CONNECT_TIMEOUT_S: Final = 10.0
SILENCE_S: Final = 10.0
"""How long after an expected ping the connection counts as dead."""
MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
COMMANDS_PER_MESSAGE: Final = 200
RESUBSCRIBE_S: Final = 0.5

_decoder: Final = msgspec.json.Decoder(ServerMessage)


class WatchError(Exception):
    """The service can't be watched; one line."""


class WatchListener(Protocol):
    """Who is told what a stream brings. No method awaits or raises."""

    def on_snapshot(self, zone: WatchedZone) -> None:
        """Learn a zone's state."""

    def on_recovered(self, zone: WatchedZone) -> None:
        """Learn that a zone goes on from its position; the missed changes follow."""

    def on_changes(self, changes: list[Change]) -> None:
        """Learn what one transaction did to the watched zones, which have moved on."""

    def on_status(self, state: str, since_ms: int | None) -> None:
        """Learn how the picture is: live, stale, connecting."""

    def on_gone(self, zone: WatchedZone) -> None:
        """Learn that a zone was deleted."""


def websocket_url(url: str) -> str:
    """Return where the WebSocket of a service at `http(s)://host[:port]` is.

    Raises:
        WatchError: the URL is no such address.
    """
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}.get(parts.scheme)
    if scheme is None or not parts.hostname:
        raise WatchError(f"not an address like http://127.0.0.1:8000: {url}")
    path = parts.path.rstrip("/") + "/connection/websocket"
    return urlunsplit((scheme, parts.netloc, path, "", ""))


def is_loopback(url: str) -> bool:
    """Tell whether a URL is on this machine, where no proxy is to be asked."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class WatchStream:
    """Zones, kept as they are in the service for as long as `run` runs.

    Args:
        url: The service's address, `http://host:port`.
        zone_ids: What to watch from the beginning.
        listener: Told of everything.

    Attributes:
        zones: The materialised zones by id.
    """

    def __init__(self, url: str, zone_ids: Iterable[str], listener: WatchListener) -> None:
        self._url = websocket_url(url)
        self._listener = listener
        self.zones: dict[str, WatchedZone] = {}
        self._unsent: dict[str, None] = {}
        self._pending: dict[int, str] = {}
        self._next_id = 1
        self._has_unsent = asyncio.Event()
        self._moved = asyncio.Event()
        self._was_connected = False
        self._ping_interval_s = 25.0
        for zone_id in zone_ids:
            self.add(zone_id)

    def add(self, zone_id: str) -> None:
        """Watch one more zone; one that is watched already stays as it is."""
        if zone_id not in self.zones:
            self.zones[zone_id] = WatchedZone(zone_id)
            self._subscribe(zone_id)

    def _subscribe(self, zone_id: str) -> None:
        self._unsent[zone_id] = None
        self._has_unsent.set()

    async def wait_for(self, positions: Mapping[str, Position], timeout_s: float) -> bool:
        """Wait until zones are at positions or later; tell whether they are. Cancel-safe."""
        try:
            async with asyncio.timeout(timeout_s):
                while not all(self._covers(*item) for item in positions.items()):
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            return False
        return True

    def _covers(self, zone_id: str, position: Position) -> bool:
        zone = self.zones.get(zone_id)
        return zone is not None and zone.position is not None and zone.position.covers(position)

    async def run(self) -> None:
        """Keep the zones until cancelled.

        Raises:
            WatchError: the service refuses for good, a zone doesn't exist, or nothing
                answered the first time.
        """
        loop = asyncio.get_running_loop()
        backoff_s = BACKOFF_MIN_S
        while True:
            began_s = loop.time()
            self._listener.on_status("connecting", None)
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    socket = await connect(
                        self._url,
                        compression=None,
                        ping_interval=None,
                        max_size=MAX_MESSAGE_BYTES,
                        close_timeout=1,
                        proxy=None if is_loopback(self._url) else True,
                    )
                self._was_connected = True
                try:
                    await self._converse(socket)
                finally:
                    await socket.close()
            except (OSError, TimeoutError, InvalidHandshake, InvalidURI, ConnectionClosed) as error:
                self._check_final(error)
            except LostChangesError:
                pass
            if loop.time() - began_s > BACKOFF_MAX_S:
                backoff_s = BACKOFF_MIN_S
            await asyncio.sleep(backoff_s * random.uniform(0.5, 1))  # noqa: S311 - no secret.
            backoff_s = min(BACKOFF_MAX_S, backoff_s * 2)

    def _check_final(self, error: Exception) -> None:
        """Raise `WatchError` when trying again will not help."""
        if isinstance(error, ConnectionClosed) and error.rcvd and 3500 <= error.rcvd.code < 4000:
            raise WatchError(f"the service closed the connection: {error.rcvd.reason}") from error
        refused = isinstance(error, InvalidStatus) and error.response.status_code < 500
        if refused or not self._was_connected:
            raise WatchError(f"cannot watch {self._url}: {str(error) or 'no answer'}") from error

    async def _converse(self, socket: ClientConnection) -> None:
        """Serve one connection until it ends, by an exception."""
        self._pending.clear()
        self._unsent = {zone.zone_id: None for zone in self.zones.values() if not zone.is_gone}
        self._has_unsent.set()
        await socket.send(b'{"id":%d,"connect":{}}' % self._take_id(), text=True)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._send_subscriptions(socket))
                tasks.create_task(self._receive(socket))
        except ExceptionGroup as group:
            raise group.exceptions[0] from None

    async def _send_subscriptions(self, socket: ClientConnection) -> None:
        while True:
            await self._has_unsent.wait()
            self._has_unsent.clear()
            unsent, self._unsent = list(self._unsent), {}
            for begin in range(0, len(unsent), COMMANDS_PER_MESSAGE):
                commands = map(self._command, unsent[begin : begin + COMMANDS_PER_MESSAGE])
                await socket.send(b"\n".join(commands), text=True)

    def _take_id(self) -> int:
        self._next_id += 1
        return self._next_id

    def _command(self, zone_id: str) -> bytes:
        command_id = self._take_id()
        self._pending[command_id] = zone_id
        fields: dict[str, object] = {"channel": zone_channel(zone_id)}
        position = self.zones[zone_id].position
        if position is not None:
            fields |= {"recover": True, "epoch": position.epoch, "offset": position.rev}
        return msgspec.json.encode({"id": command_id, "subscribe": fields})

    async def _receive(self, socket: ClientConnection) -> None:
        while True:
            async with asyncio.timeout(self._ping_interval_s + SILENCE_S):
                message = await socket.recv(decode=False)
            publications: list[tuple[WatchedZone, Publication]] = []
            for server_message in _decoder.decode_lines(message):
                push = server_message.push
                zone = self.zones.get(zone_id_of(push.channel) or "") if push else None
                if push and push.pub and zone:
                    publications.append((zone, push.pub))
                    continue
                self._apply(publications)
                publications = []
                if server_message == ServerMessage():
                    await socket.send(b"{}", text=True)
                else:
                    self._handle(server_message, zone)
            self._apply(publications)
            self._moved.set()

    def _handle(self, message: ServerMessage, zone: WatchedZone | None) -> None:
        if message.connect is not None:
            self._ping_interval_s = message.connect.ping
            self._listener.on_status("live", None)
        elif message.push is not None:
            if message.push.unsubscribe is not None and zone is not None:
                self._end(zone, message.push.unsubscribe)
            if message.push.message is not None:
                status = message.push.message.data
                self._listener.on_status(status.state, status.since)
        elif message.id in self._pending:
            zone_id = self._pending.pop(message.id)
            if message.subscribe is not None:
                self._begin(self.zones[zone_id], message.subscribe)
            elif message.error is not None:
                self._refused(zone_id, message.error)
        elif message.error is not None:
            raise WatchError(f"the service refused: {message.error.message}")

    def _begin(self, zone: WatchedZone, reply: SubscribeReply) -> None:
        if reply.data is not None:
            zone.take_snapshot(reply.data)
            self._listener.on_snapshot(zone)
        else:
            self._listener.on_recovered(zone)
            self._apply([(zone, publication) for publication in reply.publications])

    def _refused(self, zone_id: str, error: ErrorReply) -> None:
        zone = self.zones[zone_id]
        if error.temporary:
            loop = asyncio.get_running_loop()
            loop.call_later(RESUBSCRIBE_S, self._subscribe, zone_id)
        elif error.code == 102 and zone.replica is not None:
            # Deleted while the connection was lost.
            self._gone(zone)
        else:
            raise WatchError(f"zone {zone_id}: {error.message}")

    def _end(self, zone: WatchedZone, why: UnsubscribePush) -> None:
        if why.code < 2500:
            self._gone(zone)
            return
        if why.code == 2502:
            zone.replica = None
        self._subscribe(zone.zone_id)

    def _gone(self, zone: WatchedZone) -> None:
        zone.is_gone = True
        self._listener.on_gone(zone)

    def _apply(self, publications: list[tuple[WatchedZone, Publication]]) -> None:
        """Apply changes, and tell of them transaction by transaction."""
        together: list[Change] = []
        for zone, publication in publications:
            change = zone.take(publication)
            if change is None:
                continue
            if together and together[-1].tx != change.tx:
                self._listener.on_changes(together)
                together = []
            together.append(change)
        if together:
            self._listener.on_changes(together)
