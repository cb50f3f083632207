"""Watches: principals that are in use, and what is left of them when something is taken back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from channels.events import Revoked
from channels.zone_grants import ZonePatterns
from realtime.auth.principal import Principal

Changed = Callable[[Principal | None], None]
"""Told of a watched principal what is left of it: fewer zones, or `None`: nothing. Synchronous,
quick, never raises."""


def shrink(principal: Principal, revocations: Sequence[Revoked]) -> Principal | None:
    """Return what revocations leave of a principal; `None`: nothing. Pure.

    Those of a subject meet tokens issued until then. `iat` has whole seconds: who was issued
    a token in the very second of the revocation gets another one in the next.
    """
    for revoked in revocations:
        if revoked.jti is not None:
            if revoked.jti == principal.token_id:
                return None
        elif revoked.sub == principal.subject and principal.issued_at_s * 1000 <= revoked.at_ms:
            if revoked.zones is None:
                return None
            principal = principal.without(ZonePatterns.parse(revoked.zones))
    return principal


class Watch:
    """One principal that is in use, by a connection that has to hear when it shrinks."""

    __slots__ = ("_changed", "_watches", "is_closed", "principal")

    def __init__(self, watches: Watches, principal: Principal, changed: Changed) -> None:
        self._watches = watches
        self._changed = changed
        self.principal = principal
        self.is_closed = False

    def update(self, principal: Principal) -> None:
        """Watch another principal from now on: the token was refreshed."""
        self._watches.remove(self)
        self.principal = principal
        self._watches.add(self)

    def close(self) -> None:
        """Watch no longer. May be called twice, also from within `changed`."""
        self.is_closed = True
        self._watches.remove(self)

    def check(self, revoked: Revoked) -> None:
        """Look whether a revocation meets the principal, and tell."""
        left = shrink(self.principal, (revoked,))
        if left is None:
            self.close()
            self._changed(None)
        elif left != self.principal:
            self.principal = left
            self._changed(left)


class Watches:
    """The watches of a node, found by subject and by token, as revocations name them.

    Most subjects have one connection, so a set is made only for the second. Those of equal
    principals share one.
    """

    def __init__(self) -> None:
        self._by_subject: _Index = {}
        self._by_token: _Index = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, watch: Watch) -> None:
        """Keep a watch, which was not kept before."""
        principal = watch.principal
        other = next(iter(_found(self._by_subject, principal.subject)), None)
        if other is not None and other.principal == principal:
            watch.principal = principal = other.principal
        _add(self._by_subject, principal.subject, watch)
        if principal.token_id:
            _add(self._by_token, principal.token_id, watch)
        self._count += 1

    def remove(self, watch: Watch) -> None:
        """Drop a watch; unknown ones are ignored."""
        principal = watch.principal
        if _remove(self._by_subject, principal.subject, watch):
            self._count -= 1
        _remove(self._by_token, principal.token_id, watch)

    def tell(self, revoked: Revoked) -> None:
        """Let the principals that a revocation may meet look at it."""
        if revoked.jti is not None:
            met = _found(self._by_token, revoked.jti)
        else:
            met = _found(self._by_subject, revoked.sub or "")
        for watch in tuple(met):
            # Telling one may have ended others.
            if not watch.is_closed:
                watch.check(revoked)


_Index = dict[str, Watch | set[Watch]]


def _found(index: _Index, key: str) -> Collection[Watch]:
    found = index.get(key, ())
    return (found,) if isinstance(found, Watch) else found


def _add(index: _Index, key: str, watch: Watch) -> None:
    found = index.setdefault(key, watch)
    if isinstance(found, set):
        found.add(watch)
    elif found is not watch:
        index[key] = {found, watch}


def _remove(index: _Index, key: str, watch: Watch) -> bool:
    found = index.get(key)
    if isinstance(found, set) and watch in found:
        found.discard(watch)
        if not found:
            del index[key]
        return True
    if found is watch:
        del index[key]
        return True
    return False
