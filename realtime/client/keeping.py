"""The keeping: one connection after the other, for as long as the watch lasts."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable

from realtime.client.connection import (
    TOKEN_EXPIRED,
    UNAUTHORIZED,
    Connection,
    RefusedError,
    connected,
)
from realtime.client.errors import ConnectionLostError, TokenRefusedError, WatchError
from realtime.client.messages import ConnectReply, ErrorReply
from realtime.client.options import WatchOptions
from realtime.client.picture import Picture
from realtime.client.tokens import Tokens, renew_after_s
from realtime.client.updates import Update


class Keeping:
    """Keeps a picture as the service has it.

    Args:
        url: The service's address.
        picture: What is kept.
        tokens: Where tokens come from.
        options: The bounds.
        is_patient: Whether to keep trying when nobody answers at the beginning.
        tell: Called with what has happened.

    Attributes:
        connection: The present one, `None` while there is none.
        connections: How many were made so far.
        node: Which node answers, or did last.
        has_due: Set by whoever gives the picture something to say to the service.
    """

    def __init__(
        self,
        url: str,
        picture: Picture,
        tokens: Tokens,
        options: WatchOptions,
        *,
        is_patient: bool,
        tell: Callable[[Iterable[Update]], None],
    ) -> None:
        self._url = url
        self._picture = picture
        self._tokens = tokens
        self._options = options
        self._is_patient = is_patient
        self._tell = tell
        self.connection: Connection | None = None
        self.connections = 0
        self.node = ""
        self.has_due = asyncio.Event()

    async def run(self) -> None:
        """Keep it until cancelled.

        Raises:
            WatchError: the service refuses for good, or nobody answered at the beginning.
        """
        loop = asyncio.get_running_loop()
        pause_s = self._options.backoff_min_s
        while True:
            began_s = loop.time()
            try:
                await self._follow()
            except ConnectionLostError as error:
                if not self.connections and not self._is_patient:
                    raise WatchError(f"cannot watch {self._url}: {error}") from error
            except TokenRefusedError:
                raise
            except WatchError as error:
                if not self.connections:
                    raise WatchError(f"cannot watch {self._url}: {error}") from error
                raise
            if loop.time() - began_s > self._options.backoff_max_s:
                pause_s = self._options.backoff_min_s
            await asyncio.sleep(pause_s * random.uniform(0.5, 1))  # noqa: S311 - no secret.
            pause_s = min(self._options.backoff_max_s, pause_s * 2)

    async def _follow(self) -> None:
        """Serve one connection until it ends, by an exception."""
        token = await self._take_token()
        async with connected(self._url, self._options) as connection:
            try:
                greeting = await connection.greet(token)
            except RefusedError as refused:
                raise self._not_let_in(refused.error) from refused
            self.connections += 1
            self.node = greeting.data.node
            self.connection = connection
            try:
                self._tell(self._picture.connected())
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._send(connection))
                    tasks.create_task(self._receive(connection, tasks))
                    tasks.create_task(self._renew(connection, greeting))
            except ExceptionGroup as group:
                raise _first_of(group) from None
            finally:
                self.connection = None
                self._tell(self._picture.lost())

    async def _take_token(self) -> str | None:
        try:
            return await self._tokens.take()
        except PermissionError as error:
            raise TokenRefusedError(UNAUTHORIZED, "the source of tokens says so") from error
        except Exception as error:
            raise ConnectionLostError(f"no token: {type(error).__name__}") from error

    def _not_let_in(self, error: ErrorReply) -> Exception:
        if error.temporary or (error.code == TOKEN_EXPIRED and self._tokens.can_renew):
            return ConnectionLostError(error.message)
        if error.code in {TOKEN_EXPIRED, UNAUTHORIZED}:
            return TokenRefusedError(error.code, error.message)
        return WatchError(f"the service refused: {error.message}")

    async def _send(self, connection: Connection) -> None:
        while True:
            await self.has_due.wait()
            self.has_due.clear()
            while commands := self._picture.take_commands(
                connection.take_id, self._options.max_commands_per_message
            ):
                await connection.send(commands)

    async def _receive(self, connection: Connection, tasks: asyncio.TaskGroup) -> None:
        releasing: asyncio.Task[None] | None = None
        while True:
            self._tell(self._picture.take(await connection.receive()))
            if not self._picture.is_holding_back:
                if releasing is not None:
                    releasing.cancel()
                releasing = None
            elif releasing is None or releasing.done():
                releasing = tasks.create_task(self._release())
            if self._picture.fault is not None:
                raise self._picture.fault

    async def _release(self) -> None:
        """Wait no longer for replies after a while; what is then found ends the connection."""
        await asyncio.sleep(self._options.catch_up_wait_s)
        self._tell(self._picture.release())
        if self._picture.fault is not None:
            raise self._picture.fault

    async def _renew(self, connection: Connection, greeting: ConnectReply) -> None:
        """Renew the token in place before it ends, as long as another is to be had."""
        ttl_s = greeting.ttl if greeting.expires else 0
        while ttl_s and self._tokens.can_renew:
            await asyncio.sleep(renew_after_s(ttl_s))
            params: dict[str, object] = {"token": await self._take_token()}
            reply = await connection.ask("refresh", params, self._options.answer_timeout_s)
            refreshed = reply.refresh
            ttl_s = refreshed.ttl if refreshed is not None and refreshed.expires else 0


def _first_of(group: ExceptionGroup[Exception]) -> Exception:
    """Return why a connection ended: a reason for good before one that passes."""
    final = group.subgroup(WatchError)
    error: Exception = final or group
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
