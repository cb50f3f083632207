"""Watches: principals that are in use, and what is left of them when something is taken back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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

    __slots__ = ("_changed", "_watches", "principal")

    def __init__(self, watches: Watches, principal: Principal, changed: Changed) -> None:
        self._watches = watches
        self._changed = changed
        self.principal = principal

    def update(self, principal: Principal) -> None:
        """Watch another principal from now on: the token was refreshed."""
        self._watches.remove(self)
        self.principal = principal
        self._watches.add(self)

    def close(self) -> None:
        """Watch no longer. May be called twice, also from within `changed`."""
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
    """The watches of a node, found by subject and by token, as revocations name them."""

    def __init__(self) -> None:
        self._by_subject: dict[str, set[Watch]] = {}
        self._by_token: dict[str, set[Watch]] = {}

    def __len__(self) -> int:
        return sum(len(watches) for watches in self._by_subject.values())

    def add(self, watch: Watch) -> None:
        """Keep a watch."""
        principal = watch.principal
        self._by_subject.setdefault(principal.subject, set()).add(watch)
        if principal.token_id:
            self._by_token.setdefault(principal.token_id, set()).add(watch)

    def remove(self, watch: Watch) -> None:
        """Drop a watch; unknown ones are ignored."""
        principal = watch.principal
        for index, key in (
            (self._by_subject, principal.subject),
            (self._by_token, principal.token_id),
        ):
            found = index.get(key)
            if found is not None:
                found.discard(watch)
                if not found:
                    del index[key]

    def tell(self, revoked: Revoked) -> None:
        """Let the principals that a revocation may meet look at it."""
        if revoked.jti is not None:
            met = self._by_token.get(revoked.jti)
        else:
            met = self._by_subject.get(revoked.sub or "")
        for watch in list(met or ()):
            watch.check(revoked)
