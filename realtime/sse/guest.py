"""Guests of event streams: who may have one where tokens are asked for, and until when."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from starlette.requests import Request

from channels.subscribers import Start
from realtime.api.problems import Kind, ProblemError
from realtime.auth.policy import Action
from realtime.auth.principal import Principal
from realtime.node import Node
from realtime.sse.request import EVERYTHING, StreamRequest
from realtime.sse.stream import SseStream, Streams
from realtime.sse.wire import Wire

INVALID_TOKEN: Final = 3500
PERMISSION_DENIED: Final = 3507


async def enter(request: Request, node: Node) -> Principal:
    """Find out who asks for a stream, and whether they may watch the zones that they name.

    Before anything else of the request is looked at: who may not learns nothing about it.
    Cancel-safe; a ticket may be lost then.

    Raises:
        RefusedError: nobody is known by what was sent.
        ForbiddenError: they may not.
        UnavailableError: it can't be known now.
        ProblemError: it could not be found out in time.
    """
    gate = node.gate
    credentials = gate.credentials(request.scope, tickets=True)
    try:
        async with asyncio.timeout(node.settings.request_timeout_s) as bound:
            principal = await gate.authenticate(credentials)
    except TimeoutError:
        if not bound.expired():
            raise
        raise ProblemError(Kind.TIMEOUT, "the token could not be checked in time") from None
    zone_ids = request.query_params.getlist("zone")
    if EVERYTHING in zone_ids:
        gate.policy.require(principal, Action.WATCH_EVERYTHING)
    else:
        gate.policy.require(principal, Action.SUBSCRIBE, zone_ids)
    return principal


class GuardedStream(SseStream):
    """A stream that lasts as long as its token, and no longer than its rights.

    A stream can't show a newer token, so there is no grace: a client makes another one. It has
    to be made in the step in which its principal was found, and `closed` ends it.

    Args:
        shared: As of any stream.
        asked: Likewise.
        wire: Likewise.
        peer: Likewise.
        principal: Who has it.
    """

    __slots__ = ("_channels", "_watch")

    def __init__(
        self, shared: Streams, asked: StreamRequest, wire: Wire, peer: str, principal: Principal
    ) -> None:
        gate = shared.node.gate
        left_s = principal.expires_at_s - gate.now_s()
        until_s = asyncio.get_running_loop().time() + left_s
        # The stream takes what is wanted out of the request as it goes.
        self._channels = tuple(asked.wanted)
        super().__init__(shared, replace(asked, expires_at_s=until_s), wire, peer)
        self._watch = gate.revocations.watch(principal, self._shrunk)

    def _shrunk(self, left: Principal | None) -> None:
        """End where anything that it watches was taken back."""
        policy = self.shared.node.gate.policy
        if left is not None and all(
            policy.allows_channel(left, Action.SUBSCRIBE, channel) for channel in self._channels
        ):
            return
        if left is None or self._wire.is_blocked:
            # Not behind what waits to be read.
            self.close_code = INVALID_TOKEN if left is None else PERMISSION_DENIED
            self._abort()
        else:
            self.end_with(PERMISSION_DENIED, "permission revoked")

    def _begin(self, starts: Sequence[Start]) -> bool:
        """Write how subscriptions begin, unless the token has ended while they were read."""
        if self._watch.principal.is_expired(self.shared.node.gate.now_s()):
            self.expire()
        return super()._begin(starts)

    def closed(self) -> None:
        """Leave everything, as nothing can be sent any more; may be told twice."""
        self._watch.close()
        super().closed()
