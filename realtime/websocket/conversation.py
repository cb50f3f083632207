"""Conversations: in which order the commands of a session are executed, and what may wait."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from itertools import islice
from typing import Final

import msgspec
from structlog.stdlib import BoundLogger

from channels.feed import Feed
from channels.names import InvalidChannelError, parse_channel
from realtime.limits import FloodError, Limits
from realtime.settings import Settings
from realtime.waiting_room import Waiting, WaitingRoom
from realtime.websocket.backlog import Backlog
from realtime.websocket.centrifuge_codec import (
    BadRequestError,
    ChannelRequest,
    Command,
    Disconnect,
    Params,
    SubscribeRequest,
    decode_params,
)
from realtime.websocket.commands import Commands
from realtime.websocket.problems import ANSWERABLE
from realtime.websocket.reception import InvalidTokenError, Work
from realtime.websocket.session import Session

EXECUTE_MAX_COMMANDS: Final = 100
"""So many commands of one session are executed before others have the loop."""


class Conversations:
    """Has the commands of a node's sessions executed, each session's in their order.

    That is done at once, in the step in which they arrive. Only where one has to wait, a task
    takes over, and what comes later queues up in the session's backlog until it is done. But a
    subscribe with a `min` that this node has not reached yet waits aside, and with it only
    what comes later for the same channel. One command is executed at a time, whoever waited:
    each is answered when what was written before has been read.

    Args:
        commands: Executes each.
        feed: Whose positions are waited for.
        settings: The bounds.
        limits: How much may be asked.
        tasks: Owns what waits; each task ends with its session.
        log: Where what fails is told.
    """

    def __init__(
        self,
        commands: Commands,
        *,
        feed: Feed,
        settings: Settings,
        limits: Limits,
        tasks: asyncio.TaskGroup,
        log: BoundLogger,
    ) -> None:
        self._commands = commands
        self._feed = feed
        self._settings = settings
        self._limits = limits
        self._tasks = tasks
        self._log = log

    # In order

    def take(self, session: Session, message: bytes) -> None:
        """Execute the commands of a message, or queue it behind what waits. Never awaits."""
        backlog = session.backlog
        if backlog is not None and backlog.task is not None:
            backlog.add_message(message)
            if backlog.message_bytes > self._settings.max_message_bytes:
                session.pause_reading()
            return
        commands = self._read_message(session, message)
        for index, command in enumerate(commands):
            if session.close_code is not None:
                return
            pauses = index == EXECUTE_MAX_COMMANDS
            work = partial(asyncio.sleep, 0) if pauses else self._execute(session, command)
            if work is not None:
                backlog = _backlog_of(session)
                backlog.add_commands(commands[index if pauses else index + 1 :])
                backlog.task = self._tasks.create_task(self._catch_up(session, backlog, work))
                return

    async def _catch_up(self, session: Session, backlog: Backlog, work: Work | None) -> None:
        """Execute what is queued, until nothing is."""
        try:
            while work is not None:
                try:
                    self._prepare(session, backlog)
                    await work()
                except Exception as error:  # noqa: BLE001 - the boundary of the session's task.
                    self._fail_session(session, error)
                work = self._next_work(session, backlog)
        finally:
            backlog.task = None
            self._release(backlog)
            _drop_if_done(session, backlog)

    def _prepare(self, session: Session, backlog: Backlog) -> None:
        """Have what the commands behind the present one subscribe to read together with it."""
        if backlog.is_prepared or not session.is_connected:
            return
        backlog.is_prepared = True
        room = self._settings.max_subscriptions_per_connection - session.channel_count
        room = self._limits.subscribes_left(session, room)
        requests = islice(filter(None, map(_subscribed, backlog.commands)), room)
        # Whoever may not have a channel causes no work for it either.
        channels = [
            request.channel for request in requests if self._commands.may_prepare(session, request)
        ]
        backlog.prepared += self._feed.prepare(dict.fromkeys(channels))

    def _release(self, backlog: Backlog) -> None:
        self._feed.release(backlog.prepared)
        backlog.prepared.clear()

    def _next_work(self, session: Session, backlog: Backlog) -> Work | None:
        """Execute what is queued until something has to be awaited."""
        executed = 0
        while session.close_code is None:
            if backlog.commands:
                if executed == EXECUTE_MAX_COMMANDS:
                    return partial(asyncio.sleep, 0)
                executed += 1
                work = self._execute(session, backlog.commands.popleft())
                if work is not None:
                    return work
                continue
            self._release(backlog)
            if backlog.messages:
                backlog.add_commands(self._read_message(session, backlog.take_message()))
            else:
                session.resume_reading()
                break
        return None

    def _read_message(self, session: Session, message: bytes) -> list[Command]:
        try:
            most = self._settings.max_commands_per_message
            return session.codec.decode_commands(message, most)
        except BadRequestError as error:
            self.refuse(session, error.why)
            return []

    def refuse(self, session: Session, why: str) -> None:
        """End a session for what its client said."""
        self._log.info("refused", client=session.client_id, why=why)
        session.end(Disconnect.BAD_REQUEST)

    def _fail_session(self, session: Session, error: Exception) -> None:
        if isinstance(error, BadRequestError):
            self.refuse(session, error.why)
            return
        if isinstance(error, FloodError):
            self._log.warning("refused", client=session.client_id, why="a flood of commands")
            session.end(Disconnect.TOO_MANY_ERRORS)
            return
        if isinstance(error, InvalidTokenError):
            self._log.info("refused", client=session.client_id, why=error.why)
            session.end(Disconnect.INVALID_TOKEN)
            return
        session.end(Disconnect.SERVER_ERROR)
        self._log.error("session failed", client=session.client_id, exc_info=error)

    def _execute(self, session: Session, command: Command) -> Work | None:
        """Execute a command, or return what has to be awaited for it. Never raises."""
        try:
            channel = self._waits_for(session, command)
            if channel is not None:
                return self._set_aside(session, command, channel)
            backlog = session.backlog
            if session.writing_paused or (backlog is not None and backlog.turn.locked()):
                return partial(self._execute_in_turn, session, _backlog_of(session), command)
            work = self._commands.begin(session, command)
            return work and partial(_hold_turn, _backlog_of(session), work)
        except Exception as error:  # noqa: BLE001 - the boundary of the session.
            self._fail_session(session, error)
            return None

    async def _execute_in_turn(
        self,
        session: Session,
        backlog: Backlog,
        command: Command,
        failure: Exception | None = None,
    ) -> None:
        """Execute a command, or say why it failed before, once the client may be answered."""
        async with backlog.turn:
            if await session.may_write(backlog, self._settings.slow_drain_timeout_s):
                work = self._commands.begin(session, command, failure)
                if work is not None:
                    await work()

    # Aside

    def _waits_for(self, session: Session, command: Command) -> str | None:
        """Return the channel that a command has to wait for; `None`: it is executed at once."""
        room = session.backlog.room if session.backlog is not None else None
        if command.method == "subscribe" and session.is_connected:
            request = _read(command, SubscribeRequest)
            if request is None:
                return None
            waits = request.minimum is not None and not self._feed.minima.covers(
                request.channel, request.minimum
            )
            is_there = room is not None and request.channel in room
            return request.channel if waits or is_there else None
        if command.method == "unsubscribe" and room:
            ending = _read(command, ChannelRequest)
            return ending.channel if ending is not None and ending.channel in room else None
        return None

    def _set_aside(self, session: Session, command: Command, channel: str) -> Work | None:
        backlog = _backlog_of(session)
        if backlog.room is None:
            backlog.room = WaitingRoom(
                self._tasks,
                partial(self._serve_waiting, session, backlog),
                partial(_drop_if_done, session, backlog),
                max_concurrent=self._settings.waiting_max_concurrent,
                max_commands=self._settings.max_commands_per_message,
                max_bytes=self._settings.max_message_bytes,
            )
        waiting = Waiting(command, channel, asyncio.get_running_loop().time())
        if backlog.room.is_full:
            return partial(_add_when_room, backlog.room, waiting)
        backlog.room.add(waiting)
        return None

    async def _serve_waiting(self, session: Session, backlog: Backlog, waiting: Waiting) -> None:
        try:
            await self._execute_waiting(session, backlog, waiting)
        except Exception as error:  # noqa: BLE001 - the boundary of the session's task.
            self._fail_session(session, error)

    async def _execute_waiting(self, session: Session, backlog: Backlog, waiting: Waiting) -> None:
        command = waiting.command
        request = _read(command, SubscribeRequest) if command.method == "subscribe" else None
        if request is None or request.minimum is None:
            await self._execute_in_turn(session, backlog, command)
            return
        try:
            await self._commands.require_subscribe(session, request)
            channel = parse_channel(request.channel)
            async with self._feed.minima.held_at(channel, request.minimum, waiting.asked_s):
                await self._execute_in_turn(session, backlog, command)
        except ANSWERABLE as error:
            # In its turn, too: it counts as any command does, and waits for who doesn't read.
            await self._execute_in_turn(session, backlog, command, error)


def _backlog_of(session: Session) -> Backlog:
    if session.backlog is None:
        session.backlog = Backlog()
    return session.backlog


def _drop_if_done(session: Session, backlog: Backlog) -> None:
    if backlog.is_done and session.backlog is backlog:
        session.backlog = None


async def _hold_turn(backlog: Backlog, work: Work) -> None:
    async with backlog.turn:
        await work()


async def _add_when_room(room: WaitingRoom, waiting: Waiting) -> None:
    await room.has_room()
    room.add(waiting)


def _subscribed(command: Command) -> SubscribeRequest | None:
    """Return what a command subscribes to, if it does and there may be such a channel."""
    request = _read(command, SubscribeRequest) if command.method == "subscribe" else None
    if request is not None:
        with contextlib.suppress(InvalidChannelError):
            parse_channel(request.channel)
            return request
    return None


def _read(command: Command, kind: type[Params]) -> Params | None:
    """Read parameters; `None`: they are to be answered as what they are, a bad request."""
    try:
        return decode_params(command, kind)
    except (msgspec.DecodeError, RecursionError):
        return None
