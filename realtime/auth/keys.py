"""Keys: what tokens are checked with, each bound to its algorithm.

The algorithm is the key's, never the token's: a token signed by HMAC with a public key, or by
`none`, finds no key to be checked with.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate
from jwt import PyJWK
from jwt.exceptions import PyJWTError

SECRET_MIN_BYTES: Final = 32
"""As long as the output of SHA-256 (RFC 7518, section 3.2)."""
RSA_MIN_BITS: Final = 2_048
KEY_FILE_MAX_BYTES: Final = 262_144
MAX_KEYS: Final = 64
KEY_ID_MAX_CHARS: Final = 255

HS256: Final = "HS256"
RS256: Final = "RS256"
ES256: Final = "ES256"
EDDSA: Final = "EdDSA"

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey

_PEM: Final = re.compile(
    rb"-----BEGIN (PUBLIC KEY|RSA PUBLIC KEY|CERTIFICATE)-----.+?-----END \1-----", re.S
)


class UnusableKeyError(Exception):
    """A key that can't be used; the message says why, in one line without the key."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key with the one algorithm that it is for.

    Attributes:
        algorithm: The `alg` that a token must have.
        material: What checks the signature.
        key_id: The `kid`; empty when the key has none.
    """

    algorithm: str
    material: bytes | PublicKey = field(repr=False)
    key_id: str = ""


def secret_key(secret: bytes) -> Key:
    """Make the key for HS256.

    Raises:
        UnusableKeyError: it is too short to resist guessing.
    """
    if len(secret) < SECRET_MIN_BYTES:
        raise UnusableKeyError(f"must have at least {SECRET_MIN_BYTES} bytes, better random ones")
    return Key(HS256, secret)


def public_key(material: object, key_id: str = "") -> Key:
    """Make the key for a public key, whose kind says the algorithm.

    Raises:
        UnusableKeyError: it is of another kind, or too short.
    """
    match material:
        case RSAPublicKey():
            if material.key_size < RSA_MIN_BITS:
                raise UnusableKeyError(f"an RSA key must have at least {RSA_MIN_BITS} bits")
            return Key(RS256, material, key_id)
        case EllipticCurvePublicKey():
            if not isinstance(material.curve, SECP256R1):
                raise UnusableKeyError(f"an EC key must be on P-256, not {material.curve.name}")
            return Key(ES256, material, key_id)
        case Ed25519PublicKey():
            return Key(EDDSA, material, key_id)
        case _:
            raise UnusableKeyError("must be an RSA, EC (P-256) or Ed25519 public key")


def read_public_keys(path: Path) -> tuple[Key, ...]:
    """Read the public keys or certificates of a PEM file; several, while one replaces another.

    Blocks: it is called before the event loop runs, or in a thread.

    Raises:
        UnusableKeyError: there are none, or one can't be used.
    """
    try:
        with path.open("rb") as file:
            text = file.read(KEY_FILE_MAX_BYTES + 1)
    except OSError as error:
        raise UnusableKeyError(f"cannot be read: {error.strerror}") from error
    if len(text) > KEY_FILE_MAX_BYTES:
        raise UnusableKeyError(f"is larger than {KEY_FILE_MAX_BYTES} bytes")
    if b"PRIVATE KEY-----" in text:
        raise UnusableKeyError("holds a private key; a node needs the public one only")
    blocks = list(_PEM.finditer(text))
    if not 0 < len(blocks) <= MAX_KEYS:
        raise UnusableKeyError(f"must hold 1 to {MAX_KEYS} public keys or certificates in PEM")
    return tuple(_read_pem(block[0], is_certificate=block[1] == b"CERTIFICATE") for block in blocks)


def _read_pem(block: bytes, *, is_certificate: bool) -> Key:
    try:
        if is_certificate:
            return public_key(load_pem_x509_certificate(block).public_key())
        return public_key(load_pem_public_key(block))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UnusableKeyError("holds a block that is no public key") from error


def keys_of_jwks(document: Any) -> tuple[Key, ...]:
    """Make keys from a JWK set (RFC 7517). What is not for checking our tokens is left out:

    symmetric keys, which have no business at a public address, keys for encryption, and kinds
    that this service doesn't know.

    Raises:
        UnusableKeyError: it is no JWK set.
    """
    members = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(members, list) or len(members) > MAX_KEYS:
        raise UnusableKeyError(f"must be a JWK set of at most {MAX_KEYS} keys")
    found = (_key_of_jwk(member) for member in members if isinstance(member, dict))
    return tuple(key for key in found if key is not None)


def _key_of_jwk(member: dict[str, Any]) -> Key | None:
    if member.get("kty") not in {"RSA", "EC", "OKP"} or member.get("use", "sig") != "sig":
        return None
    key_id = member.get("kid", "")
    if not isinstance(key_id, str) or len(key_id) > KEY_ID_MAX_CHARS:
        return None
    try:
        key = public_key(PyJWK(member).key, key_id)
    except (UnusableKeyError, PyJWTError, ValueError, TypeError):
        return None
    return key if member.get("alg", key.algorithm) == key.algorithm else None


def candidates(keys: Sequence[Key], algorithm: str, key_id: str) -> list[Key]:
    """Return the keys that a token with this `alg` and `kid` may be checked with.

    A key without an id is for any token; one with an id only for tokens that name it, or that
    name none.
    """
    return [
        key
        for key in keys
        if key.algorithm == algorithm and (not key_id or key.key_id in {"", key_id})
    ]
