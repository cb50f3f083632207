"""The minter: tokens of every kind for tests, and a node's settings to go with them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import jwt

SECRET = "a secret of the tests, long enough to be one"  # noqa: S105 - of tests
OTHER_SECRET = "another secret that no node of the tests knows"  # noqa: S105 - of tests
AUDIENCE = "zonecast-tests"
ISSUER = "https://issuer.example"


@dataclass
class Minter:
    """Makes tokens that a node with `settings()` takes.

    Attributes:
        secret: What signs them.
        audience: Their `aud`.
        issuer: Their `iss`.
    """

    secret: str = SECRET
    audience: str = AUDIENCE
    issuer: str = ISSUER
    headers: dict[str, Any] = field(default_factory=dict)

    def settings(self) -> dict[str, object]:
        """Settings of a node that takes these tokens."""
        return {
            "jwt_secret": self.secret,
            "jwt_audience": self.audience,
            "jwt_issuer": self.issuer,
            "session_cookie_secure": False,
        }

    def claims(self, **changed: Any) -> dict[str, Any]:
        """Claims of a token that is valid now; those changed to `None` are left out."""
        now_s = int(time.time())
        claims: dict[str, Any] = {
            "sub": "ada",
            "iat": now_s,
            "exp": now_s + 600,
            "aud": self.audience,
            "iss": self.issuer,
            **changed,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, **changed: Any) -> str:
        """Make a token."""
        return jwt.encode(self.claims(**changed), self.secret, "HS256", self.headers or None)

    def header(self, **changed: Any) -> dict[str, str]:
        """Make a token, in the header that shows it."""
        return bearer(self.token(**changed))


def bearer(token: str) -> dict[str, str]:
    """Return the header that shows a token."""
    return {"Authorization": f"Bearer {token}"}
