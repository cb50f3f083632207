"""The conversation: what a client's commands do, one after the other."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
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
    Params,
    Problem,
    RpcRequest,
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
from realtime.waiting_room import Waiting, WaitingRoom
from realtime.websocket_session import Session

Receive = Callable[[], Awaitable[Mapping[str, Any]]]

# Read at import, as it is from files.
_VERSION: Final = f"zonecast {version('zonecast')}"
_NOT_AVAILABLE: Final = frozenset(
    {"publish", "presence", "presence_stats", "refresh", "sub_refresh"}
)


class Conversation:
    """Executes the commands of one session in their order, so that replies keep it, too.

    But a subscribe with a `min` that this node has not reached yet waits aside, and with it only
    what comes later for the same channel. One command is executed at a time, whoever waited:
    each is answered when what was written before has been read.

    Args:
        session: Whose commands these are.
        feed: Where channels are watched and read.
        settings: The bounds.
        node_id: Shown to the client.
        problem_told: Told of the code of each error reply.
        started: Told how each subscription began.
        log: Bound to the connection.
    """

    __slots__ = (
        "_feed",
        "_log",
        "_node_id",
        "_problem_told",
        "_session",
        "_settings",
        "_started",
        "_turn",
    )

    def __init__(
        self,
        session: Session,
        *,
        feed: Feed,
        settings: Settings,
        node_id: str,
        problem_told: Callable[[int], None],
        started: Callable[[Start], None],
        log: FilteringBoundLogger,
    ) -> None:
        self._session = session
        self._feed = feed
        self._settings = settings
        self._node_id = node_id
        self._problem_told = problem_told
        self._started = started
        self._log = log
        self._turn = asyncio.Lock()

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
            async with asyncio.TaskGroup() as tasks:
                room = self._waiting_room(tasks)
                while not is_gone():
                    message = await receive()
                    if message["type"] != "websocket.receive" or session.close_code is not None:
                        continue
                    text = message.get("text")
                    if isinstance(text, str):
                        await self._execute_message(text, room)
                    else:
                        self._refuse("a binary message")
                room.close()
        finally:
            stale.cancel()
            session.closed(1006)

    def _waiting_room(self, tasks: asyncio.TaskGroup) -> WaitingRoom:
        return WaitingRoom(
            tasks,
            self._serve_waiting,
            max_concurrent=self._settings.waiting_max_concurrent,
            max_commands=self._settings.max_commands_per_message,
            max_bytes=self._settings.max_message_bytes,
        )

    def _cut_stale(self) -> None:
        if not self._session.is_connected:
            self._session.end(Disconnect.STALE)

    def _refuse(self, why: str) -> None:
        self._log.info("refused", why=why)
        self._session.end(Disconnect.BAD_REQUEST)

    async def _execute_message(self, text: str, room: WaitingRoom) -> None:
        with self._boundary():
            for command in decode_commands(text, self._settings.max_commands_per_message):
                channel = self._waits_for(command, room)
                if channel is not None:
                    asked_s = asyncio.get_running_loop().time()
                    await room.add(Waiting(command, channel, asked_s))
                    continue
                if not await self._execute_in_turn(command):
                    return

    @contextlib.contextmanager
    def _boundary(self) -> Iterator[None]:
        """End the session for what is wrong with its messages, or with us."""
        try:
            yield
        except BadRequestError as error:
            self._refuse(error.why)
        except Exception:  # noqa: BLE001 - the boundary of the connection's tasks.
            self._session.end(Disconnect.SERVER_ERROR)
            self._log.exception("session failed")

    def _waits_for(self, command: Command, room: WaitingRoom) -> str | None:
        """Return the channel that a command has to wait for; `None`: it is executed at once."""
        if command.method == "subscribe" and self._session.is_connected:
            request = _read(command, SubscribeRequest)
            if request is None:
                return None
            waits = request.minimum is not None and not self._feed.minima.covers(
                request.channel, request.minimum
            )
            return request.channel if waits or request.channel in room else None
        if command.method == "unsubscribe" and room:
            ending = _read(command, ChannelRequest)
            return ending.channel if ending is not None and ending.channel in room else None
        return None

    async def _serve_waiting(self, waiting: Waiting) -> None:
        command = waiting.command
        with self._boundary(), self._answering(command):
            request = _read(command, SubscribeRequest) if command.method == "subscribe" else None
            if request is None or request.minimum is None:
                await self._execute_in_turn(command)
                return
            channel = parse_channel(request.channel)
            async with self._feed.minima.held_at(channel, request.minimum, waiting.asked_s):
                await self._execute_in_turn(command)

    async def _execute_in_turn(self, command: Command) -> bool:
        """Execute a command once the client may be answered; tell whether it could be."""
        async with self._turn:
            if not await self._session.may_write(self._settings.slow_drain_timeout_s):
                return False
            await self._execute(command)
            return True

    async def _execute(self, command: Command) -> None:
        if command.method == "connect":
            self._connect(command)
            return
        if not self._session.is_connected:
            raise BadRequestError("a command before connect")
        with self._answering(command):
            await self._answer(command)

    @contextlib.contextmanager
    def _answering(self, command: Command) -> Iterator[None]:
        """Answer a command that fails with why."""
        try:
            yield
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
            case "rpc":
                await self._call(command, decode_params(command, RpcRequest))
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
        self._started(start)
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
            self._feed,
            request,
            max_changes=self._settings.history_max_changes,
            max_bytes=self._settings.slow_buffer_max_bytes,
        )
        self._session.write(encode_history(command.id, head, changes))

    async def _call(self, command: Command, request: RpcRequest) -> None:
        if request.method != "digest":
            self._fail(command, Problem.METHOD_NOT_FOUND)
            return
        channel = parse_channel(msgspec.json.decode(request.data, type=ChannelRequest).channel)
        found = await self._feed.digest(channel)
        self._session.write([encode_reply(command, {"data": found.document()})])


def _read(command: Command, kind: type[Params]) -> Params | None:
    """Read parameters; `None`: they are to be answered as what they are, a bad request."""
    try:
        return decode_params(command, kind)
    except (msgspec.DecodeError, RecursionError):
        return None
