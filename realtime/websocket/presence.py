"""The commands about presence, and the pushes that tell who came to a channel and who left it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from channels.names import parse_channel
from channels.presence import Difference, Presence
from realtime.auth.policy import Action
from realtime.presence import Attendance
from realtime.websocket.centrifuge_codec import (
    ChannelRequest,
    Command,
    Problem,
    SubscribeRequest,
    decode_params,
    present,
)
from realtime.websocket.guest import ProblemError
from realtime.websocket.reception import Work
from realtime.websocket.session import Session


class PresenceCommands:
    """Executes `presence` and `presence_stats`, and subscribes to joins and leaves.

    Args:
        attendance: Knows who watches what.
        require: Checks that a client may do something on a channel.
    """

    def __init__(
        self, attendance: Attendance, require: Callable[[Session, Action, str], None]
    ) -> None:
        self._attendance = attendance
        self._require = require

    def begin(self, session: Session, command: Command) -> Work:
        """Check a command; return the rest of it.

        Raises (as what is returned does):
            ProblemError: the client may not, or there is more than may be told.
            InvalidChannelError: there is no such channel.
            UnavailableError: other nodes can't be asked now.
            TooManyWaitingError: too much is asked now.
        """
        request = decode_params(command, ChannelRequest)
        self._require(session, Action.READ_PRESENCE, request.channel)
        return partial(self._answer, session, command, parse_channel(request.channel))

    async def _answer(self, session: Session, command: Command, channel: str) -> None:
        is_named = command.method == "presence"
        found = await self._attendance.look(channel, is_named=is_named)
        self._require(session, Action.READ_PRESENCE, channel)
        result = _clients(found) if is_named else _numbers(found)
        session.write([session.codec.encode_reply(command, result)])

    def check_follow(self, session: Session, request: SubscribeRequest) -> None:
        """Check that a client may have the joins and leaves, if it asks for them.

        Raises:
            ProblemError: it may not, or too many channels are followed already.
        """
        if request.join_leave:
            self._require(session, Action.READ_PRESENCE, request.channel)
            if not self._attendance.may_follow(request.channel):
                raise ProblemError(Problem.LIMIT_EXCEEDED)

    def subscribed(self, session: Session, request: SubscribeRequest) -> None:
        """Tell a client of joins and leaves if it asked for them; until it unsubscribes."""
        if request.join_leave:
            self._attendance.follow(session, request.channel, _tell)
        else:
            # It may have unsubscribed, with them, a moment ago.
            self._attendance.unfollow(session, request.channel)


def _clients(found: Presence) -> dict[str, object]:
    if found.clients is None:
        raise ProblemError(Problem.LIMIT_EXCEEDED)
    return {"presence": {client: present(client, user) for client, user in found.clients.items()}}


def _numbers(found: Presence) -> dict[str, object]:
    return {"num_clients": found.num_clients, "num_users": found.num_users}


def _tell(session: Session, difference: Difference) -> None:
    codec = session.codec
    pushes = difference.encoded.get(codec)
    if pushes is None:
        pushes = difference.encoded[codec] = codec.encode_attendance(difference)
    for push in pushes:
        session.write([push])
