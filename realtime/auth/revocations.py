"""Revocations: what was taken back, known to every node, and asked without waiting.

The rows are in the database, and their channel `revocations` is followed like any other: the
bus brings it, head checks bring it within two seconds where the bus does not.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import structlog

from channels.changes import Change
from channels.events import Revoked
from channels.feed import Feed, UnknownChannelError
from channels.names import REVOCATIONS
from channels.ports import UnavailableError
from channels.subscribers import EndReason, Start
from realtime.auth.errors import Reason, RefusedError
from realtime.auth.principal import Principal
from realtime.auth.watches import Changed, Watch, Watches, shrink

RETRY_S: Final = 0.25
SWEEP_S: Final = 60.0


class RevocationRows(Protocol):
    """Where the revocations are read from as they are now."""

    async def read_all(self) -> Sequence[Revoked]:
        """Read all that are still in force.

        Raises:
            UnavailableError: the database doesn't answer in time.
        """


class _Plain:
    """The codec of who takes changes as they are."""

    def encode(self, changes: Sequence[Change]) -> Sequence[Change]:
        """Return the changes."""
        return changes


class Revocations:
    """What was taken back, as this node knows it: a subscriber of its own channel.

    `check`, `watch` and `version` never await. Before the rows were first read `check` raises
    `UnavailableError`: who was revoked must not slip in while a node starts. Afterwards, with
    the database away, it goes by what is known, as nothing new could be shown either; but for
    no longer than `unverified_max_s`.

    Args:
        feed: Brings the channel.
        rows: Where the revocations are read from.
        unverified_max_s: How long the database may be away before nobody new is let in.
        unix_s: The wall clock.
    """

    def __init__(
        self,
        feed: Feed,
        rows: RevocationRows,
        *,
        unverified_max_s: float,
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        self._feed = feed
        self._rows = rows
        self._unverified_max_s = unverified_max_s
        self._unix_s = unix_s
        self._by_subject: dict[str, list[Revoked]] = {}
        self._by_token: dict[str, Revoked] = {}
        self._meanwhile: list[Revoked] | None = None
        self._watches = Watches()
        self._lost = asyncio.Event()
        self._ready = asyncio.Event()
        self._log = structlog.stdlib.get_logger("zonecast.auth")
        self.version = 0
        """Rises with each revocation heard of: who kept a principal asks again when it did."""

    # Asking

    @property
    def is_ready(self) -> bool:
        """Whether the rows were read."""
        return self._ready.is_set()

    def check(self, principal: Principal) -> Principal:
        """Return what is left of a principal.

        Raises:
            RefusedError: nothing.
            UnavailableError: it is not known what was taken back.
        """
        since_ms = self._feed.stale_since_ms
        if since_ms is not None and self._unix_s() - since_ms / 1000 > self._unverified_max_s:
            raise UnavailableError("revocations", "the database is away for too long")
        if not self.is_ready:
            raise UnavailableError("revocations", "they were not read yet")
        left = shrink(principal, self._known_of(principal))
        if left is None:
            raise RefusedError(Reason.REVOKED, "the token was taken back")
        return left

    def watch(self, principal: Principal, changed: Changed) -> Watch:
        """Hear of it when a principal shrinks, until the watch is closed.

        A revocation between `check` and `watch` isn't missed when nothing awaits in between.

        Args:
            principal: As `check` returned it.
            changed: Told what is left.
        """
        watch = Watch(self._watches, principal, changed)
        self._watches.add(watch)
        return watch

    def _known_of(self, principal: Principal) -> list[Revoked]:
        known = self._by_subject.get(principal.subject, [])
        one = self._by_token.get(principal.token_id) if principal.token_id else None
        return known if one is None else [one, *known]

    # Hearing of them

    async def wait_ready(self) -> None:
        """Wait until the rows were read. Cancel-safe."""
        await self._ready.wait()

    async def run(self) -> None:
        """Follow the channel until cancelled."""
        while True:
            self._lost.clear()
            self._meanwhile = []
            try:
                if REVOCATIONS not in self._feed.channels_of(self):
                    await self._feed.subscribe(self, {REVOCATIONS: None}, _accept)
                self._take_all(await self._rows.read_all())
            except (UnavailableError, UnknownChannelError) as error:
                self._log.warning("revocations cannot be read", reason=str(error))
                await asyncio.sleep(RETRY_S)
                continue
            await self._until_lost()

    async def _until_lost(self) -> None:
        while not self._lost.is_set():
            try:
                async with asyncio.timeout(SWEEP_S):
                    await self._lost.wait()
            except TimeoutError:
                self._forget_ended()

    def _take_all(self, rows: Sequence[Revoked]) -> None:
        self._by_subject, self._by_token = {}, {}
        self._ready.set()
        # What was heard of while they were read may be missing among them.
        meanwhile, self._meanwhile = self._meanwhile or [], None
        for revoked in (*rows, *meanwhile):
            self._take(revoked)

    def take(self, revoked: Revoked) -> None:
        """Take one that was committed, also before the channel brings it. Never awaits."""
        self._take(revoked)
        if self._meanwhile is not None:
            self._meanwhile.append(revoked)

    def _take(self, revoked: Revoked) -> None:
        if revoked.until_ms <= self._unix_s() * 1000:
            return
        self.version += 1
        if revoked.jti is not None:
            self._by_token[revoked.jti] = revoked
        else:
            known = self._by_subject.setdefault(revoked.sub or "", [])
            # A later one over the same zones, or over all, makes those before it pointless.
            known[:] = [one for one in known if not _covers(revoked, one)]
            known.append(revoked)
        self._watches.tell(revoked)

    def _forget_ended(self) -> None:
        now_ms = self._unix_s() * 1000
        alive = {s: [r for r in rs if r.until_ms > now_ms] for s, rs in self._by_subject.items()}
        self._by_subject = {subject: known for subject, known in alive.items() if known}
        self._by_token = {t: r for t, r in self._by_token.items() if r.until_ms > now_ms}

    # The subscriber of the channel

    @property
    def codec(self) -> _Plain:
        """Changes as they are."""
        return _PLAIN

    @property
    def congested(self) -> bool:
        """Never: what is delivered is taken at once."""
        return False

    def deliver(self, frame: Sequence[Change]) -> None:
        """Take changes of the channel."""
        for change in frame:
            for event in change.events:
                if isinstance(event, Revoked):
                    self.take(event)

    def end_channel(self, _channel: str, _reason: EndReason) -> None:
        """Read everything anew."""
        self._lost.set()

    def tell_staleness(self, _since_ms: int | None) -> None:
        """Do nothing: `check` asks the feed."""

    def cut(self) -> None:
        """Do nothing: it never lags behind."""


_PLAIN: Final = _Plain()


def _accept(_starts: Sequence[Start]) -> bool:
    return True


def _covers(later: Revoked, earlier: Revoked) -> bool:
    if later.at_ms < earlier.at_ms:
        return False
    return later.zones is None or later.zones == earlier.zones
