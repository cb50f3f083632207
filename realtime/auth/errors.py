"""Refusals: why somebody is not let in, or may not do something.

AuthError
 ├── RefusedError     no valid token: HTTP 401, WebSocket 3500 or 101/109
 └── ForbiddenError   a valid token that doesn't grant it: HTTP 403, WebSocket 103
"""

from __future__ import annotations

from enum import Enum


class Reason(Enum):
    """Why there is no principal. The values are labels of a metric, and told to the client."""

    MISSING = "missing"
    """Nothing was given that could tell who it is."""
    MALFORMED = "malformed"
    """Not a token at all, or too large for one."""
    ALGORITHM = "algorithm"
    """Signed in a way that no key of this node is for."""
    UNKNOWN_KEY = "unknown_key"
    """Names a key that this node doesn't have, and that its URL doesn't have either."""
    SIGNATURE = "signature"
    """Not signed by the key that it should be signed by."""
    EXPIRED = "expired"
    """Its `exp` is over."""
    NOT_YET = "not_yet"
    """Its `nbf` or `iat` is still to come."""
    AUDIENCE = "audience"
    """Made for another service, or for this one and not saying so."""
    ISSUER = "issuer"
    """Made by somebody else than the settings say."""
    CLAIMS = "claims"
    """Claims are missing, or of the wrong kind, or it lives longer than a token may."""
    REVOKED = "revoked"
    """It was taken back."""
    TICKET = "ticket"
    """A ticket that was used, is too old, or never was one."""
    ORIGIN = "origin"
    """A cookie sent by a page of another origin."""
    NOT_HERE = "not_here"
    """A token where none is accepted, such as in a URL."""


class AuthError(Exception):
    """The root of all refusals. Messages are one line and hold no part of a token."""


class RefusedError(AuthError):
    """There is no valid token.

    Attributes:
        reason: Why.
        detail: The same in words, for the client; no secrets.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class ForbiddenError(AuthError):
    """The token is valid and doesn't grant this.

    Attributes:
        action: What was to be done.
        scope: The scope that it needs.
        detail: In words, for the client.
    """

    def __init__(self, action: str, scope: str, detail: str) -> None:
        super().__init__(detail)
        self.action = action
        self.scope = scope
        self.detail = detail
