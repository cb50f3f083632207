"""Signing keys of tests: made once, as RSA keys take their time."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True)
class SigningKey:
    """A key pair with its algorithm."""

    algorithm: str
    private: PrivateKey

    @property
    def public_pem(self) -> bytes:
        """The public half as PEM."""
        return self.private.public_key().public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )

    @property
    def private_pem(self) -> bytes:
        """The private half as PEM."""
        return self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def sign(self, claims: dict[str, Any], key_id: str = "") -> str:
        """Make a token."""
        headers = {"kid": key_id} if key_id else None
        return jwt.encode(claims, self.private, self.algorithm, headers)

    def jwk(self, key_id: str, **more: Any) -> dict[str, Any]:
        """The public half as a JWK."""
        public = self.private.public_key()
        match public:
            case rsa.RSAPublicKey():
                found = RSAAlgorithm.to_jwk(public, as_dict=True)
            case ec.EllipticCurvePublicKey():
                found = ECAlgorithm.to_jwk(public, as_dict=True)
            case _:
                found = OKPAlgorithm.to_jwk(public, as_dict=True)
        return {**found, "kid": key_id, "alg": self.algorithm, "use": "sig", **more}


@cache
def key_of(algorithm: str, number: int = 0) -> SigningKey:
    """Return a key for `RS256`, `ES256` or `EdDSA`; another one for each number."""
    del number
    private: PrivateKey
    match algorithm:
        case "RS256":
            private = rsa.generate_private_key(65_537, 2_048)
        case "ES256":
            private = ec.generate_private_key(ec.SECP256R1())
        case _:
            private = ed25519.Ed25519PrivateKey.generate()
    return SigningKey(algorithm, private)


def secret_jwk(secret: bytes, key_id: str) -> dict[str, Any]:
    """A symmetric key as a JWK, which has no business at a public address."""
    value = base64.urlsafe_b64encode(secret).rstrip(b"=").decode()
    return {"kty": "oct", "k": value, "kid": key_id, "alg": "HS256"}
