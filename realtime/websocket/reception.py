"""The reception: lets sessions in by their tokens, and says what each command may do."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator

from realtime.auth.claims import ChannelGrant
from realtime.auth.credentials import Credentials, Source
from realtime.auth.errors import Reason, RefusedError
from realtime.auth.policy import Action
from realtime.auth.principal import Principal
from realtime.websocket.centrifuge_codec import Problem, SubscribeRequest
from realtime.websocket.guest import GuardedSession, Guest, Hall, ProblemError

Work = Callable[[], Awaitable[None]]
"""The rest of a command that has to wait for something. Called once, or never."""


class InvalidTokenError(Exception):
    """A token after which the connection is of no use (disconnect 3500); `why` is for logs."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Reception:
    """Where the commands of a node that asks for tokens find out who it is and who may.

    What needs no key to be fetched is done at once. Rights are asked before anything is read
    for a command, and again in the step in which it is answered, as they may have shrunk
    meanwhile.

    Args:
        hall: What the node's guests have in common.
        may_be: Tells whether a session may be one more of a subject, and counts it.
    """

    def __init__(self, hall: Hall, may_be: Callable[[GuardedSession, str], bool]) -> None:
        self._hall = hall
        self._may_be = may_be
        self._gate = hall.gate

    # Who it is

    def enter(
        self, session: GuardedSession, token: str, welcome: Callable[[int], None]
    ) -> Work | None:
        """Let a client in by its `connect`, by the token in it or by what the handshake carried.

        Args:
            session: The connection.
            token: The command's; empty: none.
            welcome: Answers; told how many seconds the token lasts.

        Raises (as what is returned does):
            ProblemError: it has none, or one that has ended: it may try again.
            InvalidTokenError: the session is to be ended.
            UnavailableError: keys, tickets or revocations can't be asked now.
        """

        def let_in(principal: Principal) -> None:
            if not self._may_be(session, principal.subject):
                # Temporary: SDKs close, and come back when others of it may be gone.
                raise ProblemError(Problem.TOO_MANY_REQUESTS)
            session.guest = Guest(self._hall, session, principal)
            session.shown = None
            welcome(self._hall.ttl_s(principal))

        with _explained():
            shown = Credentials(Source.HEADER, token) if token else session.shown
            if isinstance(shown, RefusedError):
                raise shown
        return self._authenticate(session, shown or Credentials(Source.NONE), let_in)

    def refresh(
        self, session: GuardedSession, token: str, renewed: Callable[[int], None]
    ) -> Work | None:
        """Go on with another token. Raises as `enter`."""

        def renew(principal: Principal) -> None:
            guest = _guest_of(session)
            if principal.subject != guest.principal.subject:
                raise InvalidTokenError("a refresh with somebody else's token")
            guest.refresh(principal)
            renewed(self._hall.ttl_s(principal))

        if not token:
            raise ProblemError(Problem.BAD_REQUEST)
        return self._authenticate(session, Credentials(Source.HEADER, token), renew)

    def _authenticate(
        self, session: GuardedSession, shown: Credentials, go_on: Callable[[Principal], None]
    ) -> Work | None:
        with _explained():
            principal = self._gate.at_hand(shown)
        if principal is not None:
            go_on(principal)
            return None

        async def wait() -> None:
            with _explained():
                found = await self._gate.authenticate(shown)
            if session.close_code is None:
                go_on(found)

        return wait

    # What it may do

    def require(self, session: GuardedSession, action: Action, channel: str) -> None:
        """Check that a client may do something on a channel now.

        Raises:
            ProblemError: it may not, or its token has ended.
        """
        _guest_of(session).require(action, channel)

    def may_prepare(self, session: GuardedSession, request: SubscribeRequest) -> bool:
        """Tell whether it is known that a client may have what it will ask for."""
        guest = session.guest
        return guest is not None and not request.token and guest.may_watch(request.channel)

    async def require_subscribe(self, session: GuardedSession, request: SubscribeRequest) -> None:
        """Check that a client may have what it will ask for; its token is checked again then.

        Raises:
            ProblemError: it may not, or its token has ended.
            UnavailableError: keys or revocations can't be asked now.
        """
        guest = _guest_of(session)
        token = _token_of(request)
        if token:
            with _explained_of_channel():
                await self._gate.channel_grant(token, request.channel, guest.principal)
        else:
            guest.require(_action_of(request), request.channel)

    def subscribe(
        self,
        session: GuardedSession,
        request: SubscribeRequest,
        follow: Callable[[], Work | None],
    ) -> Work | None:
        """Have a client subscribed that may, by its own token or by one for the channel.

        Args:
            session: The connection.
            request: What it asks for.
            follow: Subscribes it, and returns what has to be awaited for that.

        Raises (as what is returned does):
            ProblemError: it may not, or a token has ended.
            UnavailableError: keys or revocations can't be asked now.
        """
        guest = _guest_of(session)
        token = _token_of(request)
        if not token or self._hall.feed.watches(session, request.channel):
            guest.require(_action_of(request), request.channel)
            return follow()
        with _explained_of_channel():
            grant = self._gate.channel_grant_at_hand(token, request.channel, guest.principal)
        if grant is not None:
            return self._follow_permitted(session, grant, follow)

        async def wait() -> None:
            with _explained_of_channel():
                found = await self._gate.channel_grant(token, request.channel, guest.principal)
            work = self._follow_permitted(session, found, follow)
            if work is not None:
                await work()

        return wait

    def _follow_permitted(
        self, session: GuardedSession, grant: ChannelGrant, follow: Callable[[], Work | None]
    ) -> Work | None:
        """Subscribe with a permit, which lasts no longer than the subscription."""
        if session.close_code is not None:
            return None
        guest = _guest_of(session)
        guest.permit(grant)
        work: Work | None = None
        try:
            work = follow()
        finally:
            if work is None:
                self._drop_unused(session, guest, grant)
        if work is None:
            return None
        pending = work

        async def wait() -> None:
            try:
                await pending()
            finally:
                self._drop_unused(session, guest, grant)

        return wait

    def _drop_unused(self, session: GuardedSession, guest: Guest, grant: ChannelGrant) -> None:
        if not self._hall.feed.watches(session, grant.channel):
            guest.drop(grant.channel)

    def start(self, session: GuardedSession, request: SubscribeRequest) -> int | None:
        """Check once more, in the step in which a subscription begins.

        Returns:
            How many seconds the subscription's own token lasts; `None`: it has none.

        Raises:
            ProblemError: the client may not have it any more.
        """
        guest = _guest_of(session)
        guest.require(_action_of(request), request.channel)
        return guest.permit_ttl_s(request.channel)

    def unsubscribed(self, session: GuardedSession, channel: str) -> None:
        """Forget what a subscription was granted by."""
        if session.guest is not None:
            session.guest.drop(channel)

    def refresh_channel(
        self,
        session: GuardedSession,
        channel: str,
        token: str,
        renewed: Callable[[int], None],
    ) -> Work | None:
        """Go on with another token for one channel. Raises as `subscribe`."""
        guest = _guest_of(session)
        if not token:
            raise ProblemError(Problem.BAD_REQUEST)

        def renew(grant: ChannelGrant) -> None:
            if not guest.renew_permit(grant):
                # It is not subscribed, or not by a token of its own.
                raise ProblemError(Problem.PERMISSION_DENIED)
            renewed(self._hall.ttl_s(grant.principal))

        with _explained_of_channel():
            grant = self._gate.channel_grant_at_hand(token, channel, guest.principal)
        if grant is not None:
            renew(grant)
            return None

        async def wait() -> None:
            with _explained_of_channel():
                found = await self._gate.channel_grant(token, channel, guest.principal)
            renew(found)

        return wait


def _guest_of(session: GuardedSession) -> Guest:
    if session.guest is None:
        raise ProblemError(Problem.UNAUTHORIZED)
    return session.guest


def _action_of(request: SubscribeRequest) -> Action:
    return Action.RESUME if request.recover else Action.SUBSCRIBE


def _token_of(request: SubscribeRequest) -> str:
    token = request.token
    if token is not None and not isinstance(token, str):
        raise ProblemError(Problem.BAD_REQUEST)
    return token or ""


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Say in the protocol's terms why somebody is not let in."""
    try:
        yield
    except RefusedError as error:
        if error.reason is Reason.MISSING:
            raise ProblemError(Problem.UNAUTHORIZED) from None
        if error.reason is Reason.EXPIRED:
            raise ProblemError(Problem.TOKEN_EXPIRED) from None
        raise InvalidTokenError(error.detail) from None


@contextlib.contextmanager
def _explained_of_channel() -> Iterator[None]:
    """Say in the protocol's terms why a subscription token grants nothing."""
    try:
        yield
    except RefusedError as error:
        is_over = error.reason is Reason.EXPIRED
        problem = Problem.TOKEN_EXPIRED if is_over else Problem.PERMISSION_DENIED
        raise ProblemError(problem) from None
