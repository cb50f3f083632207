"""The gate: from what somebody shows to a principal. One a node, asked by every transport."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from starlette.types import Scope as AsgiScope

from channels.ports import UnavailableError
from realtime.auth.claims import ChannelGrant, channel_grant_of, principal_of
from realtime.auth.credentials import NOTHING, Credentials, Source, read_credentials
from realtime.auth.errors import Reason, RefusedError
from realtime.auth.origins import Origins
from realtime.auth.policy import Action, Policy
from realtime.auth.principal import ANYBODY, Principal
from realtime.auth.revocations import Revocations
from realtime.auth.tokens import TokenVerifier, UnknownKeyError


class KeyFetcher(Protocol):
    """Who can fetch keys that are not at hand."""

    @property
    def is_ready(self) -> bool:
        """Whether there are keys."""

    async def fetch(self, key_id: str) -> bool:
        """Fetch the keys anew, shared with others who wait; tell whether this one may be there.

        Raises:
            UnavailableError: there are no keys, and they can't be fetched now.
        """


class Tickets(Protocol):
    """Who redeems tickets."""

    async def redeem(self, ticket: str) -> Principal | None:
        """Take a ticket, which nobody can do a second time on any node; `None`: it is none.

        Raises:
            UnavailableError: the database can't be asked.
        """


@dataclass(frozen=True, slots=True)
class GateRules:
    """How credentials are accepted.

    Attributes:
        cookie_name: The session's cookie.
        query_tokens: Whether a token is accepted in a URL.
    """

    cookie_name: str
    query_tokens: bool


class Gate:
    """Lets in.

    Whoever keeps a principal for longer than a request watches it (`revocations.watch`), and
    ends what it was for at `principal.expires_at_s`, plus a grace where there is one.

    Attributes:
        policy: What principals may do.
        revocations: What was taken back.
        origins: Which pages may talk to us.
    """

    def __init__(
        self,
        verifier: TokenVerifier | None,
        *,
        fetcher: KeyFetcher | None,
        tickets: Tickets,
        revocations: Revocations,
        origins: Origins,
        rules: GateRules,
        refused: Callable[[Reason], None],
    ) -> None:
        """Make the gate.

        Args:
            verifier: Checks tokens; `None`: no key is set, and everybody is let in.
            fetcher: Fetches keys; `None`: there are no others.
            tickets: Redeems tickets.
            revocations: What was taken back.
            origins: Which pages may talk to us.
            rules: How credentials are accepted.
            refused: Told of each refusal, to count it.
        """
        self._verifier = verifier
        self._fetcher = fetcher
        self._tickets = tickets
        self._rules = rules
        self._refused = refused
        self.policy = Policy()
        self.revocations = revocations
        self.origins = origins

    @property
    def is_open(self) -> bool:
        """Whether no key is set, so that everybody is `ANYBODY`."""
        return self._verifier is None

    def unready_reasons(self) -> list[str]:
        """Tell why this node can't let anybody in now; nothing: it can."""
        if self._verifier is None:
            return []
        reasons = []
        if not self.revocations.is_ready:
            reasons.append("the revocations were not read yet")
        if self._fetcher is not None and not self._fetcher.is_ready:
            reasons.append("the token keys cannot be fetched")
        return reasons

    def now_s(self) -> float:
        """Return the wall clock by which tokens end, Unix seconds."""
        return 0.0 if self._verifier is None else self._verifier.unix_s()

    # What a request carries

    def credentials(self, scope: AsgiScope, *, tickets: bool = False) -> Credentials:
        """Find what a request or handshake carries; nothing where no key is set.

        Args:
            scope: Of ASGI.
            tickets: Whether a ticket will do, as for event streams and WebSockets.

        Raises:
            RefusedError: it is in a form or place that is not accepted, or a cookie that a
                page of another origin made the browser send.
        """
        if self._verifier is None:
            return NOTHING
        with self._counted():
            return self._find(scope, tickets=tickets)

    def _find(self, scope: AsgiScope, *, tickets: bool) -> Credentials:
        found = read_credentials(
            scope,
            cookie_name=self._rules.cookie_name,
            query_tokens=self._rules.query_tokens,
            tickets=tickets,
        )
        if found.source is Source.COOKIE:
            self.origins.check_cookie(scope)
        return found

    def allows_now(self, scope: AsgiScope, action: Action) -> bool:
        """Tell whether it is known without waiting that who sends a request may do something.

        Counts nothing: whoever gets no for an answer is to be asked the long way.
        """
        if self._verifier is None:
            return True
        try:
            found = self._find(scope, tickets=False)
            principal = self.revocations.check(self._principal_of(self._verifier, found.text))
        except (RefusedError, UnavailableError):
            return False
        return self.policy.allows(principal, action)

    def subject_now(self, scope: AsgiScope) -> str:
        """Return whose token a request carries, as far as is known without waiting, else nothing.

        Counts nothing, and lets nobody in: what was taken back since isn't looked at.
        """
        if self._verifier is None:
            return ""
        try:
            found = self._find(scope, tickets=False)
            return self._principal_of(self._verifier, found.text).subject
        except RefusedError:
            return ""

    async def authenticate(self, credentials: Credentials) -> Principal:
        """Return whom credentials are of.

        Awaits only for a ticket, or a key to be fetched. Cancel-safe; a ticket may be lost then.

        Raises:
            RefusedError: they are of nobody.
            UnavailableError: keys, tickets or revocations can't be asked now.
        """
        if self._verifier is None:
            return ANYBODY
        if credentials.source is Source.TICKET:
            principal = await self._tickets.redeem(credentials.text)
            with self._counted():
                if principal is None or principal.is_expired(self.now_s()):
                    raise RefusedError(Reason.TICKET, "the ticket was used, or is too old")
                return self.revocations.check(principal)
        return await self.authenticate_token(credentials.text)

    def check_alive(self, principal: Principal) -> None:
        """Refuse a principal whose token has ended meanwhile.

        Raises:
            RefusedError: it has.
        """
        with self._counted():
            if principal.is_expired(self.now_s()):
                raise RefusedError(Reason.EXPIRED, "the token has expired meanwhile")

    # Tokens

    def authenticate_now(self, token: str) -> Principal:
        """Return whom a token is of, without waiting.

        Raises:
            UnknownKeyError: its key is not at hand; `authenticate_token` may find it.
            RefusedError: it is not valid, or taken back.
            UnavailableError: what was taken back is not known now.
        """
        if self._verifier is None:
            return ANYBODY
        with self._counted():
            return self.revocations.check(self._principal_of(self._verifier, token))

    def at_hand(self, credentials: Credentials) -> Principal | None:
        """Return whom credentials are of; `None`: `authenticate` has to be awaited for it.

        Raises:
            RefusedError: they are of nobody.
            UnavailableError: what was taken back is not known now.
        """
        if self._verifier is None:
            return ANYBODY
        if credentials.source is not Source.TICKET:
            with self._fetchable():
                principal = self._principal_of(self._verifier, credentials.text)
                return self.revocations.check(principal)
        return None

    async def authenticate_token(self, token: str) -> Principal:
        """Return whom a token is of, fetching its key where needed. Cancel-safe.

        Raises:
            RefusedError: it is not valid, or taken back.
            UnavailableError: keys or revocations can't be asked now.
        """
        if self._verifier is None:
            return ANYBODY
        await self._prepare(token)
        return self.authenticate_now(token)

    async def channel_grant(self, token: str, channel: str, holder: Principal) -> ChannelGrant:
        """Return what a subscription token grants to the holder of a connection. Cancel-safe.

        Raises:
            RefusedError: it is not valid, taken back, somebody else's, or for another channel.
            UnavailableError: keys or revocations can't be asked now.
        """
        await self._prepare(token)
        with self._counted():
            return self._channel_grant_of(token, channel, holder)

    def channel_grant_at_hand(
        self, token: str, channel: str, holder: Principal
    ) -> ChannelGrant | None:
        """Do the same without waiting; `None`: a key has to be fetched for it."""
        with self._fetchable():
            return self._channel_grant_of(token, channel, holder)
        return None

    def _channel_grant_of(self, token: str, channel: str, holder: Principal) -> ChannelGrant:
        verifier = self._verifier
        if verifier is None:
            raise RefusedError(Reason.NOT_HERE, "no tokens are used here")
        grant = channel_grant_of(verifier.verify(token), verifier.rules.claims, verifier.unix_s())
        if grant.principal.subject != holder.subject:
            raise RefusedError(Reason.CLAIMS, "sub: the token is somebody else's")
        if grant.channel != channel:
            raise RefusedError(Reason.CLAIMS, "channel: the token is for another one")
        left = self.revocations.check(grant.principal)
        if not self.policy.allows_channel(left, Action.SUBSCRIBE, channel):
            raise RefusedError(Reason.REVOKED, "the zone was taken back")
        return replace(grant, principal=left)

    async def _prepare(self, token: str) -> None:
        """Fetch keys until the token's is at hand, or is known not to be there."""
        if self._fetcher is None or self._verifier is None or not token:
            return
        try:
            self._verifier.verify(token)
        except UnknownKeyError as error:
            await self._fetcher.fetch(error.key_id)
        except RefusedError:
            pass

    def _principal_of(self, verifier: TokenVerifier, token: str) -> Principal:
        if not token:
            raise RefusedError(Reason.MISSING, "send a token, as in Authorization: Bearer TOKEN")
        return principal_of(verifier.verify(token), verifier.rules.claims, verifier.unix_s())

    @contextmanager
    def _fetchable(self) -> Iterator[None]:
        """Count refusals, but pass over a key that is not known yet and can be fetched."""
        try:
            yield
        except RefusedError as error:
            if self._fetcher is not None and isinstance(error, UnknownKeyError):
                return
            self._refused(error.reason)
            raise

    @contextmanager
    def _counted(self) -> Iterator[None]:
        try:
            yield
        except RefusedError as error:
            self._refused(error.reason)
            raise
