"""One connection: commands, their replies, pings, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from realtime.client.address import is_loopback, websocket_url
from realtime.client.errors import ConnectionLostError, TokenRefusedError, WatchError
from realtime.client.messages import (
    PING,
    ConnectReply,
    ErrorReply,
    ServerMessage,
    decode_messages,
)
from realtime.client.options import WatchOptions

TOKEN_EXPIRED = 109
UNAUTHORIZED = 101
_AGAIN_LATER = frozenset({408, 425, 429})
_REFUSALS = range(3500, 4000)
"""Close codes after which a client is not to come again."""
_INVALID_TOKEN = 3500


class RefusedError(ConnectionLostError):
    """A connection or command was refused with a code of the protocol."""

    def __init__(self, error: ErrorReply) -> None:
        super().__init__(error.message or f"error {error.code}")
        self.error = error


class Connection:
    """A WebSocket on which the protocol of `docs/protocol.md` is spoken in JSON.

    Args:
        socket: Open.
        silence_s: How long after an expected ping it counts as dead.
    """

    def __init__(self, socket: ClientConnection, silence_s: float) -> None:
        self._socket = socket
        self._silence_s = silence_s
        self._ping_interval_s = 25.0
        self._last_id = 0
        self._replies: dict[int, asyncio.Future[ServerMessage]] = {}

    def take_id(self) -> int:
        """Return the number of the next command."""
        self._last_id += 1
        return self._last_id

    async def send(self, commands: Sequence[bytes]) -> None:
        """Send commands as one message.

        Raises:
            ConnectionLostError: the connection has ended.
        """
        if not commands:
            return
        try:
            await self._socket.send(b"\n".join(commands), text=True)
        except ConnectionClosed as closed:
            raise _lost(closed) from closed

    async def greet(self, token: str | None) -> ConnectReply:
        """Say who is there.

        Raises:
            RefusedError: the service doesn't let this client in.
            ConnectionLostError: the connection has ended, or nothing came in time.
        """
        command_id = self.take_id()
        fields = {} if token is None else {"token": token}
        await self.send([msgspec.json.encode({"id": command_id, "connect": fields})])
        while True:
            for message in await self.receive():
                if message.id == command_id:
                    if message.error is not None:
                        raise RefusedError(message.error)
                    if message.connect is None:
                        raise ConnectionLostError("what answers is no Zonecast")
                    self._ping_interval_s = message.connect.ping or 25
                    return message.connect

    async def receive(self) -> list[ServerMessage]:
        """Return the lines of the next message; pings are answered, replies handed to who asked.

        Raises:
            ConnectionLostError: the connection has ended, is silent, or is none of this protocol.
            WatchError: the service has closed it and asks not to come again.
        """
        try:
            async with asyncio.timeout(self._ping_interval_s + self._silence_s):
                lines = decode_messages(await self._socket.recv(decode=False))
            if PING in lines:
                await self._socket.send(b"{}", text=True)
        except ConnectionClosed as closed:
            raise _lost(closed) from closed
        except TimeoutError as error:
            raise ConnectionLostError("the service has fallen silent") from error
        except msgspec.DecodeError as error:
            raise ConnectionLostError("what answers is no Zonecast") from error
        for line in lines:
            reply = self._replies.pop(line.id, None)
            if reply is not None and not reply.done():
                reply.set_result(line)
        return [line for line in lines if line != PING]

    async def ask(self, method: str, params: dict[str, object], timeout_s: float) -> ServerMessage:
        """Send a command and return its reply, while another task receives. Cancel-safe.

        Raises:
            RefusedError: the reply is an error.
            ConnectionLostError: there was none.
        """
        command_id = self.take_id()
        reply: asyncio.Future[ServerMessage] = asyncio.get_running_loop().create_future()
        self._replies[command_id] = reply
        try:
            async with asyncio.timeout(timeout_s):
                await self.send([msgspec.json.encode({"id": command_id, method: params})])
                message = await reply
        except TimeoutError as error:
            raise ConnectionLostError("no answer in time") from error
        finally:
            self._replies.pop(command_id, None)
        if message.error is not None:
            raise RefusedError(message.error)
        return message

    def end(self) -> None:
        """Tell who still waits for a reply that none will come."""
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(ConnectionLostError("the connection ended"))


def _lost(closed: ConnectionClosed) -> Exception:
    """Return what a closed connection means."""
    if closed.rcvd is None or closed.rcvd.code not in _REFUSALS:
        return ConnectionLostError(str(closed) or "the connection ended")
    if closed.rcvd.code == _INVALID_TOKEN:
        return TokenRefusedError(closed.rcvd.code, closed.rcvd.reason)
    return WatchError(f"the service closed the connection: {closed.rcvd.reason}")


def _not_opened(error: Exception) -> Exception:
    """Return what a failed attempt to connect means."""
    if isinstance(error, InvalidStatus):
        status = error.response.status_code
        if status in {401, 403}:
            return TokenRefusedError(status, f"HTTP {status}")
        if status < 500 and status not in _AGAIN_LATER:
            return WatchError(f"HTTP {status}")
        return ConnectionLostError(f"HTTP {status}")
    if isinstance(error, InvalidURI):
        return WatchError(str(error))
    return ConnectionLostError(str(error) or "no answer")


@asynccontextmanager
async def connected(url: str, options: WatchOptions) -> AsyncIterator[Connection]:
    """Open a connection for the time of a block.

    Raises:
        ConnectionLostError: nobody answers, or not now.
        WatchError: there never will be anything at this address.
    """
    try:
        async with asyncio.timeout(options.connect_timeout_s):
            socket = await connect(
                websocket_url(url),
                compression=None,
                open_timeout=None,
                ping_interval=None,
                max_size=options.max_message_bytes,
                close_timeout=1,
                proxy=None if is_loopback(url) else True,
            )
    except (OSError, TimeoutError, InvalidHandshake, InvalidURI) as error:
        raise _not_opened(error) from error
    connection = Connection(socket, options.silence_s)
    try:
        yield connection
    finally:
        connection.end()
        await socket.close()
