"""Minting: tokens for development, signed with the node's secret or with a private key."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from realtime.auth.keys import (
    HS256,
    KEY_FILE_MAX_BYTES,
    UnusableKeyError,
    public_key,
    secret_key,
)
from realtime.auth.principal import Principal, Scope

_TTL: Final = re.compile(r"([0-9]{1,9})(s|m|h|d)")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}

PrivateKey = RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey


@dataclass(frozen=True, slots=True)
class Signer:
    """What signs tokens.

    Attributes:
        algorithm: The `alg`.
        material: The secret or private key.
        key_id: The `kid`, empty for none.
    """

    algorithm: str
    material: bytes | PrivateKey
    key_id: str = ""

    def sign(self, claims: dict[str, Any]) -> str:
        """Make a token."""
        headers = {"kid": self.key_id} if self.key_id else None
        return jwt.encode(claims, self.material, self.algorithm, headers)


def signer_of_secret(secret: str) -> Signer:
    """Make the signer of HS256.

    Raises:
        UnusableKeyError: the secret is too short.
    """
    return Signer(HS256, _checked(secret.encode()))


def _checked(secret: bytes) -> bytes:
    secret_key(secret)
    return secret


def signer_of_file(path: Path, key_id: str = "") -> Signer:
    """Make the signer of a private key in PEM, without a password.

    Raises:
        UnusableKeyError: it can't be used.
    """
    try:
        with path.open("rb") as file:
            text = file.read(KEY_FILE_MAX_BYTES)
        key = load_pem_private_key(text, password=None)
    except OSError as error:
        raise UnusableKeyError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise UnusableKeyError(f"{path}: is no private key in PEM without a password") from None
    if not isinstance(key, RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey):
        raise UnusableKeyError(f"{path}: must be an RSA, EC (P-256) or Ed25519 key")
    return Signer(public_key(key.public_key()).algorithm, key, key_id)


def parse_ttl(text: str) -> int:
    """Read a duration such as `90s`, `15m`, `1h` or `7d`; return seconds.

    Raises:
        ValueError: it is none.
    """
    match = _TTL.fullmatch(text)
    if match is None or int(match[1]) == 0:
        raise ValueError(f"not a duration such as 90s, 15m, 1h or 7d: {text[:40]}")
    return int(match[1]) * _SECONDS[match[2]]


def claims_of(
    *,
    subject: str,
    zones: Sequence[str],
    scope: str,
    ttl_s: int,
    now_s: float,
    audience: str = "",
    issuer: str = "",
) -> dict[str, Any]:
    """Make the claims of a token; each has an id of its own, by which it can be taken back."""
    claims: dict[str, Any] = {
        "sub": subject,
        "iat": int(now_s),
        "exp": int(now_s) + ttl_s,
        "jti": secrets.token_hex(8),
        "zones": list(zones),
        "scope": scope,
    }
    if audience:
        claims["aud"] = audience
    if issuer:
        claims["iss"] = issuer
    return claims


def explain(principal: Principal) -> list[str]:
    """Say in words what a token grants, a line each."""
    zones = ", ".join(principal.zones.granted.patterns) or "no zone"
    if principal.zones.has_all:
        zones = "all zones, the list of zones, and users in no zone"
    does = {
        Scope.READ: f"read   see and watch {zones}",
        Scope.WRITE: f"write  change {zones}, and users in them",
        Scope.ADMIN: "admin  look at nodes and steer them, take tokens back",
    }
    lines = [does[scope] for scope in Scope if scope in principal.scopes]
    return lines or ["nothing: no scope of read, write, admin"]
