"""The conversation: what a client's commands do, one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.metadata import version
from math import ceil
from typing import Any, Final

import msgspec
from structlog.typing import FilteringBoundLogger

from channels.feed import Feed, UnknownChannelError
from channels.names import InvalidChannelError, parse_channel
from channels.ports import UnavailableError
from channels.subscribers import Start
from realtime.centrifuge_codec import (
    REJECT_UNRECOVERED,
    BadRequestError,
    ChannelRequest,
    Command,
    Disconnect,
    HistoryRequest,
    Problem,
    SubscribeRequest,
    decode_commands,
    decode_params,
    encode_history,
    encode_problem,
    encode_reply,
    encode_subscribed,
)
from realtime.channel_history import UnrecoverableError, read_history
from realtime.settings import Settings
from realtime.websocket_session import Session

Receive = Callable[[], Awaitable[Mapping[str, Any]]]

# Read at import, as it is from files.
_VERSION: Final = f"zonecast {version('zonecast')}"
_NOT_AVAILABLE: Final = frozenset(
    {"publish", "presence", "presence_stats", "refresh", "sub_refresh"}
)


class Conversation:
    """Executes the commands of one session in their order, so that replies keep it, too.

    Args:
        session: Whose commands these are.
        feed: Where channels are watched and read.
        settings: The bounds.
        node_id: Shown to the client.
        problem_told: Told of the code of each error reply.
        log: Bound to the connection.
    """

    __slots__ = ("_feed", "_log", "_node_id", "_problem_told", "_session", "_settings")

    def __init__(
        self,
        session: Session,
        *,
        feed: Feed,
        settings: Settings,
        node_id: str,
        problem_told: Callable[[int], None],
        log: FilteringBoundLogger,
    ) -> None:
        self._session = session
        self._feed = feed
        self._settings = settings
        self._node_id = node_id
        self._problem_told = problem_told
        self._log = log

    async def run(self, receive: Receive, is_gone: Callable[[], bool]) -> None:
        """Execute what the client says until the connection is gone. Cancel-safe.

        Args:
            receive: Returns ASGI events; reading goes on whether or not it is called.
            is_gone: Whether there will be no further event.
        """
        session = self._session
        loop = asyncio.get_running_loop()
        stale = loop.call_later(self._settings.connect_timeout_s, self._cut_stale)
        try:
            while not is_gone():
                message = await receive()
                if message["type"] != "websocket.receive" or session.close_code is not None:
                    continue
                text = message.get("text")
                if isinstance(text, str):
                    await self._execute_message(text)
                else:
                    self._refuse("a binary message")
        finally:
            stale.cancel()
            session.closed(1006)

    def _cut_stale(self) -> None:
        if not self._session.is_connected:
            self._session.end(Disconnect.STALE)

    def _refuse(self, why: str) -> None:
        self._log.info("refused", why=why)
        self._session.end(Disconnect.BAD_REQUEST)

    async def _execute_message(self, text: str) -> None:
        try:
            for command in decode_commands(text, self._settings.max_commands_per_message):
                if not await self._session.may_write(self._settings.slow_drain_timeout_s):
                    return
                await self._execute(command)
        except BadRequestError as error:
            self._refuse(error.why)
        except Exception:  # noqa: BLE001 - the boundary of the connection's task.
            self._session.end(Disconnect.SERVER_ERROR)
            self._log.exception("session failed")

    async def _execute(self, command: Command) -> None:
        if command.method == "connect":
            self._connect(command)
            return
        if not self._session.is_connected:
            raise BadRequestError("a command before connect")
        try:
            await self._answer(command)
        except (msgspec.DecodeError, RecursionError):
            self._fail(command, Problem.BAD_REQUEST)
        except (InvalidChannelError, UnknownChannelError):
            self._fail(command, Problem.UNKNOWN_CHANNEL)
        except UnrecoverableError:
            self._fail(command, Problem.UNRECOVERABLE)
        except UnavailableError as error:
            self._log.warning("command failed", method=command.method, reason=error.reason)
            self._fail(command, Problem.INTERNAL)

    async def _answer(self, command: Command) -> None:
        match command.method:
            case "subscribe":
                await self._subscribe(command, decode_params(command, SubscribeRequest))
            case "unsubscribe":
                self._unsubscribe(command, decode_params(command, ChannelRequest))
            case "history":
                await self._history(command, decode_params(command, HistoryRequest))
            case "ping":
                self._session.write([encode_reply(command, {})])
            case "send":
                pass  # Asynchronous messages to the server: it has no use for them.
            case method if method in _NOT_AVAILABLE:
                self._fail(command, Problem.NOT_AVAILABLE)
            case _:
                self._fail(command, Problem.METHOD_NOT_FOUND)

    def _fail(self, command: Command, problem: Problem) -> None:
        self._session.write([encode_problem(command.id, problem)])
        self._problem_told(problem.value[0])

    def _connect(self, command: Command) -> None:
        if self._session.is_connected:
            raise BadRequestError("connected twice")
        self._session.is_connected = True
        result = {
            "client": self._session.client_id,
            "version": _VERSION,
            # Whole seconds in the protocol; clients add a grace of their own.
            "ping": ceil(self._settings.ping_interval_s),
            "pong": True,
            "data": {"node": self._node_id},
        }
        self._session.write([encode_reply(command, result)])

    async def _subscribe(self, command: Command, request: SubscribeRequest) -> None:
        channel = parse_channel(request.channel)
        if channel in self._session.channels:
            self._fail(command, Problem.ALREADY_SUBSCRIBED)
            return
        if len(self._session.channels) >= self._settings.max_subscriptions_per_connection:
            self._fail(command, Problem.LIMIT_EXCEEDED)
            return

        def reply(starts: Sequence[Start]) -> bool:
            return self._begin(command, request, starts[0])

        await self._feed.subscribe(self._session, {channel: request.position}, reply)
        since_ms = self._feed.stale_since_ms
        if since_ms is not None and channel in self._session.channels:
            self._session.tell_staleness(since_ms)

    def _begin(self, command: Command, request: SubscribeRequest, start: Start) -> bool:
        """Reply to a subscribe command in the step in which the feed attaches the session."""
        if self._session.close_code is not None:
            return False
        if start.changes is None:
            if start.was_recovering and request.flag & REJECT_UNRECOVERED:
                self._fail(command, Problem.UNRECOVERABLE)
                return False
            if len(start.replica.snapshot()) > self._settings.snapshot_max_bytes:
                self._fail(command, Problem.LIMIT_EXCEEDED)
                return False
        self._session.write(encode_subscribed(command.id, start), exempt=True)
        self._session.add_channel(start.replica.channel)
        return True

    def _unsubscribe(self, command: Command, request: ChannelRequest) -> None:
        # No error for a channel that isn't subscribed: it may just have ended, and official
        # SDKs answer an error by connecting anew.
        if self._session.remove_channel(request.channel):
            self._feed.unsubscribe(self._session, request.channel)
        self._session.write([encode_reply(command, {})])

    async def _history(self, command: Command, request: HistoryRequest) -> None:
        parse_channel(request.channel)
        head, changes = await read_history(
            self._feed, request, max_changes=self._settings.history_max_changes
        )
        self._session.write(encode_history(command.id, head, changes))
