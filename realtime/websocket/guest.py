"""Guests: whose connection it is where tokens are asked for, what they may see, and until when."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Final

from channels.feed import Feed
from channels.subscribers import EndReason
from realtime.auth.claims import ChannelGrant
from realtime.auth.credentials import Credentials
from realtime.auth.errors import RefusedError
from realtime.auth.gate import Gate
from realtime.auth.policy import Action
from realtime.auth.principal import Principal
from realtime.heartbeat import Heartbeat
from realtime.websocket.centrifuge_codec import Disconnect, Problem
from realtime.websocket.protobuf_codec import PROTOBUF
from realtime.websocket.session import House, Session

LEAST_TTL_S: Final = 1
"""What a client is told of a token that is about to end: SDKs take 0 for never."""


class ProblemError(Exception):
    """A command that is answered with a problem: its client may not, or not now."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.value[1])
        self.problem = problem


class GuardedSession(Session):
    """A session of a node that asks for tokens.

    Args:
        transport: As of any session.
        house: Likewise.
        opened_s: Likewise.
        shown: What the handshake carried, or why that counts for nothing.

    Attributes:
        shown: The same until somebody was let in; then `None`.
        guest: Who was let in; `None`: nobody was yet, or the connection has ended.
    """

    __slots__ = ("guest", "shown")

    def __init__(
        self,
        transport: asyncio.Transport,
        house: House,
        opened_s: float,
        shown: Credentials | RefusedError,
    ) -> None:
        super().__init__(transport, house, opened_s)
        self.shown: Credentials | RefusedError | None = shown
        self.guest: Guest | None = None

    def end_channel(self, channel: str, reason: EndReason) -> None:
        """Tell the client that a subscription ended."""
        if self.guest is not None:
            self.guest.drop(channel)
        super().end_channel(channel, reason)

    def closed(self, code: int) -> None:
        """Leave everything, as nothing can be sent any more."""
        if self.guest is not None:
            self.guest.leave()
            self.guest = None
        super().closed(code)

    def expire(self) -> None:
        """Close the connection, whose token has ended; who doesn't read is not waited for."""
        self.end(Disconnect.EXPIRED)
        if self.writing_paused:
            self.transport.abort()

    def revoke(self) -> None:
        """Drop the connection at once, with what it has still to be told."""
        self.closed(Disconnect.INVALID_TOKEN.code)
        self.transport.abort()


class GuardedProtobufSession(GuardedSession):
    """Such a session whose client speaks Protobuf."""

    __slots__ = ()

    codec = PROTOBUF


@dataclass(frozen=True, slots=True)
class Hall:
    """What the guests of a node have in common.

    Attributes:
        gate: Says who they are and what they may do.
        feed: Where they watch channels.
        heartbeat: Tells them of their deadlines.
        grace_s: How long after its token has ended something goes on, to be refreshed.
    """

    gate: Gate
    feed: Feed
    heartbeat: Heartbeat
    grace_s: float

    def ttl_s(self, principal: Principal) -> int:
        """Return how long a token lasts, in whole seconds as clients are told."""
        return max(LEAST_TTL_S, ceil(principal.expires_at_s - self.gate.now_s()))

    def may(self, principal: Principal, action: Action, channel: str) -> bool:
        """Ask the policy."""
        return self.gate.policy.allows_channel(principal, action, channel)


class Stay(ABC):
    """Something that lasts until a token has ended and a grace is over, or it is taken back.

    Args:
        hall: What all have in common.
        principal: Whom the token is of.
        changed: Told what is left when something is taken back; `None`: nothing.
    """

    __slots__ = ("_until_s", "_watch", "hall")

    def __init__(
        self, hall: Hall, principal: Principal, changed: Callable[[Principal | None], None]
    ) -> None:
        self.hall = hall
        self._watch = hall.gate.revocations.watch(principal, changed)
        self._until_s = 0.0

    @abstractmethod
    def expired(self) -> None:
        """Learn that it may be over: the deadline is."""

    @property
    def principal(self) -> Principal:
        """Whom the token is of, as far as nothing was taken back."""
        return self._watch.principal

    @property
    def is_expired(self) -> bool:
        """Whether the token has ended; what it began goes on for the grace, and no more begins."""
        return self.principal.is_expired(self.hall.gate.now_s())

    def expect_end(self) -> None:
        """Have `expired` called when it is over."""
        left_s = self.principal.expires_at_s - self.hall.gate.now_s() + self.hall.grace_s
        # A whole second, so that those that end together have one place in the wheel.
        self._until_s = ceil(asyncio.get_running_loop().time() + left_s)
        self.hall.heartbeat.expect(self, self._until_s)

    def is_over(self) -> bool:
        """Tell whether it is over; else, as the clock was set back, wait on."""
        if self.principal.is_expired(self.hall.gate.now_s() - self.hall.grace_s):
            return True
        self.expect_end()
        return False

    def renew(self, principal: Principal) -> None:
        """Go on with another token of the same subject."""
        self.hall.heartbeat.forget(self, self._until_s)
        self._watch.update(principal)
        self.expect_end()

    def end(self) -> None:
        """Wait for nothing any more. May be called twice."""
        self._watch.close()
        self.hall.heartbeat.forget(self, self._until_s)


class Permit(Stay):
    """One channel of a connection, granted by a subscription token."""

    __slots__ = ("_channel", "_guest")

    def __init__(self, guest: Guest, grant: ChannelGrant) -> None:
        super().__init__(guest.hall, grant.principal, self._shrunk)
        self._guest = guest
        self._channel = grant.channel
        self.expect_end()

    def expired(self) -> None:
        """Learn that the grace is over."""
        if self._guest.has(self) and self.is_over():
            self._guest.end_channel(self._channel, EndReason.EXPIRED)

    def _shrunk(self, left: Principal | None) -> None:
        if left is None or not self.hall.may(left, Action.SUBSCRIBE, self._channel):
            self._guest.end_channel(self._channel, EndReason.REVOKED)

    def allows(self, action: Action, channel: str) -> bool:
        """Tell whether it is for that."""
        return channel == self._channel and self.hall.may(self.principal, action, channel)


_NO_PERMITS: Final[dict[str, Permit]] = {}
"""What most guests have; nothing is ever put in."""


class Guest(Stay):
    """Whose connection it is. No method awaits.

    Args:
        hall: What all guests have in common.
        session: The connection.
        principal: Who it is.
    """

    __slots__ = ("_permits", "_session")

    def __init__(self, hall: Hall, session: GuardedSession, principal: Principal) -> None:
        super().__init__(hall, principal, self._shrunk)
        self._session = session
        self._permits = _NO_PERMITS
        self.expect_end()

    # What it may see

    def require(self, action: Action, channel: str) -> None:
        """Check that it may do something on a channel now.

        Raises:
            ProblemError: it may not, or its token has ended.
        """
        permit = self._permits.get(channel)
        if permit is not None and permit.allows(action, channel):
            is_expired = permit.is_expired or self.is_expired
        elif self.hall.may(self.principal, action, channel):
            is_expired = self.is_expired
        else:
            raise ProblemError(Problem.PERMISSION_DENIED)
        if is_expired:
            raise ProblemError(Problem.TOKEN_EXPIRED)

    def may_watch(self, channel: str) -> bool:
        """Tell whether it has a channel by its connection's token."""
        return not self.is_expired and self.hall.may(self.principal, Action.SUBSCRIBE, channel)

    def _shrunk(self, left: Principal | None) -> None:
        if left is None:
            self._session.revoke()
        else:
            self._leave_lost()

    def _leave_lost(self) -> None:
        """Take the channels from the client that it may no longer see."""
        for channel in sorted(self.hall.feed.channels_of(self._session)):
            is_permitted = channel in self._permits
            if not is_permitted and not self.hall.may(self.principal, Action.SUBSCRIBE, channel):
                self.end_channel(channel, EndReason.REVOKED)

    # Subscription tokens

    def permit(self, grant: ChannelGrant) -> None:
        """Take a subscription token in, in the place of an earlier one."""
        self.drop(grant.channel)
        if self._permits is _NO_PERMITS:
            self._permits = {}
        self._permits[grant.channel] = Permit(self, grant)

    def renew_permit(self, grant: ChannelGrant) -> bool:
        """Go on with another subscription token; tell whether the channel has one."""
        permit = self._permits.get(grant.channel)
        if permit is not None:
            permit.renew(grant.principal)
        return permit is not None

    def permit_ttl_s(self, channel: str) -> int | None:
        """Return how long a subscription's token lasts; `None`: it has none of its own."""
        permit = self._permits.get(channel)
        return None if permit is None else self.hall.ttl_s(permit.principal)

    def has(self, permit: Permit) -> bool:
        """Tell whether a permit is still one of these."""
        return permit in self._permits.values()

    def drop(self, channel: str) -> None:
        """Forget what was granted of a channel by a token of its own, if anything."""
        permit = self._permits.pop(channel, None)
        if permit is not None:
            permit.end()

    def end_channel(self, channel: str, reason: EndReason) -> None:
        """Take a channel from the client, who is told, if it has it."""
        self.drop(channel)
        if self._session.close_code is None and self.hall.feed.watches(self._session, channel):
            self.hall.feed.unsubscribe(self._session, channel)
            self._session.end_channel(channel, reason)

    # Its token

    def refresh(self, principal: Principal) -> None:
        """Go on as another token of the same subject says; what it doesn't grant ends."""
        self.renew(principal)
        self._leave_lost()

    def expired(self) -> None:
        """Learn that the grace is over."""
        if self._session.close_code is None and self.is_over():
            self._session.expire()

    def leave(self) -> None:
        """Wait for nothing any more: the connection is gone."""
        for channel in list(self._permits):
            self.drop(channel)
        self.end()
