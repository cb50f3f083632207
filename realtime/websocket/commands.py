"""The commands: what each of them does, and what it is answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from math import ceil
from typing import Final, cast

import msgspec
from structlog.stdlib import BoundLogger

from channels.digest import DigestAt
from channels.feed import Feed
from channels.names import parse_channel
from channels.ports import UnavailableError
from channels.subscribers import Start
from realtime.auth.policy import Action
from realtime.channel_history import read_history
from realtime.limits import Limits
from realtime.presence import Attendance
from realtime.settings import Settings
from realtime.websocket.centrifuge_codec import (
    REJECT_UNRECOVERED,
    BadRequestError,
    ChannelRequest,
    ChannelTokenRequest,
    Command,
    HistoryRequest,
    Problem,
    RpcRequest,
    SubscribeRequest,
    TokenRequest,
    decode_params,
)
from realtime.websocket.guest import GuardedSession, ProblemError
from realtime.websocket.missed import MissedPublications
from realtime.websocket.presence import PresenceCommands
from realtime.websocket.problems import ANSWERABLE, problem_of
from realtime.websocket.reception import Reception, Work
from realtime.websocket.session import Session

# Read at import, as it is from files.
_VERSION: Final = f"zonecast {version('zonecast')}"
_DONE_ALL_THE_SAME: Final = frozenset({"unsubscribe", "send"})
"""Commands that no rate keeps from being done: SDKs take an error to the one for a lost connection,
and the other has no answer and does nothing."""


class Commands:
    """Executes single commands of a node's sessions, at once as far as nothing is awaited.

    Args:
        feed: Where channels are watched and read.
        settings: The bounds.
        node_id: Shown to clients.
        limits: How much may be asked.
        attendance: Knows who watches what.
        reception: Says who may what; `None`: no tokens are asked for, and everybody may.
        connected: Told of each session whose client has sent `connect`.
        problem_told: Told of the code of each error reply.
        started: Told how each subscription began.
        log: Where what fails is told.
    """

    def __init__(  # noqa: PLR0913 - wired once, by names
        self,
        *,
        feed: Feed,
        settings: Settings,
        node_id: str,
        limits: Limits,
        attendance: Attendance,
        reception: Reception | None,
        connected: Callable[[Session], None],
        problem_told: Callable[[int], None],
        started: Callable[[Start], None],
        log: BoundLogger,
    ) -> None:
        self._feed = feed
        self._settings = settings
        self._node_id = node_id
        self._limits = limits
        self._reception = reception
        self._presence = PresenceCommands(attendance, self._require)
        self._connected = connected
        self._problem_told = problem_told
        self._started = started
        self._missed = MissedPublications()
        self._log = log

    def begin(
        self, session: Session, command: Command, failure: Exception | None = None
    ) -> Work | None:
        """Execute a command as far as nothing has to be awaited; return the rest.

        One that failed before its turn (`failure`, of `ANSWERABLE`) is only answered with why.

        Raises:
            BadRequestError: the session is to be ended for it.
            InvalidTokenError: likewise.
            FloodError: likewise.
        """
        if not session.is_connected and command.method != "connect":
            raise BadRequestError("a command before connect")
        if not self._limits.may_command(session) and command.method not in _DONE_ALL_THE_SAME:
            self._fail(session, command, Problem.TOO_MANY_REQUESTS)
            return None
        work: Work | None = None
        if failure is None:
            try:
                work = self._answer(session, command)
            except ANSWERABLE as error:
                failure = error
        if failure is not None:
            self._explain(session, command, failure)
        return work and partial(self._answer_later, session, command, work)

    async def _answer_later(self, session: Session, command: Command, work: Work) -> None:
        """Await what a command has to wait for, and answer it with why when that fails."""
        try:
            await work()
        except ANSWERABLE as error:
            self._explain(session, command, error)

    def _explain(self, session: Session, command: Command, error: Exception) -> None:
        """Answer a command that failed with why."""
        if isinstance(error, UnavailableError):
            self._log.warning(
                "command failed",
                client=session.client_id,
                method=command.method,
                reason=error.reason,
            )
        self._fail(session, command, problem_of(error))

    def _answer(self, session: Session, command: Command) -> Work | None:
        match command.method:
            case "connect":
                return self._connect(session, command)
            case "subscribe":
                return self._subscribe(session, command, decode_params(command, SubscribeRequest))
            case "unsubscribe":
                self._unsubscribe(session, command, decode_params(command, ChannelRequest))
            case "history" | "rpc" | "presence" | "presence_stats":
                return self._ask(session, command)
            case "ping":
                session.write([session.codec.encode_reply(command, {})])
            case "send":
                pass  # Asynchronous messages to the server: it has no use for them.
            case "refresh" | "sub_refresh":
                return self._refresh(session, command)
            case "publish":
                raise ProblemError(Problem.NOT_AVAILABLE)
            case _:
                raise ProblemError(Problem.METHOD_NOT_FOUND)
        return None

    def _ask(self, session: Session, command: Command) -> Work | None:
        if command.method == "rpc":
            return self._call(session, command, decode_params(command, RpcRequest))
        if command.method != "history":
            return self._presence.begin(session, command)
        request = decode_params(command, HistoryRequest)
        self._require(session, Action.READ_CHANGES, request.channel)
        parse_channel(request.channel)
        return partial(self._history, session, command, request)

    def _fail(self, session: Session, command: Command, problem: Problem) -> None:
        session.write([session.codec.encode_problem(command.id, problem)])
        self._problem_told(problem.value[0])

    # Who it is

    def _connect(self, session: Session, command: Command) -> Work | None:
        if session.is_connected:
            raise BadRequestError("connected twice")
        if self._reception is None:
            self._welcome(session, command, {})
            return None
        token = decode_params(command, TokenRequest).token
        return self._reception.enter(
            cast("GuardedSession", session),
            token,
            lambda ttl_s: self._welcome(session, command, _lasting(ttl_s)),
        )

    def _welcome(self, session: Session, command: Command, lasting: Mapping[str, object]) -> None:
        session.is_connected = True
        result = {
            "client": session.client_id,
            "version": _VERSION,
            # Whole seconds in the protocol; clients add a grace of their own.
            "ping": ceil(self._settings.ping_interval_s),
            "pong": True,
            "data": {"node": self._node_id},
            **lasting,
        }
        session.write([session.codec.encode_reply(command, result)])
        self._connected(session)

    def _refresh(self, session: Session, command: Command) -> Work | None:
        if self._reception is None:
            raise ProblemError(Problem.NOT_AVAILABLE)
        guarded = cast("GuardedSession", session)

        def renewed(ttl_s: int) -> None:
            session.write([session.codec.encode_reply(command, {**about, **_lasting(ttl_s)})])

        if command.method == "refresh":
            about = {"client": session.client_id, "version": _VERSION}
            return self._reception.refresh(
                guarded, decode_params(command, TokenRequest).token, renewed
            )
        about = {}
        request = decode_params(command, ChannelTokenRequest)
        return self._reception.refresh_channel(guarded, request.channel, request.token, renewed)

    # What it may do

    def _require(self, session: Session, action: Action, channel: str) -> None:
        if self._reception is not None:
            self._reception.require(cast("GuardedSession", session), action, channel)

    def may_prepare(self, session: Session, request: SubscribeRequest) -> bool:
        """Tell whether what a client will subscribe to may be read for it before its turn."""
        return self._reception is None or self._reception.may_prepare(
            cast("GuardedSession", session), request
        )

    async def require_subscribe(self, session: Session, request: SubscribeRequest) -> None:
        """Check that a client may have what it will ask for later. Raises some of `ANSWERABLE`."""
        if self._reception is not None:
            await self._reception.require_subscribe(cast("GuardedSession", session), request)

    def _subscribe(
        self, session: Session, command: Command, request: SubscribeRequest
    ) -> Work | None:
        if self._reception is None:
            return self._follow(session, command, request)
        return self._reception.subscribe(
            cast("GuardedSession", session),
            request,
            partial(self._follow, session, command, request),
        )

    def _follow(self, session: Session, command: Command, request: SubscribeRequest) -> Work | None:
        channel = parse_channel(request.channel)
        if self._feed.watches(session, channel):
            raise ProblemError(Problem.ALREADY_SUBSCRIBED)
        if session.channel_count >= self._settings.max_subscriptions_per_connection:
            raise ProblemError(Problem.LIMIT_EXCEEDED)
        if not self._limits.may_subscribe():
            raise ProblemError(Problem.TOO_MANY_REQUESTS)

        def reply(starts: Sequence[Start]) -> bool:
            return self._start(session, command, request, starts[0])

        wanted = {channel: request.position}
        if self._feed.try_subscribe(session, wanted, reply):
            self._tell_if_stale(session, channel)
            return None

        async def subscribe() -> None:
            await self._feed.subscribe(session, wanted, reply)
            self._tell_if_stale(session, channel)

        return subscribe

    def _tell_if_stale(self, session: Session, channel: str) -> None:
        since_ms = self._feed.stale_since_ms
        if since_ms is not None and self._feed.watches(session, channel):
            session.tell_staleness(since_ms)

    def _start(
        self, session: Session, command: Command, request: SubscribeRequest, start: Start
    ) -> bool:
        """Reply to a subscribe command in the step in which the feed attaches the session."""
        if session.close_code is not None:
            return False
        ttl_s = None
        try:
            if self._reception is not None:
                ttl_s = self._reception.start(cast("GuardedSession", session), request)
            self._presence.check_follow(session, request)
        except ProblemError as error:
            self._fail(session, command, error.problem)
            return False
        if start.changes is None:
            if start.was_recovering and request.flag & REJECT_UNRECOVERED:
                self._fail(session, command, Problem.UNRECOVERABLE)
                return False
            if len(start.replica.snapshot()) > self._settings.snapshot_max_bytes:
                self._fail(session, command, Problem.LIMIT_EXCEEDED)
                return False
        missed = self._missed.encoded(session.codec, start.changes or ())
        reply = session.codec.encode_subscribed(command.id, start, missed, ttl_s)
        session.write(reply, exempt=True)
        session.count_channel(1)
        self._presence.subscribed(session, request)
        self._started(start)
        return True

    def _unsubscribe(self, session: Session, command: Command, request: ChannelRequest) -> None:
        # No error for a channel that isn't subscribed: it may just have ended, and official
        # SDKs answer an error by connecting anew.
        if self._feed.watches(session, request.channel):
            session.count_channel(-1)
            self._feed.unsubscribe(session, request.channel)
            if self._reception is not None:
                self._reception.unsubscribed(cast("GuardedSession", session), request.channel)
        session.write([session.codec.encode_reply(command, {})])

    async def _history(self, session: Session, command: Command, request: HistoryRequest) -> None:
        head, changes = await read_history(
            self._feed,
            request,
            max_changes=self._settings.history_max_changes,
            max_bytes=self._settings.slow_buffer_max_bytes,
        )
        self._require(session, Action.READ_CHANGES, request.channel)
        session.write(session.codec.encode_history(command.id, head, changes))

    def _call(self, session: Session, command: Command, request: RpcRequest) -> Work | None:
        if request.method != "digest":
            raise ProblemError(Problem.METHOD_NOT_FOUND)
        name = msgspec.json.decode(request.data, type=ChannelRequest).channel
        self._require(session, Action.READ_DIGEST, name)
        channel = parse_channel(name)
        replica = self._feed.current(channel)
        if replica is not None:
            found = DigestAt(channel, replica.position, replica.digest(), from_replica=True)
            session.write([session.codec.encode_reply(command, {"data": found.document()})])
            return None

        async def read() -> None:
            found = await self._feed.digest(channel)
            self._require(session, Action.READ_DIGEST, channel)
            session.write([session.codec.encode_reply(command, {"data": found.document()})])

        return read


def _lasting(ttl_s: int) -> dict[str, object]:
    return {"expires": True, "ttl": ttl_s}
