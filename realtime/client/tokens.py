"""Tokens: given once, or asked for whenever one is needed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

TokenSource = Callable[[], Awaitable[str]]
Token = str | TokenSource
"""A token, or an async function that returns one which is good now.

The function is called for each connection and before a token ends. Its errors count as a failed
attempt, which is made again; `PermissionError` ends the watch.
"""

RENEW_PART: Final = 0.1
"""The part of a token's life before whose end a new one is asked for."""
RENEW_MAX_S: Final = 20.0
RENEW_MIN_S: Final = 1.0


class Tokens:
    """Where a watch has its tokens from. A token never shows in `repr` or in errors."""

    def __init__(self, token: Token | None) -> None:
        self._token = token

    def __repr__(self) -> str:
        kind = "no token" if self._token is None else "one token"
        return f"<Tokens {'from a function' if self.can_renew else kind}>"

    @property
    def can_renew(self) -> bool:
        """Whether another token is to be had when one has ended."""
        return callable(self._token)

    async def take(self) -> str | None:
        """Return a token that is good now; `None`: none is used."""
        if self._token is None or isinstance(self._token, str):
            return self._token
        return await self._token()


def renew_after_s(ttl_s: float) -> float:
    """Return how long to wait before a token with so much life left is renewed."""
    return max(RENEW_MIN_S, ttl_s - min(RENEW_MAX_S, ttl_s * RENEW_PART))
